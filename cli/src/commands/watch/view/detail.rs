//! One event with its attempts and its body.

use std::time::SystemTime;

use serde::de::IgnoredAny;

use super::super::event::{Attempt, Event, RouteResult, Text};
use super::super::inspector::{Details, RequestError};
use crate::output::duration;

/// The maximum size of a body on the screen, in bytes.
const MAX_BODY: usize = 256 << 10;

/// The open event.
pub(super) struct Detail {
    pub(super) id: u64,
    pub(super) content: Content,
    /// The number of lines above the screen.
    pub(super) offset: usize,
    /// The number of lines on the screen when it was last drawn.
    pub(super) height: usize,
}

pub(super) enum Content {
    Loading,
    Lines(Vec<Line>),
    Failed(Text),
}

/// A line before it is wrapped.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) text: Text,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    Heading,
    Good,
    Bad,
}

impl Detail {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            content: Content::Loading,
            offset: 0,
            height: 1,
        }
    }

    pub(super) fn load(&mut self, details: Result<Details, RequestError>) {
        self.content = match details {
            Err(error) => Content::Failed(Text::new(error.text())),
            Ok(details) => match Event::read(&details.event) {
                None => Content::Failed(Text::new("the server's answer isn't an event")),
                Some(event) => Content::Lines(lines(&event, details.body.as_deref())),
            },
        };
    }
}

fn lines(event: &Event, body: Option<&str>) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut push = |kind, text: String| {
        let text = Text::new(&text);
        lines.push(Line { kind, text });
    };
    push(Kind::Heading, event.event_type().to_owned());
    push(Kind::Plain, format!("message id  {}", event.message_id));
    push(Kind::Plain, format!("number      {}", event.id));
    push(Kind::Plain, format!("state       {}", event.state));
    push(
        Kind::Plain,
        format!("received    {}", at(event.received_at())),
    );
    if let Some(ended) = event.ended_at() {
        push(Kind::Plain, format!("ended       {}", at(ended)));
    }
    if let Some(cause) = &event.cause {
        push(Kind::Bad, format!("cause       {cause}"));
    }
    push(Kind::Heading, "Routes".to_owned());
    if event.routes.is_empty() {
        push(Kind::Plain, "  no route has ended".to_owned());
    }
    for result in &event.routes {
        push(kind(result), format!("  {}", shown(result)));
    }
    push(Kind::Heading, format!("Attempts: {}", event.attempts));
    for attempt in &event.history {
        push(Kind::Plain, format!("  {}", ran(attempt)));
        for result in &attempt.routes {
            push(kind(result), format!("    {}", shown(result)));
        }
    }
    push(Kind::Heading, "Payload".to_owned());
    match body {
        None => push(
            Kind::Plain,
            "  hidden: the inspector shows payloads to operators".to_owned(),
        ),
        Some(body) => {
            for line in pretty(body).lines() {
                push(Kind::Plain, line.replace('\t', "  "));
            }
        }
    }
    lines
}

fn kind(result: &RouteResult) -> Kind {
    match result.reason {
        None => Kind::Good,
        Some(_) => Kind::Bad,
    }
}

fn shown(result: &RouteResult) -> String {
    let reason = result.reason.as_deref().unwrap_or("handled");
    format!("{}: {reason}", result.route)
}

fn ran(attempt: &Attempt) -> String {
    format!(
        "attempt {} at {}, ran for {}",
        attempt.number,
        at(attempt.started_at()),
        duration(attempt.duration())
    )
}

fn at(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// Returns valid JSON with one member or element per line, and other text as it is.
fn pretty(body: &str) -> String {
    let mut end = body.len().min(MAX_BODY);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    if end < body.len() {
        let rest = body.len() - end;
        return format!("{}\n({rest} more bytes)", &body[..end]);
    }
    match serde_json::from_str::<IgnoredAny>(body) {
        Ok(_) => indented(body),
        Err(_) => body.to_owned(),
    }
}

/// Breaks the lines of valid JSON. Strings and numbers stay as they were received.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    let line = |text: &mut String, depth: usize| {
        text.push('\n');
        // Deep nesting must not multiply the length.
        text.extend(std::iter::repeat_n("  ", depth.min(16)));
    };
    for c in json.chars() {
        if in_string {
            in_string = c != '"' || is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            text.push(c);
            continue;
        }
        match c {
            c if c.is_ascii_whitespace() => {}
            '{' | '[' => {
                depth += 1;
                text.push(c);
                line(&mut text, depth);
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                // Nothing stands between the brackets of an empty object.
                match text.trim_end().ends_with(['{', '[']) {
                    true => text.truncate(text.trim_end().len()),
                    false => line(&mut text, depth),
                }
                text.push(c);
            }
            ',' => {
                text.push(c);
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            c => {
                in_string = c == '"';
                text.push(c);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indentation_keeps_the_values() {
        let json = "{\"a\":[1.50,{}, [ ] ,\"x\\\"y, z[\"],\"a\":1e400}";
        let wanted = "{\n  \"a\": [\n    1.50,\n    {},\n    [],\n    \"x\\\"y, z[\"\n  ],\n  \"a\": 1e400\n}";
        assert_eq!(pretty(json), wanted);
        assert_eq!(pretty(wanted), wanted);
        assert_eq!(pretty("not {JSON"), "not {JSON");
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(pretty(&deep).len() < 50 * deep.len());
        let long = "é".repeat(MAX_BODY);
        assert!(pretty(&long).ends_with("more bytes)"));
    }
}
