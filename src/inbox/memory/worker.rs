use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::select;
use tower_service::Service;

use super::queue::{Job, Queue};
use super::shared::Shared;
use crate::contain::contain;
use crate::delivery::{Delivery, Next, Verdict, attempt};
use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::{End, Ledger, Outcome, Report};
use crate::telemetry;

/// Spawns the workers that are needed; false if the runtime can't.
pub(super) fn staff<S>(shared: &Arc<Shared<S>>) -> bool
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let stillborn = shared.queue().stillborn();
    loop {
        if !shared.queue().hire() {
            return true;
        }
        let worker = work(Place {
            shared: Arc::clone(shared),
            begun: false,
        });
        let spawned = contain(|| shared.runtime.spawn(Box::pin(worker)));
        // A runtime that has shut down drops what it is given, and would do so for ever.
        if spawned.is_err() || shared.queue().stillborn() > stillborn {
            return false;
        }
    }
}

/// A worker's place among the N, which the queue has counted. It is given back when it is dropped, by the worker's end
/// or by its runtime's.
struct Place<S> {
    shared: Arc<Shared<S>>,
    /// Whether the worker was ever polled.
    begun: bool,
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        self.shared.queue().retire(self.begun);
    }
}

/// Delivers the events that wait, one after another, until none does.
async fn work<S>(mut place: Place<S>)
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    place.begun = true;
    let shared = &place.shared;
    loop {
        // A statement of its own, so that the lock is free while the job runs.
        let next = shared.queue().next();
        let Some(job) = next else { return };
        let span = job.origin.delivery(&job.event);
        let running = Running {
            shared,
            ledger: job.progress.ledger(),
            job: Some(job),
        };
        span.instrument(running.run()).await;
        // A queue that never empties must not keep the thread from the others.
        yield_now().await;
    }
}

/// An event in delivery. Whatever happens, it leaves those in delivery once: as its attempt says, or when the runtime
/// drops the worker.
struct Running<'a, S> {
    shared: &'a Arc<Shared<S>>,
    ledger: Arc<Ledger>,
    /// Taken when the attempt has ended.
    job: Option<Job>,
}

impl<S> Running<'_, S>
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    async fn run(mut self) {
        let Some(event) = self.job.as_ref().map(|job| job.event.clone()) else {
            return;
        };
        let Shared {
            service,
            runtime,
            attempt_timeout,
            ..
        } = &**self.shared;
        let report = attempt(service, event, &self.ledger, &**runtime, *attempt_timeout).await;
        let Some(mut job) = self.job.take() else {
            return;
        };
        let next = job
            .progress
            .advance(&report, &self.shared.retry, job.event.id());
        tell(self.shared, &job, &self.ledger, &report, next);
        match next {
            Next::End(verdict) => self
                .shared
                .change(|queue| queue.end(job.event.body().len(), verdict)),
            Next::Retry(delay) => retry(self.shared, job, delay),
        }
    }
}

impl<S> Drop for Running<'_, S> {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        // What had finished counts; for the rest there is no later.
        let report = self.ledger.close(&End::Lost(Outcome::Dropped));
        let verdict = job.progress.give_up(&report);
        tell(self.shared, &job, &self.ledger, &report, Next::End(verdict));
        self.shared
            .change(|queue| queue.end(job.event.body().len(), verdict));
    }
}

/// Tells the log and the hooks of an attempt that ended.
fn tell<S>(shared: &Shared<S>, job: &Job, ledger: &Arc<Ledger>, report: &Report, next: Next) {
    let event = job.event.clone().with_ledger(Arc::clone(ledger));
    telemetry::delivered(&event, report, shared.log_errors);
    shared
        .hooks
        .tell(&Delivery::new(event, report.clone(), next));
}

/// Lets a job wait for its next attempt, in a task of its own, so that it holds no worker.
fn retry<S>(shared: &Arc<Shared<S>>, job: Job, delay: Duration)
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let hurry = shared.change(Queue::retry);
    let mut retrying = Retrying {
        shared: Arc::clone(shared),
        job: Some(job),
    };
    let Some(hurry) = hurry else {
        return retrying.requeue();
    };
    let waiting = async move {
        let sleep = retrying.shared.runtime.sleep(delay);
        // Whichever comes first, the time or the drain.
        drop(select(sleep, hurry).await);
        retrying.requeue();
    };
    // A runtime that can't spawn drops the task, and so counts the job.
    let _ = contain(|| shared.runtime.spawn(Box::pin(waiting)));
}

/// An event between two attempts. If the runtime drops it, it is dead.
struct Retrying<S> {
    shared: Arc<Shared<S>>,
    /// Taken when the wait is over.
    job: Option<Job>,
}

impl<S> Retrying<S>
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    fn requeue(&mut self) {
        if let Some(job) = self.job.take() {
            self.shared.change(|queue| queue.requeue(job));
            staff(&self.shared);
        }
    }
}

impl<S> Drop for Retrying<S> {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let (report, verdict) = (Report::dropped(job.progress.waiting()), Verdict::Dead);
        let ledger = job.progress.ledger();
        tell(&self.shared, &job, &ledger, &report, Next::End(verdict));
        self.shared
            .change(|queue| queue.give_up(job.event.body().len(), verdict));
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
