//! One line for each change, for scripts and logs.

use std::time::Instant;

use anstyle::Style;
use serde_json::json;
use tokio::sync::mpsc;

use super::event::Event;
use super::follow::Update;
use super::list::{Differences, EventList};
use crate::failure::{Failure, Success};
use crate::output::{BAD, FAINT, GOOD, Output, WARNING, styled};

/// When the command ends, and the events that it skips.
pub(super) struct Limits {
    /// The number of events to print.
    pub(super) count: Option<u64>,
    pub(super) end: Option<Instant>,
    /// End after the list.
    pub(super) once: bool,
    /// Don't print the events of the first list.
    pub(super) only_new: bool,
}

struct Printer<'a> {
    output: &'a Output,
    list: EventList,
    /// The number of events that may still be printed.
    left: Option<u64>,
}

/// Prints each change until a limit is reached.
pub(super) async fn run(
    mut updates: mpsc::Receiver<Update>,
    limits: &Limits,
    output: &Output,
) -> Result<Success, Failure> {
    let mut printer = Printer {
        output,
        list: EventList::default(),
        left: limits.count,
    };
    let mut is_first = true;
    let mut is_disconnected = false;
    while printer.left != Some(0) && !output.is_closed() {
        let update = tokio::select! {
            update = updates.recv() => update,
            () = until(limits.end) => return Ok(Success::Good),
        };
        match update {
            None => return Ok(Success::Good),
            Some(Update::Failed(error)) => return Err(error.into_failure()),
            Some(Update::BadFilter(text)) => return Err(Failure::usage(text)),
            Some(Update::Trouble(Some(text))) => {
                output.warning(format_args!("the server can't read its inbox: {text}"));
            }
            Some(Update::Trouble(None)) => output.note("the server can read its inbox again"),
            Some(Update::Disconnected { reason, .. }) => {
                if !is_disconnected {
                    output.warning(format_args!("disconnected: {reason}; connecting again"));
                }
                is_disconnected = true;
            }
            Some(Update::Listed(_, changes)) => {
                if std::mem::take(&mut is_disconnected) {
                    output.note("connected again");
                }
                let differences = printer.list.apply(changes);
                if !(std::mem::take(&mut is_first) && limits.only_new) {
                    printer.print(&differences);
                }
                if limits.once {
                    return Ok(Success::Good);
                }
            }
            Some(Update::Changed(changes)) => {
                let differences = printer.list.apply(changes);
                printer.print(&differences);
            }
        }
    }
    Ok(Success::Good)
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end.into()).await,
        None => std::future::pending().await,
    }
}

impl Printer<'_> {
    fn print(&mut self, differences: &Differences) {
        for id in &differences.changed {
            if self.left == Some(0) {
                return;
            }
            let (Some(event), Some(value)) = (self.list.get(*id), self.list.value(*id)) else {
                continue;
            };
            self.output.line(line(event));
            self.output.json(&json!({ "event": value }));
            self.left = self.left.map(|left| left - 1);
        }
        for id in &differences.gone {
            self.output.line(styled(
                FAINT,
                format_args!("event {id} no longer matches, or has left the inbox"),
            ));
            self.output.json(&json!({ "gone": id }));
        }
    }
}

/// Returns an event on one line.
fn line(event: &Event) -> String {
    let received = humantime::format_rfc3339_seconds(event.received_at());
    let state = styled(style(&event.state), format_args!("{:<9}", event.state));
    let attempts = match event.attempts {
        1 => "1 attempt".to_owned(),
        attempts => format!("{attempts} attempts"),
    };
    let line = format!(
        "{} {:>6} {state} {} {} {attempts} {}",
        styled(FAINT, received),
        event.id,
        event.event_type(),
        styled(FAINT, &event.message_id),
        event.result(),
    );
    line.trim_end().to_owned()
}

fn style(state: &str) -> Style {
    match state {
        "handled" => GOOD,
        "dead" => BAD,
        "retrying" => WARNING,
        _ => FAINT,
    }
}
