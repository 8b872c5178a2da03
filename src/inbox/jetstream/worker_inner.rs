use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::dead_letter_stream::DeadLetterStream;
use super::plan::Plan;
use super::worker_stats::{Exit, WorkerStats};
use crate::delivery::JobExecutor;
use crate::router::EventRouter;
use crate::waiters::Waiters;

/// How often at most a route's lag is warned of.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the routes of a worker share.
pub(super) struct WorkerInner {
    pub(super) executor: JobExecutor,
    /// To know which events the fallback takes.
    pub(super) router: EventRouter,
    pub(super) dead_letters: Arc<DeadLetterStream>,
    pub(super) ack_wait: Duration,
    /// How long an event may wait before that is warned of.
    pub(super) max_lag: Duration,
    counters: Mutex<Counters>,
    /// Whether the worker is being drained.
    draining: watch::Sender<bool>,
}

#[derive(Default)]
struct Counters {
    stats: WorkerStats,
    /// Pull loops that haven't ended: what they are about to receive is handed back.
    pulling: usize,
    /// Who waits until nothing is left to end.
    idle: Waiters,
}

/// A route of a worker: its consumer, and its permits.
pub(super) struct RouteConsumer {
    pub(super) plan: Plan,
    /// As many permits as events of the route may run at once.
    pub(super) permits: Arc<Semaphore>,
    pub(super) warned: Mutex<Option<Instant>>,
}

impl WorkerInner {
    pub(super) fn new(
        executor: JobExecutor,
        router: EventRouter,
        dead_letters: Arc<DeadLetterStream>,
        (ack_wait, max_lag): (Duration, Duration),
    ) -> Self {
        Self {
            executor,
            router,
            dead_letters,
            ack_wait,
            max_lag,
            counters: Mutex::default(),
            draining: watch::Sender::new(false),
        }
    }

    fn counters(&self) -> MutexGuard<'_, Counters> {
        // No user code runs under the lock, so a poisoned one is as it should be.
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts, and tells those who wait until nothing is left.
    fn change(&self, change: impl FnOnce(&mut Counters)) {
        let idle = {
            let mut counters = self.counters();
            change(&mut counters);
            (counters.stats.running == 0 && counters.pulling == 0).then(|| counters.idle.take())
        };
        if let Some(idle) = idle {
            idle.wake();
        }
    }

    pub(super) fn enter(&self) {
        self.change(|counters| counters.stats.enter());
    }

    pub(super) fn leave(&self, exit: Exit) {
        self.change(|counters| counters.stats.leave(exit));
    }

    pub(super) fn begin_pulling(&self) {
        self.change(|counters| counters.pulling += 1);
    }

    pub(super) fn end_pulling(&self) {
        self.change(|counters| counters.pulling -= 1);
    }

    pub(super) fn stats(&self) -> WorkerStats {
        let mut stats = self.counters().stats;
        stats.replayed = self.dead_letters.replayed();
        stats
    }

    pub(super) fn drain(&self) {
        self.draining.send_replace(true);
    }

    pub(super) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    pub(super) fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Waits until no event is left and nothing is pulled any more.
    pub(super) async fn idle(&self) {
        let idle = {
            let mut counters = self.counters();
            if counters.stats.running == 0 && counters.pulling == 0 {
                return;
            }
            counters.idle.wait()
        };
        // The sender lives in here, which the caller holds.
        let _ = idle.await;
    }
}

impl RouteConsumer {
    pub(super) fn new(plan: Plan, permits: usize) -> Self {
        Self {
            plan,
            permits: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            warned: Mutex::new(None),
        }
    }

    /// Returns whether it is time for another warning.
    pub(super) fn may_warn(&self, now: Instant) -> bool {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
        if due {
            *warned = Some(now);
        }
        due
    }
}
