//! One event with its attempts and its body.

use std::time::SystemTime;

use serde_json::Value;

use super::super::event::{Attempt, Event, RouteResult, Text};
use super::super::inspector::{Details, RequestError};
use crate::output::duration;

/// The maximum bytes of a body on the screen.
const MAX_BODY: usize = 256 << 10;

/// The open event.
pub(super) struct Detail {
    pub(super) id: u64,
    pub(super) content: Content,
    /// The number of lines above the screen.
    pub(super) offset: usize,
    /// The number of lines on the screen, at the last drawing.
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

/// Returns the body with indentation, if that keeps each value as it was received.
fn pretty(body: &str) -> String {
    let mut end = body.len().min(MAX_BODY);
    while !body.is_char_boundary(end) {
        end -= 1;
    }
    if end < body.len() {
        let rest = body.len() - end;
        return format!("{}\n({rest} more bytes)", &body[..end]);
    }
    let value: Option<Value> = serde_json::from_str(body).ok();
    let same = value.filter(|value| serde_json::to_string(value).is_ok_and(|text| text == body));
    let pretty = same.and_then(|value| serde_json::to_string_pretty(&value).ok());
    pretty.unwrap_or_else(|| body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indentation_keeps_the_values() {
        assert_eq!(pretty("{\"a\":[1]}"), "{\n  \"a\": [\n    1\n  ]\n}");
        for exact in [
            "{\"a\":1.50}",
            "{\"a\":1e400}",
            "not JSON",
            "{\"a\":1,\"a\":2}",
        ] {
            assert_eq!(pretty(exact), exact);
        }
        let long = "é".repeat(MAX_BODY);
        assert!(pretty(&long).ends_with("more bytes)"));
    }
}
