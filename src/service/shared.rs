use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::budget::Budget;
use super::rejection::RejectionReason;
use crate::delivery::{Attempt, DeadLetter, Stats};
use crate::inbox::{DeadLetterStore, DeadLetters, Drained, Handle, InboxControl};
use crate::runtime::BoxFuture;
use crate::telemetry;

/// What all clones of a front door share, whatever their settings.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) bodies: Budget,
    malformed: AtomicU64,
    unverified: AtomicU64,
    overloaded: AtomicU64,
    rejected: AtomicU64,
    /// Not among the stats, which have the inbox's own count.
    refused: AtomicU64,
    warned: AtomicBool,
}

impl Shared {
    /// Warns, once, that nothing keeps strangers out.
    pub(super) fn warn_unverified(&self) {
        // Read first: this is asked for each request.
        if !self.warned.load(Ordering::Relaxed) && !self.warned.swap(true, Ordering::Relaxed) {
            telemetry::verify_missing();
        }
    }

    /// Counts a rejection, and returns how many of its kind there were.
    pub(super) fn count(&self, reason: RejectionReason) -> u64 {
        let count = match reason {
            RejectionReason::Malformed => &self.malformed,
            RejectionReason::Unverified => &self.unverified,
            RejectionReason::Busy | RejectionReason::Slow => &self.overloaded,
            // The inbox counts these as refused.
            RejectionReason::Full | RejectionReason::Draining | RejectionReason::Unavailable => {
                &self.refused
            }
            _ => &self.rejected,
        };
        // Counts on their own, that nothing else is read by.
        count.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The inbox's control, with the counts of the front door.
pub(super) struct ReceiverControl {
    pub(super) shared: Arc<Shared>,
    pub(super) inbox: Handle,
}

impl InboxControl for ReceiverControl {
    fn stats(&self) -> Stats {
        let mut stats = self.inbox.stats();
        stats.malformed += self.shared.malformed.load(Ordering::Relaxed);
        stats.unverified += self.shared.unverified.load(Ordering::Relaxed);
        stats.overloaded += self.shared.overloaded.load(Ordering::Relaxed);
        stats.rejected += self.shared.rejected.load(Ordering::Relaxed);
        stats
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(self.inbox.drain(within))
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(self.inbox.wait_idle())
    }

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>) {
        self.inbox.on_attempt(move |delivery| hook(delivery));
    }

    fn on_dead_letter(&self, hook: Arc<dyn Fn(&DeadLetter) + Send + Sync>) {
        self.inbox.on_dead_letter(move |letter| hook(letter));
    }

    fn dead_letters(self: Arc<Self>) -> Option<Arc<dyn DeadLetterStore>> {
        self.inbox.dead_letters().map(DeadLetters::into_store)
    }
}
