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

    /// Lets the limits of the routes call the event from now on. Returns whether a route may run now.
    pub(super) fn park(&self) -> bool {
        let tickets = self.tickets.iter();
        tickets.fold(false, |called, (_, ticket)| ticket.park() || called)
    }

    /// Continues the event, which was loaded again with this progress.
    pub(super) fn resume(self, progress: &mut Progress, now: u64) {
        let waited = now.saturating_sub(self.since).saturating_sub(1);
        progress.set_tickets(self.tickets);
        progress.elapse(std::time::Duration::from_millis(waited));
    }
}
