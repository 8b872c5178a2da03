use std::fmt;
use std::time::Duration;

use super::Next;
use crate::event::Event;
use crate::outcome::Report;

/// An attempt at an event that has ended: the event, what its routes did, and what follows.
#[derive(Clone, Debug)]
pub struct Attempt {
    event: Event,
    report: Report,
    next: Next,
}

/// What an accepted event ended as. Every accepted event ends as exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventOutcome {
    /// Every route that took it did its work.
    Handled,
    /// No route took it, those of [`on_any`](crate::EventRouter::on_any) aside.
    Unhandled,
    /// A route didn't do its work, and won't be tried again.
    Dead,
}

impl Attempt {
    pub(crate) fn new(event: Event, report: Report, next: Next) -> Self {
        Self {
            event,
            report,
            next,
        }
    }

    /// Returns the event, of which [`attempt`](Event::attempt) is the number of this attempt.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Returns what became of each route that ran in this attempt.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Returns what the event ended as, over all attempts, or `None` if there will be another one.
    #[must_use]
    pub fn event_outcome(&self) -> Option<EventOutcome> {
        match self.next {
            Next::End(event_outcome) => Some(event_outcome),
            Next::Retry(_) => None,
        }
    }

    /// Returns the wait before the next attempt, or `None` if this was the last one.
    #[must_use]
    pub fn retry_in(&self) -> Option<Duration> {
        match self.next {
            Next::Retry(wait) => Some(wait),
            Next::End(_) => None,
        }
    }
}

/// Writes `account.updated m-1 handled: route handled`, and what the sender named with its special characters escaped.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever can send events chooses these: a line break would begin a line of the user's log.
        let event_type = self.event.event_type().as_str().escape_debug();
        write!(f, "{event_type} {} ", self.event.id().escape_debug())?;
        match self.next {
            Next::End(event_outcome) => write!(f, "{event_outcome}")?,
            Next::Retry(wait) => write!(f, "to be tried again in {wait:.1?}")?,
        }
        write!(f, ": {}", self.report)
    }
}

impl EventOutcome {
    /// Returns the outcome's name, one word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Unhandled => "unhandled",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for EventOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
