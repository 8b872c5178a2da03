use std::sync::{Arc, PoisonError};

use super::queue::Queue;
use crate::delivery::{DeadLetter, Deliverer, EventService, Fingerprints, Job, staff};
use crate::runtime::Clock;
use crate::sync::{Mutex, MutexGuard};

/// What the inbox and its workers share.
pub(super) struct MemoryDesk<S> {
    pub(super) queue: Mutex<Queue>,
    pub(super) fingerprints: Fingerprints,
    pub(super) clock: Clock,
    pub(super) deliverer: Deliverer<S>,
}

impl<S> MemoryDesk<S> {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // No user code runs under the lock, so a poisoned one is as it should be.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue, and tells those who wait until nothing is in flight.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue();
        let changed = change(&mut queue);
        let idle = queue.settle();
        drop(queue);
        if let Some(idle) = idle {
            idle.wake();
        }
        changed
    }
}

impl<S: EventService> MemoryDesk<S> {
    /// Puts workers to what a change made ready.
    pub(super) fn change_and_staff<T>(self: &Arc<Self>, change: impl FnOnce(&mut Queue) -> T) -> T {
        let changed = self.change(change);
        staff(self);
        changed
    }

    /// Makes a dead letter of an event that isn't counted yet, keeps it, and tells the hooks.
    pub(super) fn bury(self: &Arc<Self>, job: &Job) {
        let (event, died_at) = (job.event.clone(), self.deliverer.time_of_day());
        let letter = DeadLetter::new(job.number, event, &job.progress, died_at);
        self.change_and_staff(|queue| queue.bury(letter.clone(), job.key.clone()));
        self.deliverer.settings.on_dead_letter.tell(&letter);
    }
}
