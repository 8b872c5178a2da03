use std::fmt;

use crate::telemetry::Counted;

/// The outcome of an accepted event, over all attempts. Every accepted event ends with exactly one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EventOutcome {
    /// Every route that matched handled the event, or [skipped](crate::Outcome::Skipped) it.
    Handled,
    /// No route other than [`on_any`](crate::EventRouter::on_any) routes matched.
    Unhandled,
    /// A route failed and won't be retried.
    Dead,
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

    /// Returns how the metrics count the event.
    pub(crate) fn counted(self) -> Counted {
        match self {
            Self::Handled => Counted::Handled,
            Self::Unhandled => Counted::Unhandled,
            Self::Dead => Counted::Dead,
        }
    }
}

impl fmt::Display for EventOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
