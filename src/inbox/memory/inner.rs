use std::sync::{Arc, PoisonError};

use super::queue::Queue;
use crate::delivery::{DeadLetter, Fingerprints, Job, JobExecutor, spawn_workers};
use crate::runtime::Clock;
use crate::sync::{Mutex, MutexGuard};

/// What the inbox and its workers share.
pub(super) struct Inner {
    pub(super) queue: Mutex<Queue>,
    pub(super) fingerprints: Fingerprints,
    pub(super) clock: Clock,
    pub(super) executor: JobExecutor,
}

impl Inner {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // No user code runs under the lock, so a poisoned one is as it should be.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue, and tells those who wait until nothing is in flight.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue();
        let changed = change(&mut queue);
        let idle = queue.take_idle_waiters();
        drop(queue);
        if let Some(idle) = idle {
            idle.wake();
        }
        changed
    }
}

impl Inner {
    /// Puts workers to what a change made ready.
    pub(super) fn change_and_spawn<T>(self: &Arc<Self>, change: impl FnOnce(&mut Queue) -> T) -> T {
        let changed = self.change(change);
        spawn_workers(self);
        changed
    }

    /// Makes a dead letter of an event that isn't counted yet, keeps it, and tells the hooks.
    pub(super) fn push_dead_letter(self: &Arc<Self>, job: &Job) {
        let (event, dead_lettered_at) = (job.event.clone(), self.executor.time_of_day());
        let letter = DeadLetter::new(job.number, event, &job.progress, dead_lettered_at);
        self.change_and_spawn(|queue| queue.push_dead_letter(letter.clone(), job.key.clone()));
        self.executor.dead_lettered(&letter);
    }
}
