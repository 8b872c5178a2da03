use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use super::{AttemptRecord, Job, JobExecutor, Next, WorkerSlot};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::outcome::{AttemptState, Report};

/// The report of an attempt that ended, and how long the attempt ran.
pub(crate) struct AttemptResult {
    pub(crate) report: Report,
    pub(crate) duration: Duration,
}

impl AttemptResult {
    /// Returns the record of the attempt. Formats handlers' errors, so the caller holds no lock.
    pub(crate) fn record(&self, number: u32, ended_at: SystemTime) -> AttemptRecord {
        AttemptRecord::new(number, ended_at, self.duration, &self.report)
    }
}

/// The inbox's interface for workers. Workers take jobs from the inbox and return them.
pub(crate) trait JobSource: Send + Sync + 'static {
    fn executor(&self) -> &JobExecutor;

    /// See [`WorkerPool::reserve_slot`](super::WorkerPool::reserve_slot).
    fn reserve_slot(&self) -> Option<WorkerSlot>;

    /// See [`WorkerPool::was_dropped`](super::WorkerPool::was_dropped).
    fn was_dropped(&self, slot: WorkerSlot) -> bool;

    /// See [`WorkerPool::retire`](super::WorkerPool::retire).
    fn retire(&self, begun: bool);

    /// Returns a worker's next job. If no job is ready, removes the worker from the pool under the same lock. So no job
    /// waits for a worker that is about to end.
    fn next(&self) -> Option<Box<Job>>;

    /// Returns the lease of a job's event, if the inbox leases events.
    #[cfg(feature = "postgres")]
    fn lease(&self, job: &Job) -> Option<crate::outcome::Lease> {
        let _ = job;
        None
    }

    /// See [`WorkerPool::batch_len`](super::WorkerPool::batch_len).
    fn batch_len(&self) -> usize;

    /// Takes a job back after an attempt with this result, and performs the next step.
    fn attempt_ended(self: Arc<Self>, job: Box<Job>, next: Next, attempt: AttemptResult);

    /// Takes back a job whose attempt the runtime dropped after `duration`.
    fn attempt_dropped(
        self: Arc<Self>,
        job: Box<Job>,
        attempt_state: &Arc<AttemptState>,
        duration: Duration,
    );
}

/// Spawns workers for the jobs that are ready.
pub(crate) fn spawn_workers<S: JobSource>(source: &Arc<S>) {
    while let Some(slot) = source.reserve_slot() {
        // A runtime that has shut down drops every worker, so the loop would never end.
        if !spawn(source) || source.was_dropped(slot) {
            return;
        }
    }
}

/// Spawns a worker for a reserved slot. Returns false if the runtime can't spawn the worker.
pub(crate) fn spawn<S: JobSource>(source: &Arc<S>) -> bool {
    let guard = WorkerGuard {
        source: Arc::clone(source),
        begun: false,
        retired: false,
    };
    let runtime = &source.executor().runtime;
    catch_panic(|| runtime.spawn(Box::pin(work(guard)))).is_ok()
}

/// A worker's slot in the pool. The slot is freed when the worker ends or the runtime drops the worker.
struct WorkerGuard<S: JobSource> {
    source: Arc<S>,
    /// Whether the worker was polled.
    begun: bool,
    /// Whether the slot is free again.
    retired: bool,
}

impl<S: JobSource> WorkerGuard<S> {
    fn next(&mut self) -> Option<Box<Job>> {
        let next = self.source.next();
        self.retired = next.is_none();
        next
    }
}

impl<S: JobSource> Drop for WorkerGuard<S> {
    fn drop(&mut self) {
        if self.retired {
            return;
        }
        self.source.retire(self.begun);
        // If the runtime dropped only this worker, new workers run the remaining jobs. If the runtime drops a worker before
        // its first poll, it would drop the next worker too.
        if self.begun {
            spawn_workers(&self.source);
        }
    }
}

/// Runs one job after another until none is ready.
async fn work<S: JobSource>(mut guard: WorkerGuard<S>) {
    guard.begun = true;
    let mut batch = 0;
    while let Some(job) = guard.next() {
        let job = JobGuard::new(Arc::clone(&guard.source), job);
        // The job catches the panics of handlers and hooks. `CatchPanic` catches all other panics, for example a
        // subscriber's, so the next job isn't affected.
        let _ = CatchPanic::new(job.run()).await;
        batch += 1;
        // If the queue never empties, the worker must still yield the thread.
        if batch >= guard.source.batch_len() {
            batch = 0;
            yield_now().await;
        }
    }
}

/// A job that a worker runs. The job returns to its source exactly once: after its attempt, or when the guard is dropped.
struct JobGuard<S: JobSource> {
    source: Arc<S>,
    attempt_state: Arc<AttemptState>,
    started: Instant,
    /// Taken when the attempt has ended.
    job: Option<Box<Job>>,
}

impl<S: JobSource> JobGuard<S> {
    fn new(source: Arc<S>, mut job: Box<Job>) -> Self {
        let attempt_state = source.executor().attempt_state(&mut job);
        #[cfg(feature = "postgres")]
        let attempt_state = attempt_state.with_lease(source.lease(&job));
        Self {
            attempt_state: Arc::new(attempt_state),
            started: source.executor().now(),
            source,
            job: Some(job),
        }
    }

    async fn run(mut self) {
        let Some(job) = &self.job else { return };
        let event = job.event.clone();
        let span = self.source.executor().attempt_span(job);
        // The future borrows `self`. If entering the span panics, `Instrumented` leaks the future, but `self` is still
        // dropped.
        let attempt = async {
            let executor = self.source.executor();
            let report = executor.attempt(event, &self.attempt_state).await;
            let duration = executor.now().saturating_duration_since(self.started);
            let Some(mut job) = self.job.take() else {
                return;
            };
            let attempt = AttemptResult {
                report: report.clone(),
                duration,
            };
            let next = executor.finish_attempt(&mut job, &self.attempt_state, report, duration);
            Arc::clone(&self.source).attempt_ended(job, next, attempt);
        };
        span.instrument(attempt).await;
    }
}

impl<S: JobSource> Drop for JobGuard<S> {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            let now = self.source.executor().now();
            let duration = now.saturating_duration_since(self.started);
            Arc::clone(&self.source).attempt_dropped(job, &self.attempt_state, duration);
        }
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
