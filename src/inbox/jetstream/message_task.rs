use std::convert::Infallible;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message};
use async_nats::{HeaderMap, Request};
use futures_util::future::{Either, select};

use super::backoff::Backoff;
use super::dead_letter_stream::{LetterBody, NewLetter};
use super::delivery_info::DeliveryInfo;
use super::headers;
use super::plan::RouteSelection;
use super::route_consumer::RouteConsumer;
use super::stalls::Operation;
use super::stream::{self, describe};
use super::worker_inner::WorkerInner;
use super::worker_stats::Exit;
use crate::catch_panic::CatchPanic;
use crate::delivery::{Job, Next, Progress};
use crate::event::Event;
use crate::telemetry::{self, ParentSpan};

/// The extra deliveries beyond the policy's attempts, for an event whose workers crashed or were drained. After these deliveries,
/// the worker dead-letters the event without an attempt.
const CRASHES: u32 = 5;

/// If the server doesn't answer an acknowledgement within this time, the worker sends it again.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// The task of an event that the server delivered. The task counts its exit. If the task is dropped before its exit, it counts the
/// event as returned.
pub(super) struct MessageTask {
    worker: Arc<WorkerInner>,
    route: Arc<RouteConsumer>,
    message: Message,
    /// The identity of the event's stream.
    stream: u64,
    has_left: bool,
}

/// How the work on an event ended.
enum End {
    Exit(Exit),
    /// The server redelivers the event after this time.
    Nak(Duration),
}

impl MessageTask {
    pub(super) fn new(
        worker: Arc<WorkerInner>,
        route: Arc<RouteConsumer>,
        message: Message,
    ) -> Self {
        worker.enter();
        Self {
            stream: worker.checkpoints.stream(),
            worker,
            route,
            message,
            has_left: false,
        }
    }

    pub(super) async fn run(mut self) {
        let exit = self.exit().await;
        self.leave(exit);
    }

    async fn exit(&self) -> Exit {
        let Some(info) = DeliveryInfo::of(&self.message) else {
            // The message isn't from a stream, so nothing waits for an acknowledgement.
            return Exit::Acked;
        };
        let Some(guard) = self.route.begin(info.sequence) else {
            // The event is already running, and the acknowledgement of its first delivery is also valid for this delivery.
            return Exit::Returned;
        };
        let (end, exit) = if self.worker.is_draining() {
            (End::Nak(Duration::ZERO), Exit::Returned)
        } else {
            (self.process_alive(&info).await, Exit::Retried)
        };
        // The server can redeliver the event as soon as it receives the message below.
        drop(guard);
        match end {
            End::Exit(exit) => exit,
            End::Nak(delay) => {
                let delay = (!delay.is_zero()).then_some(delay);
                // If the message gets lost, the server redelivers the event after `ack_wait`.
                let _ = self.message.ack_with(AckKind::Nak(delay)).await;
                exit
            }
        }
    }

    fn leave(&mut self, exit: Exit) {
        if !std::mem::replace(&mut self.has_left, true) {
            self.worker.leave(exit);
        }
    }

    /// Processes the event, and signals progress to the server in the meantime.
    async fn process_alive(&self, info: &DeliveryInfo) -> End {
        let process = pin!(CatchPanic::new(self.process(info)));
        let keep_alive = pin!(self.keep_alive());
        match select(process, keep_alive).await {
            // The executor catches panics of the user's code. After a panic in this crate, the server redelivers the event.
            Either::Left((end, _)) => end.unwrap_or(End::Exit(Exit::Retried)),
            Either::Right((never, _)) => match never {},
        }
    }

    async fn keep_alive(&self) -> Infallible {
        loop {
            let ack_wait = self.worker.ack_wait.min(self.route.ack_wait());
            self.worker.executor.runtime.sleep(ack_wait / 3).await;
            // A lost signal does no harm, because the next signal follows.
            let _ = self.message.ack_with(AckKind::Progress).await;
        }
    }

    async fn process(&self, info: &DeliveryInfo) -> End {
        let headers = self.message.headers.clone().unwrap_or_default();
        if !headers::is_meant_for(&headers, &self.route.plan.consumer) {
            return self.ack(info, Exit::Acked).await;
        }
        if info.attempt > NonZeroU32::MIN {
            self.worker.consumers.refresh_checkpoints().await;
        }
        if self.is_finished(info) {
            // Look up the stream first, because a new stream with the same name reuses the sequences.
            let (context, settings) = (
                &self.worker.consumers.context,
                &self.worker.consumers.settings,
            );
            match stream::find(context, settings).await {
                Ok(stream) => self.worker.checkpoints.identify(stream.cached_info()),
                Err(_) => return End::Nak(Backoff::FAILED.longest),
            }
            if self.is_finished(info) {
                return self.ack(info, Exit::Acked).await;
            }
        }
        self.warn_of_delay(info);
        let received_at = headers::received_at(&headers).unwrap_or(info.published);
        let unstarted = Progress::restored(info.attempt, Vec::new(), false);
        let body = Box::from(&*self.message.payload);
        let event = match Event::received(body, received_at, None) {
            Ok(event) => event,
            Err(undecoded) => {
                let body = String::from_utf8_lossy(&undecoded.body).into_owned();
                let body = LetterBody::Undecoded(body, headers::message_id(&headers));
                let cause = format!("it can't be decoded: {}", undecoded.error);
                let letter = NewLetter::new(&body, received_at, &unstarted, Some(cause));
                return self.dead_letter(info, letter).await;
            }
        };
        if self.is_not_for_the_fallback(&event) {
            return self.ack(info, Exit::Acked).await;
        }
        let most = self.worker.executor.settings.retry.attempts();
        if info.attempt.get() > most.saturating_add(CRASHES) {
            let times = info.attempt.get() - 1;
            let cause = format!("it was delivered {times} times and never finished");
            let body = LetterBody::Event(event);
            let letter = NewLetter::new(&body, received_at, &unstarted, Some(cause));
            return self.dead_letter(info, letter).await;
        }
        self.attempt(event, info, &headers).await
    }

