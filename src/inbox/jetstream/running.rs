use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use futures_util::future::{Either, select};

use super::delivered::Delivered;
use super::graves::Remains;
use super::headers;
use super::plan::Runs;
use super::shop::{Bench, Shop};
use super::worker_stats::Exit;
use crate::catch_panic::CatchPanic;
use crate::delivery::{Job, Next, Progress};
use crate::event::Event;
use crate::outcome::AttemptState;
use crate::telemetry::{self, ParentSpan};

/// How many deliveries beyond those that the policy allows an event gets that never came to an end: its workers
/// died of it, or were drained. After that it is dead without another attempt.
const CRASHES: u32 = 5;

/// An event that a worker has taken. Whatever happens it leaves the worker once: as its end says, or as handed back when it
/// is dropped before.
pub(super) struct Running {
    pub(super) shop: Arc<Shop>,
    pub(super) bench: Arc<Bench>,
    pub(super) message: Message,
    left: bool,
}

impl Running {
    pub(super) fn new(shop: Arc<Shop>, bench: Arc<Bench>, message: Message) -> Self {
        shop.enter();
        Self {
            shop,
            bench,
            message,
            left: false,
        }
    }

    pub(super) async fn run(mut self) {
        let exit = if self.shop.is_draining() {
            self.negative(Duration::ZERO).await;
            Exit::Returned
        } else {
            self.worked().await
        };
        self.leave(exit);
    }

    /// Does the work, and has the server wait meanwhile.
    async fn worked(&self) -> Exit {
        let work = pin!(CatchPanic::new(self.work()));
        let signals = pin!(self.keep());
        match select(work, signals).await {
            // What is the user's own is contained where it is called; the server will deliver it again.
            Either::Left((exit, _)) => exit.unwrap_or(Exit::Retried),
            Either::Right((never, _)) => match never {},
        }
    }

    fn leave(&mut self, exit: Exit) {
        if !std::mem::replace(&mut self.left, true) {
            self.shop.leave(exit);
        }
    }

    /// Tells the server, until it is dropped, that the event is being worked on.
    async fn keep(&self) -> std::convert::Infallible {
        loop {
            self.shop
                .executor
                .runtime
                .sleep(self.shop.ack_wait / 3)
                .await;
            // What isn't sent is sent next time.
            let _ = self.message.ack_with(AckKind::Progress).await;
        }
    }

    async fn work(&self) -> Exit {
        let given = self.message.headers.clone().unwrap_or_default();
        let Some(delivered) = Delivered::of(&self.message) else {
            // No message of a stream: nobody waits for an acknowledgement.
            return Exit::Acked;
        };
        if !headers::is_meant_for(&given, &self.bench.plan.consumer) {
            return self.acknowledge(Exit::Acked).await;
        }
        self.warn_of_lag(&delivered);
        let received_at = headers::received_at(&given).unwrap_or(delivered.published);
        let body = Box::from(&*self.message.payload);
        let event = match Event::received(body, received_at) {
            Ok(event) => event,
            Err(undecoded) => {
                let body = String::from_utf8_lossy(&undecoded.body).into_owned();
                let remains = Remains::Body(body, headers::message_id(&given));
                let cause = format!("it can't be decoded: {}", undecoded.error);
                let progress = Progress::restored(delivered.attempt, Vec::new(), false);
                return self
                    .bury(remains, &delivered, received_at, &progress, Some(cause))
                    .await;
            }
        };
        if self.is_not_for_the_fallback(&event) {
            return self.acknowledge(Exit::Acked).await;
        }
        let most = self.shop.executor.settings.retry.attempts();
        if delivered.attempt.get() > most.saturating_add(CRASHES) {
            let times = delivered.attempt.get() - 1;
            let cause = format!("it was delivered {times} times and never came to an end");
            let progress = Progress::restored(delivered.attempt, Vec::new(), false);
            let remains = Remains::Event(event);
            return self
                .bury(remains, &delivered, received_at, &progress, Some(cause))
                .await;
        }
        self.attempt(event, &delivered, &given).await
    }

    async fn attempt(&self, event: Event, delivered: &Delivered, given: &HeaderMap) -> Exit {
        let executor = &self.shop.executor;
        let attempt_state = self
            .bench
            .plan
            .attempt_state(delivered.attempt, headers::done(given));
        let mut job = Job {
            number: delivered.sequence,
            parent_span: ParentSpan::none(),
            progress: Progress::restored(delivered.attempt, Vec::new(), false),
            key: None,
            event: event.clone(),
        };
        let span = job
            .parent_span
            .attempt(event.id(), event.event_type().as_str());
        let received_at = event.received_at();
        let next = span
            .instrument(async {
                let attempt_state: Arc<AttemptState> = attempt_state;
                let report = executor.attempt(event, &attempt_state).await;
                executor.finish_attempt(&mut job, &attempt_state, report)
            })
            .await;
        match next {
            Next::Retry(delay) => {
                self.negative(delay).await;
                Exit::Retried
            }
            Next::End(_) if job.progress.ends().iter().any(|end| end.reason().is_some()) => {
                let remains = Remains::Event(job.event);
                self.bury(remains, delivered, received_at, &job.progress, None)
                    .await
            }
            Next::End(_) => self.acknowledge(Exit::Acked).await,
        }
    }

    fn is_not_for_the_fallback(&self, event: &Event) -> bool {
        let Runs::Fallback(fallback) = &self.bench.plan.runs else {
            return false;
        };
        let taken = self.shop.router.matching_routes(event.event_type().clone());
        !taken.iter().any(|route| route.name() == &**fallback)
    }

    fn warn_of_lag(&self, delivered: &Delivered) {
        let executor = &self.shop.executor;
        let waited = executor.time_of_day().duration_since(delivered.published);
        let waited = waited.unwrap_or_default();
        if waited > self.shop.max_lag
            && delivered.attempt == NonZeroU32::MIN
            && self.bench.may_warn(executor.runtime.now())
        {
            telemetry::events_delayed(&self.bench.plan.name, waited);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The server delivers it again once `ack_wait` is over.
        self.leave(Exit::Returned);
    }
}
