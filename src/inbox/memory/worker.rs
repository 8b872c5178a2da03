use std::future::poll_fn;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::task::Poll;

use tower_service::Service;

use super::memory_inbox::Shared;
use super::queue::Job;
use crate::delivery::{Delivery, attempt};
use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::{End, Ledger, Outcome, Report};
use crate::telemetry;

/// A worker's place among the N, which the queue has counted. It is given back when it is dropped,
/// by the worker's end or by its runtime's.
pub(super) struct Place<S> {
    shared: Arc<Shared<S>>,
    /// Whether the worker was ever polled.
    begun: bool,
}

impl<S> Place<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self {
            shared,
            begun: false,
        }
    }
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        self.shared.queue().retire(self.begun);
    }
}

/// Delivers the events that wait, one after another, until none does.
pub(super) async fn work<S>(mut place: Place<S>)
where
    S: Service<Event, Response = Report, Error: Into<BoxError>> + Clone,
{
    place.begun = true;
    let shared = &place.shared;
    loop {
        // A statement of its own, so that the lock is free while the job runs.
        let next = shared.queue().next();
        let Some(Job { event, origin, .. }) = next else {
            return;
        };
        let span = origin.delivery(&event);
        let delivery = async move {
            let mut running = Running {
                shared,
                event,
                ledger: Arc::new(Ledger::new(NonZeroU32::MIN)),
                report: None,
            };
            let (event, ledger) = (running.event.clone(), &running.ledger);
            let (runtime, timeout) = (&*shared.runtime, shared.attempt_timeout);
            running.report = Some(attempt(&shared.service, event, ledger, runtime, timeout).await);
        };
        span.instrument(delivery).await;
        // A queue that never empties must not keep the thread from the others.
        yield_now().await;
    }
}

/// An event in delivery. Its end is counted when this is dropped, so it is counted once whatever
/// happens: with the report, or without one if the runtime dropped the worker.
struct Running<'a, S> {
    shared: &'a Shared<S>,
    event: Event,
    ledger: Arc<Ledger>,
    report: Option<Report>,
}

impl<S> Drop for Running<'_, S> {
    fn drop(&mut self) {
        let report = self.report.take();
        let report = report.unwrap_or_else(|| self.ledger.close(&End::Lost(Outcome::Dropped)));
        telemetry::delivered(&self.event, &report, self.shared.log_errors);
        let delivery = Delivery::new(self.event.clone(), report);
        self.shared.hooks.tell(&delivery);
        self.shared
            .queue()
            .end(self.event.body().len(), delivery.verdict());
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
