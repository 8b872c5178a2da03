use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;

use super::inner::MemoryInner;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{AttemptRecord, Job, spawn_workers};

impl MemoryInner {
    /// Keeps a job until the limits of a route let it run, or until another route is retried after `retry`. The job occupies no
    /// worker. `attempt` is absent if no route ran in the attempt.
    pub(super) fn park(
        self: &Arc<Self>,
        job: Box<Job>,
        retry: Option<Duration>,
        attempt: Option<AttemptRecord>,
    ) {
        if let Some(limits) = self.executor.limits() {
            limits.wake_through(self, |inner, number| inner.unpark(number, false));
        }
        let (number, now) = (job.number, self.executor.now());
        let is_retried = retry.is_some() && attempt.is_some();
        let draining = self.change_and_count(
            |queue| queue.park(job, now, retry, attempt),
            |metrics, _| {
                if is_retried {
                    metrics.retried();
                }
            },
        );
        spawn_workers(self);
        let (Some(delay), Some(draining)) = (retry, draining) else {
            return;
        };
        let mut unparked = UnparkOnDrop {
            inner: Arc::clone(self),
            number,
            is_due: false,
        };
        let wait = async move {
            match catch_panic(|| unparked.inner.executor.runtime.sleep(delay)) {
                // A drain ends the delay early.
                Ok(sleep) => drop(select(CatchPanic::new(sleep), draining).await),
                // If the runtime has no timer, the next attempt is due at once.
                Err(_) => unparked.is_due = true,
            }
            drop(unparked);
        };
        let _ = catch_panic(|| self.executor.runtime.spawn(Box::pin(wait)));
    }

    /// Returns a job whose route may run to the queue. If `is_due` is true, no route of the job waits for a retry any longer. Ignores
    /// an event that isn't parked.
    fn unpark(self: &Arc<Self>, number: u64, is_due: bool) {
        let now = self.executor.now();
        self.change_and_spawn(|queue| queue.unpark(number, now, is_due));
    }
}

/// Returns a job to the queue when the delay of a retry is over, or if the runtime drops the delay.
struct UnparkOnDrop {
    inner: Arc<MemoryInner>,
    number: u64,
    /// Whether the delay is over, whatever the clock shows.
    is_due: bool,
}

impl Drop for UnparkOnDrop {
    fn drop(&mut self) {
        self.inner.unpark(self.number, self.is_due);
    }
}
