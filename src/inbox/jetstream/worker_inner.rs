use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::checkpoints::Checkpoints;
use super::consumers::Consumers;
use super::dead_letter_stream::DeadLetterStream;
use super::route_consumer::RouteConsumer;
use super::stalls::Stalls;
use super::stream;
use super::worker_stats::{Exit, WorkerStats};
use crate::delivery::JobExecutor;
use crate::router::EventRouter;
use crate::waiters::Waiters;

/// The state that a worker's clones and tasks share.
pub(super) struct WorkerInner {
    pub(super) executor: JobExecutor,
    /// Decides which events the fallback gets.
    pub(super) router: EventRouter,
    pub(super) routes: Vec<Arc<RouteConsumer>>,
    pub(super) consumers: Consumers,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) dead_letters: Arc<DeadLetterStream>,
    pub(super) stalls: Arc<Stalls>,
    pub(super) ack_wait: Duration,
    /// How long an event may wait before the worker warns.
    pub(super) max_delay: Duration,
    pub(super) server_clock: Mutex<ServerClock>,
    pub(super) counters: Mutex<Counters>,
    /// Whether the worker is being drained.
    pub(super) draining: watch::Sender<bool>,
}

/// The server's clock, and when it was read. This machine's clock may be wrong.
#[derive(Clone, Copy, Default)]
pub(super) struct ServerClock(Option<(SystemTime, Instant)>);

#[derive(Default)]
pub(super) struct Counters {
    stats: WorkerStats,
    /// The number of pull loops that haven't ended and may receive events.
    pull_loops: usize,
    /// Notified when the worker becomes idle.
    idle: Waiters,
}

impl Counters {
    fn is_idle(&self) -> bool {
        self.stats.running == 0 && self.pull_loops == 0
    }
}

impl WorkerInner {
    fn counters(&self) -> MutexGuard<'_, Counters> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the counts, and wakes the waiters if the worker becomes idle.
    fn change(&self, change: impl FnOnce(&mut Counters)) {
        let idle = {
            let mut counters = self.counters();
            change(&mut counters);
            counters.is_idle().then(|| counters.idle.take())
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

    pub(super) fn begin_pull_loop(&self) {
        self.change(|counters| counters.pull_loops += 1);
    }

    pub(super) fn end_pull_loop(&self) {
        self.change(|counters| counters.pull_loops -= 1);
    }

    pub(super) fn stats(&self) -> WorkerStats {
        let mut stats = self.counters().stats.clone();
        stats.replayed = self.dead_letters.replayed();
        stats.stalls = self.stalls.list();
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

    /// Waits until no event is running and all pull loops have ended.
    pub(super) async fn idle(&self) {
        let idle = {
            let mut counters = self.counters();
            if counters.is_idle() {
                return;
            }
            counters.idle.wait()
        };
        // `self` holds the sender, so the channel stays open.
        let _ = idle.await;
    }

    /// Reads the server's clock.
    pub(super) async fn read_server_time(&self) {
        let Consumers {
            context, settings, ..
        } = &self.consumers;
        let time = stream::server_time(context, settings.stream_name()).await;
        let read = time.map(|time| (time, self.executor.runtime.now()));
        let mut clock = self
            .server_clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *clock = ServerClock(read);
    }

    /// Returns the current time by the server's clock. If the server's time is unknown, returns this machine's time.
    pub(super) fn server_time(&self) -> SystemTime {
        let ServerClock(clock) = *self
            .server_clock
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let time = clock.and_then(|(time, read)| {
            time.checked_add(self.executor.runtime.now().saturating_duration_since(read))
        });
        time.unwrap_or_else(|| self.executor.time_of_day())
    }
}
