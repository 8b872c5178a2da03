use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::plan::Plan;
use crate::runtime::millis;

/// The time between two warnings about a route's delay.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// A route of a worker: its consumer and its running events.
pub(super) struct RouteConsumer {
    pub(super) plan: Plan,
    /// One permit for each event that may run at once.
    pub(super) permits: Arc<Semaphore>,
    /// The consumer's `ack_wait`, in milliseconds. An operator can change it.
    ack_wait: AtomicU64,
    /// The consumer sequence of the latest delivery.
    delivered: AtomicU64,
    /// The stream sequences of the running events.
    running: Mutex<HashSet<u64>>,
    warned: Mutex<Option<Instant>>,
}

impl RouteConsumer {
    pub(super) fn new(plan: Plan, permits: usize, ack_wait: Duration) -> Self {
        Self {
            plan,
            permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            ack_wait: AtomicU64::new(millis(ack_wait)),
            delivered: AtomicU64::new(0),
            running: Mutex::default(),
            warned: Mutex::default(),
        }
    }

    pub(super) fn set_ack_wait(&self, ack_wait: Duration) {
        // Nothing else depends on this value.
        self.ack_wait.store(millis(ack_wait), Ordering::Relaxed);
    }

    pub(super) fn ack_wait(&self) -> Duration {
        Duration::from_millis(self.ack_wait.load(Ordering::Relaxed))
    }

    /// Records a delivery. Returns whether the consumer's sequence has fallen because the consumer was recreated.
    pub(super) fn is_recreated(&self, consumer_sequence: u64) -> bool {
        // Only the pull loop writes this sequence.
        self.delivered.swap(consumer_sequence, Ordering::Relaxed) > consumer_sequence
    }

    /// Marks an event as running until the guard is dropped. Returns `None` if the event is already running. The server may
    /// redeliver a running event after this process was suspended or the consumer was recreated.
    pub(super) fn begin(self: &Arc<Self>, sequence: u64) -> Option<RunGuard> {
        self.running().insert(sequence).then(|| RunGuard {
            route: Arc::clone(self),
            sequence,
        })
    }

    fn running(&self) -> MutexGuard<'_, HashSet<u64>> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether another warning about a delay is due.
    pub(super) fn may_warn(&self, now: Instant) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
        if due {
            *warned = Some(now);
        }
        due
    }
}

/// Marks an event as running.
pub(super) struct RunGuard {
    route: Arc<RouteConsumer>,
    sequence: u64,
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.route.running().remove(&self.sequence);
    }
}
