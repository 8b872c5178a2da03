use std::sync::Arc;

use crate::delivery::{Progress, Wait};
use crate::outcome::Ticket;
use crate::runtime::{Clock, millis};

/// An event that waits for the limits of a route. The event isn't in memory; its tickets are.
#[derive(Debug)]
pub(super) struct Park {
    pub(super) tickets: Vec<(Arc<str>, Ticket)>,
    /// The end of the event's last attempt that counts, by the inbox's clock. The delays on disk count from this time.
    since: u64,
    /// When another route of the event is retried, if one is.
    pub(super) due_at: Option<u64>,
}

impl Park {
    pub(super) fn new(progress: &mut Progress, wait: Wait, clock: &Clock) -> Self {
        let now = clock.now();
        Self {
            tickets: progress.take_tickets(),
            since: now.saturating_sub(millis(progress.waited())),
            // Times are rounded, so the route may run a millisecond later, but not earlier.
            due_at: wait
                .retry
                .map(|delay| now.saturating_add(millis(delay)).saturating_add(2)),
        }
    }

    /// Returns whether the event waits no longer.
    pub(super) fn is_called(&self) -> bool {
        self.tickets.iter().any(|(_, ticket)| ticket.is_called())
    }

    /// Returns the progress of the event, which was loaded again.
    pub(super) fn resume(self, progress: Progress, now: u64) -> Progress {
        let waited = now.saturating_sub(self.since).saturating_sub(1);
        let mut progress = progress.with_tickets(self.tickets);
        progress.elapse(std::time::Duration::from_millis(waited));
        progress
    }
}
