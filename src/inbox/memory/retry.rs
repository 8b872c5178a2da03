use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;

use super::inner::MemoryInner;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{AttemptRecord, Job, spawn_workers};
use crate::telemetry::Counted;

impl MemoryInner {
    /// Holds a job in a separate task until its next attempt, so that the job occupies no worker.
    pub(super) fn retry(self: &Arc<Self>, job: Box<Job>, delay: Duration, attempt: AttemptRecord) {
        let draining = self.change_and_count(
            |queue| queue.retry(job.number, attempt),
            |metrics, _| metrics.retried(),
        );
        let mut retrying = RetryGuard {
            inner: Arc::clone(self),
            job: Some(job),
        };
        let Some(draining) = draining else {
            return retrying.requeue();
        };
        let wait = async move {
            // If the runtime has no timer, the next attempt is due at once.
            if let Ok(sleep) = catch_panic(|| retrying.inner.executor.runtime.sleep(delay)) {
                // A drain ends the delay early.
                drop(select(CatchPanic::new(sleep), draining).await);
            }
            retrying.requeue();
        };
        // If the runtime can't spawn the task, it drops the task, and the event is dead-lettered.
        let _ = catch_panic(|| self.executor.runtime.spawn(Box::pin(wait)));
    }
}

/// A job that is waiting for its next attempt. If the runtime drops the job, its event is dead-lettered.
struct RetryGuard {
    inner: Arc<MemoryInner>,
    /// Taken when the delay is over.
    job: Option<Box<Job>>,
}

impl RetryGuard {
    fn requeue(&mut self) {
        if let Some(job) = self.job.take() {
            self.inner.change_and_spawn(|queue| queue.requeue(job));
        }
    }
}

impl Drop for RetryGuard {
    fn drop(&mut self) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        self.inner.executor.abandon(&mut job);
        let now = self.inner.executor.time_of_day();
        self.inner.push_dead_letter(&job, None, now);
        self.inner.change_and_count(
            |queue| queue.finish_retrying(&job),
            |metrics, ()| metrics.event(metrics.label(job.event.event_type()), Counted::Dead),
        );
        spawn_workers(&self.inner);
    }
}
