use std::sync::{Arc, PoisonError};

use super::queue::Queue;
use crate::delivery::{Fingerprints, JobExecutor, spawn_workers};
use crate::inbox::Monitor;
use crate::runtime::Clock;
use crate::sync::{Mutex, MutexGuard};
use crate::telemetry::Metrics;

/// The state that the inbox shares with its workers.
pub(super) struct MemoryInner {
    pub(super) queue: Mutex<Queue>,
    pub(super) fingerprints: Fingerprints,
    pub(super) clock: Clock,
    pub(super) executor: JobExecutor,
    pub(super) monitor: Monitor,
}

impl MemoryInner {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // No user code runs under the lock, so a poisoned queue is intact.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue. If no job is in flight afterwards, wakes the tasks that are waiting for an idle inbox.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        self.change_and_count(change, |_, _| {})
    }

    /// Changes the queue as [`change`](Self::change) does, and counts the change before the tasks wake.
    pub(super) fn change_and_count<T>(
        &self,
        change: impl FnOnce(&mut Queue) -> T,
        count: impl FnOnce(&Metrics, &T),
    ) -> T {
        let mut queue = self.queue();
        let changed = change(&mut queue);
        let idle = queue.take_idle_waiters();
        drop(queue);
        // The recorder is the user's code, so it runs without the lock.
        count(&self.executor.metrics, &changed);
        if let Some(idle) = idle {
            idle.wake();
        }
        changed
    }

    /// Changes the queue and spawns workers for the jobs that the change made ready.
    pub(super) fn change_and_spawn<T>(self: &Arc<Self>, change: impl FnOnce(&mut Queue) -> T) -> T {
        let changed = self.change(change);
        spawn_workers(self);
        changed
    }
}
