use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use super::reason::RejectionReason;
use crate::delivery::Stats;
use crate::telemetry::{self, PathMiss};

/// The counts of a receiver's rejections.
#[derive(Debug, Default)]
pub(super) struct Counters {
    malformed: AtomicU64,
    unverified: AtomicU64,
    overloaded: AtomicU64,
    rejected: AtomicU64,
    /// Not added to [`Stats`], because the inbox counts its own refusals.
    refused: AtomicU64,
    started: AtomicBool,
    warned_unverified: AtomicBool,
    /// A bit for each [`PathMiss`] that was logged.
    path_misses: AtomicU8,
}

impl Counters {
    /// Returns true on the first call.
    pub(super) fn start(&self) -> bool {
        // Load before the swap, because axum calls `Layer::layer` for each request until
        // `with_state`.
        let started = &self.started;
        !started.load(Ordering::Relaxed) && !started.swap(true, Ordering::Relaxed)
    }

    /// Returns true once for each kind of difference.
    pub(super) fn miss(&self, miss: PathMiss) -> bool {
        let (misses, bit) = (&self.path_misses, 1 << miss as u8);
        misses.load(Ordering::Relaxed) & bit == 0
            && misses.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    /// Logs a warning, once, that the receiver doesn't verify requests.
    pub(super) fn warn_unverified(&self) {
        let warned = &self.warned_unverified;
        if !warned.load(Ordering::Relaxed) && !warned.swap(true, Ordering::Relaxed) {
            telemetry::verify_missing();
        }
    }

    /// Counts a rejection, and returns the number of rejections of this kind so far.
    pub(super) fn count(&self, reason: RejectionReason) -> u64 {
        let count = match reason {
            RejectionReason::Malformed => &self.malformed,
            RejectionReason::Unverified => &self.unverified,
            RejectionReason::Busy | RejectionReason::Slow => &self.overloaded,
            RejectionReason::Full | RejectionReason::Draining | RejectionReason::Unavailable => {
                &self.refused
            }
            _ => &self.rejected,
        };
        // Relaxed: no other memory depends on these counts.
        count.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Adds these counts to the counts of the inbox.
    pub(super) fn add_to(&self, stats: &mut Stats) {
        stats.malformed += self.malformed.load(Ordering::Relaxed);
        stats.unverified += self.unverified.load(Ordering::Relaxed);
        stats.overloaded += self.overloaded.load(Ordering::Relaxed);
        stats.rejected += self.rejected.load(Ordering::Relaxed);
    }
}
