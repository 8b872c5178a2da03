use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;

use super::desk::MemoryDesk;
use super::queue::Queue;
use crate::contain::{Contained, contain};
use crate::delivery::{EventService, Job};

/// Lets an event wait for its next attempt, in a task of its own, so that it holds no worker.
pub(super) fn retry<S: EventService>(desk: &Arc<MemoryDesk<S>>, job: Box<Job>, delay: Duration) {
    let hurry = desk.change(Queue::retry);
    let mut retrying = Retrying {
        desk: Arc::clone(desk),
        job: Some(job),
    };
    let Some(hurry) = hurry else {
        return retrying.requeue();
    };
    let waiting = async move {
        // A runtime without a timer: what can't be waited for is due.
        if let Ok(sleep) = contain(|| retrying.desk.deliverer.runtime.sleep(delay)) {
            // Whichever comes first, the time or the drain.
            drop(select(Contained::new(sleep), hurry).await);
        }
        retrying.requeue();
    };
    // A runtime that can't spawn drops the task, and so counts the event.
    let _ = contain(|| desk.deliverer.runtime.spawn(Box::pin(waiting)));
}

/// An event between two attempts. If the runtime drops it, it is dead.
struct Retrying<S: EventService> {
    desk: Arc<MemoryDesk<S>>,
    /// Taken when the wait is over.
    job: Option<Box<Job>>,
}

impl<S: EventService> Retrying<S> {
    fn requeue(&mut self) {
        if let Some(job) = self.job.take() {
            self.desk.change_and_staff(|queue| queue.requeue(job));
        }
    }
}

impl<S: EventService> Drop for Retrying<S> {
    fn drop(&mut self) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        self.desk.deliverer.abandon(&mut job);
        self.desk.bury(&job);
        self.desk.change_and_staff(|queue| queue.give_up(&job));
    }
}
