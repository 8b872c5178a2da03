use std::fmt;

use crate::event::Event;
use crate::outcome::Report;

/// A delivery that has ended: the event, what its routes did, and the verdict that it counts under.
#[derive(Clone, Debug)]
pub struct Delivery {
    event: Event,
    report: Report,
}

/// What an accepted event ended as. Every accepted event ends as exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// Every route that took it did its work.
    Handled,
    /// No route took it, those of [`on_any`](crate::EventRouter::on_any) aside.
    Unhandled,
    /// A route didn't do its work, and won't be tried again.
    Dead,
}

impl Delivery {
    pub(crate) fn new(event: Event, report: Report) -> Self {
        Self { event, report }
    }

    /// Returns the event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Returns what became of each route.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Returns the verdict.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.report.is_success() {
            Verdict::Dead
        } else if self.report.is_unhandled() {
            Verdict::Unhandled
        } else {
            Verdict::Handled
        }
    }
}

/// Writes `account.updated m-1 handled: route handled`.
impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (event_type, id) = (self.event.event_type(), self.event.id());
        write!(f, "{event_type} {id} {}: {}", self.verdict(), self.report)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Handled => "handled",
            Self::Unhandled => "unhandled",
            Self::Dead => "dead",
        })
    }
}
