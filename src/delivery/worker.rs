use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::{Job, JobExecutor, Next, WorkerSlot};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::outcome::AttemptState;

/// What a worker asks of its inbox.
pub(crate) trait JobSource: Send + Sync + 'static {
    fn executor(&self) -> &JobExecutor;

    /// See [`WorkerPool::reserve_slot`](super::WorkerPool::reserve_slot).
    fn reserve_slot(&self) -> Option<WorkerSlot>;

    /// See [`WorkerPool::was_dropped`](super::WorkerPool::was_dropped).
    fn was_dropped(&self, slot: WorkerSlot) -> bool;

    /// See [`WorkerPool::retire`](super::WorkerPool::retire).
    fn retire(&self, begun: bool);

    /// Gives a worker its next event. If there is none the worker is counted out under the same
    /// lock, so that nothing can be put in line for one that is about to leave.
    fn next(&self) -> Option<Box<Job>>;

    /// See [`WorkerPool::batch_len`](super::WorkerPool::batch_len).
    fn batch_len(&self) -> usize;

    /// Takes an event back after an attempt: `next` follows.
    fn attempt_finished(self: Arc<Self>, job: Box<Job>, next: Next);

    /// Takes an event back whose attempt was dropped by the runtime.
    fn dropped(self: Arc<Self>, job: Box<Job>, attempt_state: &Arc<AttemptState>);
}

/// Spawns the workers that are needed, as long as the runtime can.
pub(crate) fn spawn_workers<S: JobSource>(source: &Arc<S>) {
    while let Some(slot) = source.reserve_slot() {
        // A runtime that has shut down drops what it is given, and would do so for ever.
        if !spawn(source) || source.was_dropped(slot) {
            return;
        }
    }
}

/// Spawns a worker that was hired; false if the runtime can't.
pub(crate) fn spawn<S: JobSource>(source: &Arc<S>) -> bool {
    let guard = WorkerGuard {
        source: Arc::clone(source),
        begun: false,
        retired: false,
    };
    let runtime = &source.executor().runtime;
    catch_panic(|| runtime.spawn(Box::pin(work(guard)))).is_ok()
}

/// A worker's guard among the N, which the worker_pool has counted. It is given back at the worker's end,
/// and by its drop if the runtime drops it before.
struct WorkerGuard<S: JobSource> {
    source: Arc<S>,
    /// Whether the worker was ever polled.
    begun: bool,
    /// Whether the guard has been given back.
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
        // The runtime may have dropped this one worker only: what it leaves behind is for others. One
        // that never began was dropped by a runtime that would drop the next as well.
        if self.begun {
            spawn_workers(&self.source);
        }
    }
}

/// Delivers the events that wait, one after another, until none does.
async fn work<S: JobSource>(mut guard: WorkerGuard<S>) {
    guard.begun = true;
    let mut delivered = 0;
    while let Some(job) = guard.next() {
        let job = JobGuard::new(Arc::clone(&guard.source), job);
        // What is the user's own is contained where it is called. This is for the rest, drops and
        // subscribers: the next event must not suffer for this one.
        let _ = CatchPanic::new(job.run()).await;
        delivered += 1;
        // A queue that never empties must not keep the thread from the others.
        if delivered >= guard.source.batch_len() {
            delivered = 0;
            yield_now().await;
        }
    }
}

/// An event in delivery. Whatever happens, it is handed back once: after its attempt, or when it is
/// dropped before that.
struct JobGuard<S: JobSource> {
    source: Arc<S>,
    attempt_state: Arc<AttemptState>,
    /// Taken when the attempt has ended.
    job: Option<Box<Job>>,
}

impl<S: JobSource> JobGuard<S> {
    fn new(source: Arc<S>, job: Box<Job>) -> Self {
        Self {
            source,
            attempt_state: job.progress.attempt_state(),
            job: Some(job),
        }
    }

    async fn run(mut self) {
        let Some(job) = &self.job else { return };
        let (event, span) = (
            job.event.clone(),
            job.parent_span
                .attempt(job.event.id(), job.event.event_type().as_str()),
        );
        // It borrows `self`: a span that can't be entered is never dropped, and what is in it neither.
        let delivery = async {
            let report = self
                .source
                .executor()
                .attempt(event, &self.attempt_state)
                .await;
            let Some(mut job) = self.job.take() else {
                return;
            };
            let next = self
                .source
                .executor()
                .finish_attempt(&mut job, &self.attempt_state, report);
            Arc::clone(&self.source).attempt_finished(job, next);
        };
        span.instrument(delivery).await;
    }
}

impl<S: JobSource> Drop for JobGuard<S> {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            Arc::clone(&self.source).dropped(job, &self.attempt_state);
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