    fn is_finished(&self, info: &DeliveryInfo) -> bool {
        let consumer = &self.route.plan.consumer;
        self.worker
            .checkpoints
            .is_finished(consumer, info.position())
    }

    async fn attempt(&self, event: Event, info: &DeliveryInfo, headers: &HeaderMap) -> End {
        let executor = &self.worker.executor;
        let finished = headers::finished_routes(headers);
        let attempt_state = self.route.plan.attempt_state(info.attempt, finished);
        let mut job = Job {
            number: info.sequence,
            parent_span: ParentSpan::none(),
            progress: Progress::restored(info.attempt, Vec::new(), false),
            key: None,
            event: event.clone(),
        };
        let span = executor.attempt_span(&job);
        let received_at = event.received_at();
        let next = span
            .instrument(async {
                let report = executor.attempt(event, &attempt_state).await;
                executor.finish_attempt(&mut job, &attempt_state, report)
            })
            .await;
        match next {
            Next::Retry(delay) => End::Nak(delay),
            Next::End(_) if job.progress.ends().iter().any(|end| end.reason().is_some()) => {
                let body = LetterBody::Event(job.event);
                let letter = NewLetter::new(&body, received_at, &job.progress, None);
                self.dead_letter(info, letter).await
            }
            Next::End(_) => self.ack(info, Exit::Acked).await,
        }
    }

    /// Stores a dead letter, then acknowledges the event. If the letter can't be stored, the worker retries storing it, but doesn't
    /// run the route again. The event keeps its permit, so the route stalls before many letters wait in memory.
    async fn dead_letter(&self, info: &DeliveryInfo, letter: NewLetter<'_>) -> End {
        let (executor, name) = (&self.worker.executor, Some(&self.route.plan.name));
        let letter = letter.of(
            &self.route.plan.consumer,
            info.sequence,
            executor.time_of_day(),
        );
        let mut tries = 0;
        let stored = loop {
            match self.worker.dead_letters.store(&letter).await {
                Ok(stored) => break stored,
                Err(error) => {
                    let (operation, cause) = (Operation::StoreDeadLetter, describe(&error));
                    self.worker.stalls.raise(name, operation, cause);
                }
            }
            executor.runtime.sleep(Backoff::FAILED.wait(tries)).await;
            tries += 1;
        };
        self.worker.stalls.clear(name, Operation::StoreDeadLetter);
        let end = self.ack(info, Exit::Dead).await;
        executor.dead_lettered(&stored);
        end
    }

    /// Sends the acknowledgement repeatedly until the server answers. If the server doesn't answer within `ack_wait`, it redelivers
    /// the event, and the worker acknowledges it without another attempt.
    async fn ack(&self, info: &DeliveryInfo, exit: Exit) -> End {
        let (worker, name) = (&self.worker, Some(&self.route.plan.name));
        let consumer = &self.route.plan.consumer;
        worker
            .checkpoints
            .finish(consumer, self.stream, info.position());
        let runtime = &worker.executor.runtime;
        let begun = runtime.now();
        // In another stream, the acknowledgement would apply to another event.
        while worker.checkpoints.stream() == self.stream {
            match self.send_ack().await {
                Ok(()) => {
                    worker.stalls.clear(name, Operation::Acknowledge);
                    break;
                }
                Err(cause) => {
                    worker.stalls.raise(name, Operation::Acknowledge, cause);
                }
            }
            if runtime.now().saturating_duration_since(begun) >= worker.ack_wait {
                let is_stored = exit == Exit::Dead;
                return End::Exit(if is_stored { exit } else { Exit::Retried });
            }
            runtime.sleep(Backoff::FAILED.first).await;
        }
        End::Exit(exit)
    }

    /// Sends an acknowledgement and waits for the answer. The client's own double acknowledgement mistakes "no responders" for an
    /// answer, for example while a leader is elected.
    async fn send_ack(&self) -> Result<(), String> {
        let reply = self.message.reply.clone();
        let reply = reply.ok_or_else(|| "the event can't be acknowledged".to_owned())?;
        let request = Request::new().payload("+ACK".into());
        let request = request.timeout(Some(ACK_TIMEOUT));
        let client = self.worker.consumers.context.client();
        match client.send_request(reply, request).await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("events can't be acknowledged: {error}")),
        }
    }

    fn is_not_for_the_fallback(&self, event: &Event) -> bool {
        let RouteSelection::Fallback(fallback) = &self.route.plan.selection else {
            return false;
        };
        let matching = self
            .worker
            .router
            .matching_routes(event.event_type().clone());
        !matching.iter().any(|route| route.name() == &**fallback)
    }

    fn warn_of_delay(&self, info: &DeliveryInfo) {
        let waited = self.worker.server_time().duration_since(info.published);
        let waited = waited.unwrap_or_default();
        if waited > self.worker.max_delay
            && info.attempt == NonZeroU32::MIN
            && self.route.may_warn(self.worker.executor.runtime.now())
        {
            telemetry::events_delayed(&self.route.plan.name, waited);
        }
    }
}

impl Drop for MessageTask {
    fn drop(&mut self) {
        // The server redelivers the event after `ack_wait`.
        self.leave(Exit::Returned);
    }
}
