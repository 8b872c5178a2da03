use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::jetstream::{AckKind, Message};
use futures_util::future::{Either, select};

use super::dead_letter_stream::LetterBody;
use super::delivery_info::DeliveryInfo;
use super::headers;
use super::plan::RouteSelection;
use super::worker_inner::{RouteConsumer, WorkerInner};
use super::worker_stats::Exit;
use crate::catch_panic::CatchPanic;
use crate::delivery::{Job, Next, Progress};
use crate::event::Event;
use crate::outcome::AttemptState;
use crate::telemetry::{self, ParentSpan};

/// How many deliveries beyond those that the policy allows an event gets that never came to an end: its workers
/// died of it, or were drained. After that it is dead without another attempt.
const CRASHES: u32 = 5;

/// How often a dead letter is tried to be kept before its event is handed back to the server.
const MAX_PUBLISH_ATTEMPTS: u32 = 5;

/// An event that a worker has taken. Whatever happens it leaves the worker once: as its end says, or as handed back when it
/// is dropped before.
pub(super) struct MessageTask {
    pub(super) worker: Arc<WorkerInner>,
    pub(super) route: Arc<RouteConsumer>,
    pub(super) message: Message,
    left: bool,
}

impl MessageTask {
    pub(super) fn new(
        worker: Arc<WorkerInner>,
        route: Arc<RouteConsumer>,
        message: Message,
    ) -> Self {
        worker.enter();
        Self {
            worker,
            route,
            message,
            left: false,
        }
    }

    pub(super) async fn run(mut self) {
        let exit = if self.worker.is_draining() {
            self.nak(Duration::ZERO).await;
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
            self.worker.leave(exit);
        }
    }

    /// Tells the server, until it is dropped, that the event is being worked on.
    async fn keep(&self) -> std::convert::Infallible {
        loop {
            self.worker
                .executor
                .runtime
                .sleep(self.worker.ack_wait / 3)
                .await;
            // What isn't sent is sent next time.
            let _ = self.message.ack_with(AckKind::Progress).await;
        }
    }

    async fn work(&self) -> Exit {
        let given = self.message.headers.clone().unwrap_or_default();
        let Some(delivered) = DeliveryInfo::of(&self.message) else {
            // No message of a stream: nobody waits for an acknowledgement.
            return Exit::Acked;
        };
        if !headers::is_meant_for(&given, &self.route.plan.consumer) {
            return self.ack(Exit::Acked).await;
        }
        self.warn_of_lag(&delivered);
        let received_at = headers::received_at(&given).unwrap_or(delivered.published);
        let body = Box::from(&*self.message.payload);
        let event = match Event::received(body, received_at) {
            Ok(event) => event,
            Err(undecoded) => {
                let body = String::from_utf8_lossy(&undecoded.body).into_owned();
                let body = LetterBody::Body(body, headers::message_id(&given));
                let cause = format!("it can't be decoded: {}", undecoded.error);
                let progress = Progress::restored(delivered.attempt, Vec::new(), false);
                return self
                    .store(body, &delivered, received_at, &progress, Some(cause))
                    .await;
            }
        };
        if self.is_not_for_the_fallback(&event) {
            return self.ack(Exit::Acked).await;
        }
        let most = self.worker.executor.settings.retry.attempts();
        if delivered.attempt.get() > most.saturating_add(CRASHES) {
            let times = delivered.attempt.get() - 1;
            let cause = format!("it was delivered {times} times and never came to an end");
            let progress = Progress::restored(delivered.attempt, Vec::new(), false);
            let body = LetterBody::Event(event);
            return self
                .store(body, &delivered, received_at, &progress, Some(cause))
                .await;
        }
        self.attempt(event, &delivered, &given).await
    }

    async fn attempt(&self, event: Event, delivered: &DeliveryInfo, given: &HeaderMap) -> Exit {
        let executor = &self.worker.executor;
        let attempt_state = self
            .route
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
                self.nak(delay).await;
                Exit::Retried
            }
            Next::End(_) if job.progress.ends().iter().any(|end| end.reason().is_some()) => {
                let body = LetterBody::Event(job.event);
                self.store(body, delivered, received_at, &job.progress, None)
                    .await
            }
            Next::End(_) => self.ack(Exit::Acked).await,
        }
    }

    fn is_not_for_the_fallback(&self, event: &Event) -> bool {
        let RouteSelection::Fallback(fallback) = &self.route.plan.runs else {
            return false;
        };
        let taken = self
            .worker
            .router
            .matching_routes(event.event_type().clone());
        !taken.iter().any(|route| route.name() == &**fallback)
    }

    fn warn_of_lag(&self, delivered: &DeliveryInfo) {
        let executor = &self.worker.executor;
        let waited = executor.time_of_day().duration_since(delivered.published);
        let waited = waited.unwrap_or_default();
        if waited > self.worker.max_lag
            && delivered.attempt == NonZeroU32::MIN
            && self.route.may_warn(executor.runtime.now())
        {
            telemetry::events_delayed(&self.route.plan.name, waited);
        }
    }
}

impl MessageTask {
    /// Keeps a dead letter, and only then tells the server that the event is done.
    pub(super) async fn store(
        &self,
        body: LetterBody,
        delivered: &DeliveryInfo,
        received_at: SystemTime,
        progress: &Progress,
        cause: Option<String>,
    ) -> Exit {
        let executor = &self.worker.executor;
        let times = (received_at, executor.time_of_day());
        for tries in 0..MAX_PUBLISH_ATTEMPTS {
            let stored = self.worker.dead_letters.store(
                &body,
                (&self.route.plan.consumer, delivered.sequence),
                times,
                progress,
                cause.as_deref(),
            );
            match stored.await {
                Ok(letter) => {
                    let exit = self.ack(Exit::Dead).await;
                    executor.dead_lettered(&letter);
                    return exit;
                }
                Err(error) => {
                    if tries == 0 {
                        telemetry::dead_letter_not_stored(&self.route.plan.name, &error);
                    }
                    let wait = Duration::from_millis(200) * (tries + 1);
                    executor.runtime.sleep(wait).await;
                }
            }
        }
        self.nak(self.worker.ack_wait).await;
        Exit::Retried
    }

    /// Tells the server that the event is done, until it says that it knows. If it doesn't in the time after which it
    /// would deliver the event again, it will.
    pub(super) async fn ack(&self, exit: Exit) -> Exit {
        let runtime = &self.worker.executor.runtime;
        let begun = runtime.now();
        while !self.is_acknowledged().await {
            if runtime.now().saturating_duration_since(begun) >= self.worker.ack_wait {
                return Exit::Retried;
            }
            runtime.sleep(Duration::from_millis(100)).await;
        }
        exit
    }

    /// Tells the server that the event is done, and returns whether it answered. The client's own double
    /// acknowledgement takes it for an answer that nobody is there to answer, as while a leader is elected.
    async fn is_acknowledged(&self) -> bool {
        let Some(reply) = self.message.reply.clone() else {
            return false;
        };
        let client = self.worker.dead_letters.client();
        client.request(reply, "+ACK".into()).await.is_ok()
    }

    /// Hands the event back, to be delivered again after a time. If that gets lost it is after `ack_wait`.
    pub(super) async fn nak(&self, delay: Duration) {
        let delay = (!delay.is_zero()).then_some(delay);
        let _ = self.message.ack_with(AckKind::Nak(delay)).await;
    }
}

impl Drop for MessageTask {
    fn drop(&mut self) {
        // The server delivers it again once `ack_wait` is over.
        self.leave(Exit::Returned);
    }
}
