use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;

use super::inner::Inner;
use super::queue::Queue;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::Job;

/// Lets an event wait for its next attempt, in a task of its own, so that it holds no worker.
pub(super) fn retry(inner: &Arc<Inner>, job: Box<Job>, delay: Duration) {
    let hurry = inner.change(Queue::retry);
    let mut retrying = Retrying {
        inner: Arc::clone(inner),
        job: Some(job),
    };
    let Some(hurry) = hurry else {
        return retrying.requeue();
    };
    let waiting = async move {
        // A runtime without a timer: what can't be waited for is due.
        if let Ok(sleep) = catch_panic(|| retrying.inner.executor.runtime.sleep(delay)) {
            // Whichever comes first, the time or the drain.
            drop(select(CatchPanic::new(sleep), hurry).await);
        }
        retrying.requeue();
    };
    // A runtime that can't spawn drops the task, and so counts the event.
    let _ = catch_panic(|| inner.executor.runtime.spawn(Box::pin(waiting)));
}

/// An event between two attempts. If the runtime drops it, it is dead.
struct Retrying {
    inner: Arc<Inner>,
    /// Taken when the wait is over.
    job: Option<Box<Job>>,
}

impl Retrying {
    fn requeue(&mut self) {
        if let Some(job) = self.job.take() {
            self.inner.change_and_spawn(|queue| queue.requeue(job));
        }
    }
}

impl Drop for Retrying {
    fn drop(&mut self) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        self.inner.executor.abandon(&mut job);
        self.inner.push_dead_letter(&job);
        self.inner.change_and_spawn(|queue| queue.fail(&job));
    }
}
