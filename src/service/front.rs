use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::budget::Budget;
use super::rejection::Reason;
use crate::delivery::{DeadLetter, Delivery, Stats};
use crate::inbox::{Control, DeadLetterStore, DeadLetters, Drained, Handle};
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
    /// Not among the stats, which have the inbox's own count.
    refused: AtomicU64,
    warned: AtomicBool,
}

impl Front {
    /// Warns, once, that nothing keeps strangers out.
    pub(super) fn warn_unverified(&self) {
        // Read first: this is asked for each request.
        if !self.warned.load(Ordering::Relaxed) && !self.warned.swap(true, Ordering::Relaxed) {
            telemetry::unverified();
        }
    }

    /// Counts a rejection, and returns how many of its kind there were.
    pub(super) fn count(&self, reason: Reason) -> u64 {
        let count = match reason {
            Reason::Malformed => &self.malformed,
            Reason::Unverified => &self.unverified,
            Reason::Busy | Reason::Slow => &self.overloaded,
            // The inbox counts these as refused.
            Reason::Full | Reason::Draining | Reason::Unavailable => &self.refused,
            _ => &self.rejected,
        };
        // Counts on their own, that nothing else is read by.
        count.fetch_add(1, Ordering::Relaxed) + 1
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

    fn on_dead_letter(&self, hook: Arc<dyn Fn(&DeadLetter) + Send + Sync>) {
        self.inbox.on_dead_letter(move |letter| hook(letter));
    }

    fn dead_letters(self: Arc<Self>) -> Option<Arc<dyn DeadLetterStore>> {
        self.inbox.dead_letters().map(DeadLetters::into_store)
    }
}
