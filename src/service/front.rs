use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::budget::Budget;
use super::rejection::Reason;
use crate::delivery::{Delivery, Stats};
use crate::inbox::{Control, Drained, Handle};
use crate::runtime::BoxFuture;
use crate::telemetry;

/// What all clones of a front door share, whatever their settings.
#[derive(Debug, Default)]
pub(super) struct Front {
    pub(super) bodies: Budget,
    malformed: AtomicU64,
    unverified: AtomicU64,
    overloaded: AtomicU64,
    rejected: AtomicU64,
    warned: OnceLock<()>,
}

impl Front {
    /// Warns, once, that nothing keeps strangers out.
    pub(super) fn warn_unverified(&self) {
        self.warned.get_or_init(telemetry::unverified);
    }

    pub(super) fn count(&self, reason: Reason) {
        let count = match reason {
            Reason::Malformed => &self.malformed,
            Reason::Unverified => &self.unverified,
            Reason::Busy | Reason::Slow => &self.overloaded,
            // The inbox has counted it as refused.
            Reason::Full | Reason::Draining | Reason::Unavailable => return,
            _ => &self.rejected,
        };
        // Counts on their own, that nothing else is read by.
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The inbox's control, with the counts of the front door.
pub(super) struct FrontControl {
    pub(super) front: Arc<Front>,
    pub(super) inbox: Handle,
}

impl Control for FrontControl {
    fn stats(&self) -> Stats {
        let mut stats = self.inbox.stats();
        stats.malformed += self.front.malformed.load(Ordering::Relaxed);
        stats.unverified += self.front.unverified.load(Ordering::Relaxed);
        stats.overloaded += self.front.overloaded.load(Ordering::Relaxed);
        stats.rejected += self.front.rejected.load(Ordering::Relaxed);
        stats
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(self.inbox.drain(within))
    }

    fn settled(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(self.inbox.settled())
    }

    fn on_delivery(&self, hook: Arc<dyn Fn(&Delivery) + Send + Sync>) {
        self.inbox.on_delivery(move |delivery| hook(delivery));
    }
}
