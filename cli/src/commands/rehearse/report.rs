//! The transcript and the summary.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::model::{Answer, Loss, Warning};
use super::rehearsal::{Line, Outcome, Rehearsal};
use crate::output::{BAD, FAINT, GOOD, Output, STRONG, WARNING, styled};

/// An event that is delivered later than this is counted as late.
const LATE: Duration = Duration::from_secs(60);

/// Writes a virtual time as `2d 03:04:05`.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, seconds) = (seconds / 86400, seconds % 86400);
    format!(
        "{days}d {:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// Writes a duration in whole seconds, for example `1h 2m`.
fn span(time: Duration) -> String {
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

fn answer_text(answer: Answer) -> String {
    match answer {
        Answer::Status(status) => status.to_string(),
        Answer::Timeout => "timeout".to_owned(),
        Answer::Unreachable => "no connection".to_owned(),
    }
}

/// Prints a line of the transcript.
pub(super) fn line(line: &Line, rehearsal: &Rehearsal<'_>, quiet: bool, output: &Output) {
    let (at, text, json) = match line {
        Line::Attempt {
            at,
            event,
            attempt,
            is_copy,
            answer,
            outcome,
        } => {
            let event = &rehearsal.events[*event];
            let (style, name) = match outcome {
                Outcome::Delivered => (GOOD, "delivered"),
                Outcome::DeliveredAgain => (GOOD, "delivered again"),
                Outcome::CopyRefused => (FAINT, "copy not accepted"),
                Outcome::RetryAt(_) => (WARNING, "retry"),
                Outcome::Lost(_) => (BAD, "LOST"),
            };
            let details = match outcome {
                Outcome::RetryAt(retry) => format!(" in {}", span(retry.saturating_sub(*at))),
                Outcome::Lost(loss) => format!(": {}", loss.text()),
                _ => String::new(),
            };
            let attempt_text = match (attempt, is_copy) {
                (1, false) => String::new(),
                (1, true) => " copy".to_owned(),
                (attempt, _) => format!(" attempt {attempt}"),
            };
            let text = format!(
                "{:<14} {style}{name}{style:#}{details}  #{} {}{}",
                answer_text(*answer),
                event.number,
                event.event_type,
                styled(FAINT, attempt_text),
            );
            let json = json!({
                "at_seconds": at.as_secs_f64(),
                "event": event.number,
                "event_type": event.event_type,
                "attempt": attempt,
                "copy": is_copy,
                "answer": answer_text(*answer),
                "outcome": name.to_lowercase(),
            });
            (at, text, json)
        }
        Line::Warning { at, warning } => {
            let text = match warning {
                Warning::Emailed => "The sender sends an e-mail about the failing endpoint.",
                Warning::Disabled => "The sender disables the endpoint.",
            };
            (
                at,
                styled(BAD, text),
                json!({ "at_seconds": at.as_secs_f64(), "warning": text }),
            )
        }
        Line::Restart { at } => {
            let text = "Restart the endpoint now.";
            (
                at,
                styled(STRONG, text),
                json!({ "at_seconds": at.as_secs_f64(), "restart": true }),
            )
        }
    };
    let is_attempt = matches!(line, Line::Attempt { .. });
    if !(quiet && is_attempt) {
        output.line(format_args!("{}  {text}", styled(FAINT, clock(*at))));
        output.json(&json);
    }
}

/// The numbers at the end of a rehearsal.
pub(super) struct Summary {
    made: usize,
    delivered: usize,
    delivered_again: usize,
    attempts: u64,
    late: usize,
    latest: Duration,
    losses: BTreeMap<Loss, usize>,
    emailed_at: Option<Duration>,
    disabled_at: Option<Duration>,
}

impl Summary {
    pub(super) fn new(rehearsal: &Rehearsal<'_>) -> Self {
        let fates = &rehearsal.fates;
        let mut losses = BTreeMap::new();
        let lost = fates.iter().filter(|fate| fate.accepted == 0);
        for loss in lost.filter_map(|fate| fate.loss) {
            *losses.entry(loss).or_default() += 1;
        }
        let delays = fates
            .iter()
            .zip(rehearsal.events)
            .filter_map(|(fate, event)| Some(fate.accepted_at?.saturating_sub(event.made_at)));
        let delays: Vec<_> = delays.collect();
        Self {
            made: fates.len(),
            delivered: fates.iter().filter(|fate| fate.accepted > 0).count(),
            delivered_again: fates.iter().filter(|fate| fate.accepted > 1).count(),
            attempts: fates.iter().map(|fate| u64::from(fate.attempts)).sum(),
            late: delays.iter().filter(|delay| **delay > LATE).count(),
            latest: delays.into_iter().max().unwrap_or_default(),
            losses,
            emailed_at: rehearsal.standing.emailed_at,
            disabled_at: rehearsal.standing.disabled_at,
        }
    }

    fn lost(&self) -> usize {
        self.losses.values().sum()
    }

    pub(super) fn is_good(&self) -> bool {
        self.lost() == 0 && self.disabled_at.is_none()
    }

    /// Returns the numbers. `made` is the sum of `delivered` and `lost`.
    pub(super) fn json(&self) -> Value {
        let losses = self
            .losses
            .iter()
            .map(|(loss, count)| (loss.text().to_owned(), json!(count)));
        json!({
            "made": self.made,
            "delivered": self.delivered,
            "lost": self.lost(),
            "losses": losses.collect::<serde_json::Map<_, _>>(),
            "delivered_again": self.delivered_again,
            "attempts": self.attempts,
            "late": self.late,
            "latest_seconds": self.latest.as_secs_f64(),
            "emailed_at_seconds": self.emailed_at.map(|at| at.as_secs_f64()),
            "disabled_at_seconds": self.disabled_at.map(|at| at.as_secs_f64()),
        })
    }

    pub(super) fn print(&self, output: &Output) {
        let lost = self.lost();
        let style = if lost == 0 { GOOD } else { BAD };
        let attempts = self.attempts;
        output.line(format_args!(
            "\n{} events made, {} delivered, {}, with {attempts} requests",
            self.made,
            self.delivered,
            styled(style, format_args!("{lost} lost")),
        ));
        for (loss, count) in &self.losses {
            output.line(format_args!("  {count} lost: {}", loss.text()));
        }
        output.line(format_args!(
            "{} delivered more than once",
            self.delivered_again
        ));
        if self.late > 0 {
            let latest = span(self.latest);
            output.line(format_args!(
                "{} delivered later than a minute, the latest after {latest}",
                self.late
            ));
        }
        match (self.emailed_at, self.disabled_at) {
            (_, Some(at)) => output.line(styled(
                BAD,
                format_args!("the sender disabled the endpoint at {}", clock(at)),
            )),
            (Some(at), None) => output.line(styled(
                WARNING,
                format_args!("the sender sent an e-mail at {}", clock(at)),
            )),
            (None, None) => output.line("the endpoint stays enabled"),
        }
        output.json(&self.json());
    }
}
