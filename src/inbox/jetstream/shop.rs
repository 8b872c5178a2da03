use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use super::graves::Graves;
use super::plan::Plan;
use super::worker_stats::{Exit, WorkerStats};
use crate::delivery::JobExecutor;
use crate::router::EventRouter;
use crate::waiters::Waiters;

/// How often at most a route's lag is warned of.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What the routes of a worker share.
pub(super) struct Shop {
    pub(super) executor: JobExecutor,
    /// To know which events the fallback takes.
    pub(super) router: EventRouter,
    pub(super) graves: Arc<Graves>,
    pub(super) ack_wait: Duration,
    /// How long an event may wait before that is warned of.
    pub(super) max_lag: Duration,
    tally: Mutex<Tally>,
    /// Whether the worker is being drained.
    draining: watch::Sender<bool>,
}

#[derive(Default)]
struct Tally {
    stats: WorkerStats,
    /// Pull loops that haven't ended: what they are about to receive is handed back.
    pulling: usize,
    /// Who waits until nothing is left to end.
    idle: Waiters,
}

/// A route of a worker: its consumer, and its places.
pub(super) struct Bench {
    pub(super) plan: Plan,
    /// As many permits as events of the route may run at once.
    pub(super) places: Arc<Semaphore>,
    pub(super) warned: Mutex<Option<Instant>>,
}

impl Shop {
    pub(super) fn new(
        executor: JobExecutor,
        router: EventRouter,
        graves: Arc<Graves>,
        (ack_wait, max_lag): (Duration, Duration),
    ) -> Self {
        Self {
            executor,
            router,
            graves,
            ack_wait,
            max_lag,
            tally: Mutex::default(),
            draining: watch::Sender::new(false),
        }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        // No user code runs under the lock, so a poisoned one is as it should be.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts, and tells those who wait until nothing is left.
    fn change(&self, change: impl FnOnce(&mut Tally)) {
        let idle = {
            let mut tally = self.tally();
            change(&mut tally);
            (tally.stats.running == 0 && tally.pulling == 0).then(|| tally.idle.take())
        };
        if let Some(idle) = idle {
            idle.wake();
        }
    }

    pub(super) fn enter(&self) {
        self.change(|tally| tally.stats.enter());
    }

    pub(super) fn leave(&self, exit: Exit) {
        self.change(|tally| tally.stats.leave(exit));
    }

    pub(super) fn begin_pulling(&self) {
        self.change(|tally| tally.pulling += 1);
    }

    pub(super) fn end_pulling(&self) {
        self.change(|tally| tally.pulling -= 1);
    }

    pub(super) fn stats(&self) -> WorkerStats {
        let mut stats = self.tally().stats;
        stats.replayed = self.graves.replayed();
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
            let mut tally = self.tally();
            if tally.stats.running == 0 && tally.pulling == 0 {
                return;
            }
            tally.idle.wait()
        };
        // The sender lives in here, which the caller holds.
        let _ = idle.await;
    }
}

impl Bench {
    pub(super) fn new(plan: Plan, places: usize) -> Self {
        Self {
            plan,
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
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
