use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::select;

use super::queue::{Job, Queue};
use super::shared::{EventService, Shared};
use crate::contain::{Contained, contain};
use crate::delivery::{Delivery, Next, Verdict, attempt};
use crate::outcome::{End, Ledger, Outcome, Report};
use crate::telemetry;

/// Spawns the workers that are needed, as long as the runtime can.
pub(super) fn staff<S: EventService>(shared: &Arc<Shared<S>>) {
    loop {
        let hire = shared.queue().hire();
        let Some(hire) = hire else { return };
        // A runtime that has shut down drops what it is given, and would do so for ever.
        if !spawn(shared) || shared.queue().was_dropped(hire) {
            return;
        }
    }
}

/// Spawns a worker that was hired; false if the runtime can't.
pub(super) fn spawn<S: EventService>(shared: &Arc<Shared<S>>) -> bool {
    let place = Place {
        shared: Arc::clone(shared),
        begun: false,
        retired: false,
    };
    contain(|| shared.runtime.spawn(Box::pin(work(place)))).is_ok()
}

/// A worker's place among the N, which the queue has counted. It is given back at the worker's end,
/// and by its drop if the runtime drops it before.
struct Place<S> {
    shared: Arc<Shared<S>>,
    /// Whether the worker was ever polled.
    begun: bool,
    /// Whether the place has been given back.
    retired: bool,
}

impl<S> Place<S> {
    /// Returns the next job; if there is none the place is given back under the same lock, so that
    /// nothing can be put in line for a worker that is about to leave.
    fn next(&mut self) -> Option<Job> {
        let next = self.shared.queue().next();
        self.retired = next.is_none();
        next
    }
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        if !self.retired {
            self.shared.queue().retire(self.begun);
        }
    }
}

/// Delivers the events that wait, one after another, until none does.
async fn work<S: EventService>(mut place: Place<S>) {
    place.begun = true;
    while let Some(job) = place.next() {
        let running = Running::new(Arc::clone(&place.shared), job);
        // What is the user's own is contained where it is called. This is for the rest, drops and
        // subscribers: the next event must not suffer for this one.
        let _ = Contained::new(running.run()).await;
        // A queue that never empties must not keep the thread from the others.
        yield_now().await;
    }
}

/// An event in delivery. Whatever happens, it leaves those in delivery once: as its attempt says,
/// or when it is dropped before that.
struct Running<S> {
    shared: Arc<Shared<S>>,
    ledger: Arc<Ledger>,
    /// Taken when the attempt has ended.
    job: Option<Job>,
}

impl<S> Running<S> {
    fn new(shared: Arc<Shared<S>>, job: Job) -> Self {
        Self {
            shared,
            ledger: job.progress.ledger(),
            job: Some(job),
        }
    }
}

impl<S: EventService> Running<S> {
    async fn run(mut self) {
        let Some(job) = &self.job else { return };
        let (event, span) = (job.event.clone(), job.origin.delivery(&job.event));
        // It borrows `self`: a span that can't be entered is never dropped, and what is in it neither.
        let delivery = async {
            let Shared {
                service,
                runtime,
                attempt_timeout,
                ..
            } = &*self.shared;
            let report = attempt(service, event, &self.ledger, &**runtime, *attempt_timeout).await;
            self.conclude(&report);
        };
        span.instrument(delivery).await;
    }

    fn conclude(&mut self, report: &Report) {
        let Some(mut job) = self.job.take() else {
            return;
        };
        let next = job
            .progress
            .advance(report, &self.shared.retry, job.event.id());
        tell(&self.shared, &job, &self.ledger, report, next);
        match next {
            Next::End(verdict) => self
                .shared
                .change(|queue| queue.end(job.event.body().len(), verdict)),
            Next::Retry(delay) => retry(&self.shared, job, delay),
        }
    }
}

impl<S> Drop for Running<S> {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        // What had finished counts; for the rest there is no later.
        let report = self.ledger.close(&End::Lost(Outcome::Dropped));
        let verdict = job.progress.give_up(&report);
        tell(
            &self.shared,
            &job,
            &self.ledger,
            &report,
            Next::End(verdict),
        );
        self.shared
            .change(|queue| queue.end(job.event.body().len(), verdict));
    }
}

/// Tells the log and the hooks of an attempt that ended. Nothing of theirs can keep the attempt
/// from being counted.
fn tell<S>(shared: &Shared<S>, job: &Job, ledger: &Arc<Ledger>, report: &Report, next: Next) {
    let event = job.event.clone().with_ledger(Arc::clone(ledger));
    let delivery = Delivery::new(event, report.clone(), next);
    let (event, report) = (delivery.event(), delivery.report());
    telemetry::delivered(event, report, delivery.retry_in(), shared.log_errors);
    shared.hooks.tell(&delivery);
}

/// Lets a job wait for its next attempt, in a task of its own, so that it holds no worker.
fn retry<S: EventService>(shared: &Arc<Shared<S>>, job: Job, delay: Duration) {
    let hurry = shared.change(Queue::retry);
    let mut retrying = Retrying {
        shared: Arc::clone(shared),
        job: Some(job),
    };
    let Some(hurry) = hurry else {
        return retrying.requeue();
    };
    let waiting = async move {
        // A runtime without a timer: what can't be waited for is due.
        if let Ok(sleep) = contain(|| retrying.shared.runtime.sleep(delay)) {
            // Whichever comes first, the time or the drain.
            drop(select(Contained::new(sleep), hurry).await);
        }
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

impl<S: EventService> Retrying<S> {
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
