use std::fmt;
use std::time::Duration;

use super::{EventOutcome, Next};
use crate::event::Event;
use crate::outcome::Report;

/// A finished attempt at an event: the outcome of each route, and whether a retry follows.
///
/// Hooks of [`on_attempt`](crate::Handle::on_attempt) receive each attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    event: Event,
    report: Report,
    next: Next,
}

impl Attempt {
    pub(crate) fn new(event: Event, report: Report, next: Next) -> Self {
        Self {
            event,
            report,
            next,
        }
    }

    /// Returns the event. The event's [`attempt`](Event::attempt) is the number of this attempt.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Returns the outcome of each route that ran in this attempt.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Returns the outcome of the event over all attempts, or `None` if another attempt follows.
    #[must_use]
    pub fn event_outcome(&self) -> Option<EventOutcome> {
        match self.next {
            Next::End(outcome) => Some(outcome),
            Next::Retry(_) | Next::Wait(_) => None,
        }
    }

    /// Returns the delay before the next attempt. Returns `None` if this attempt was the last one, or if the next attempt waits only
    /// for the [`concurrency`](crate::EventRouter::concurrency) or the key of a route.
    #[must_use]
    pub fn retry_in(&self) -> Option<Duration> {
        match self.next {
            Next::Retry(delay) => Some(delay),
            Next::Wait(wait) => wait.retry,
            Next::End(_) => None,
        }
    }
}

/// Writes `account.updated m-1 handled: route handled`. Special characters in the sender's names are escaped.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client chooses the names. Without escaping, a line break could forge a line in the user's log.
        let event_type = self.event.event_type().as_str().escape_debug();
        write!(f, "{event_type} {} ", self.event.id().escape_debug())?;
        match self.next {
            Next::End(outcome) => write!(f, "{outcome}")?,
            Next::Retry(delay) => write!(f, "will be retried in {delay:.1?}")?,
            Next::Wait(_) => f.write_str("waits for the limits of a route")?,
        }
        write!(f, ": {}", self.report)
    }
}
