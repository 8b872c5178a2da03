use std::fmt;

use super::EventOutcome;

/// The state of an event in an inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventState {
    /// The event waits for a worker, for another event of its ordering key, or for the
    /// [`concurrency`](crate::EventRouter::concurrency) or the key of a route.
    Waiting,
    /// An attempt is running.
    Running,
    /// The event waits for its next attempt.
    Retrying,
    /// Every route that matched handled the event.
    Handled,
    /// No route other than [`on_any`](crate::EventRouter::on_any) routes matched.
    Unhandled,
    /// A route failed and won't be retried. The event is a dead letter.
    Dead,
}

impl EventState {
    /// Returns whether the event is in flight: waiting, running or retrying.
    #[must_use]
    pub fn is_in_flight(self) -> bool {
        matches!(self, Self::Waiting | Self::Running | Self::Retrying)
    }

    /// Returns the state's name, one word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Handled => "handled",
            Self::Unhandled => "unhandled",
            Self::Dead => "dead",
        }
    }
}

impl From<EventOutcome> for EventState {
    fn from(outcome: EventOutcome) -> Self {
        match outcome {
            EventOutcome::Handled => Self::Handled,
            EventOutcome::Unhandled => Self::Unhandled,
            EventOutcome::Dead => Self::Dead,
        }
    }
}

impl fmt::Display for EventState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
