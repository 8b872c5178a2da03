use std::convert::Infallible;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_nats::jetstream::{AckKind, Message};
use async_nats::{HeaderMap, Request};
use futures_util::future::{Either, select};
use tokio::sync::OwnedSemaphorePermit;

use super::backoff::Backoff;
use super::checkpoints::nanos;
use super::connection::{Running, failed};
use super::headers;
use super::route_consumer::{RouteConsumer, RouteSelection};
use super::stalls::Operation;
use super::worker_inner::WorkerInner;
use super::worker_stats::Exit;
use crate::catch_panic::CatchPanic;
use crate::delivery::{
    AttemptRecord, DeadLetter, EventState, Job, Next, Progress, RouteResult, StoredRecord,
};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::Report;
use crate::telemetry::ParentSpan;

/// The extra deliveries beyond the policy's attempts, for an event whose workers crashed or were drained. After these deliveries,
/// the worker dead-letters the event without an attempt.
const CRASHES: u32 = 5;

/// If the server doesn't answer an acknowledgement within this time, the worker sends it again.
const ACK_TIMEOUT: Duration = Duration::from_secs(1);

/// The task of an event that the server delivered. If the task is dropped before its exit, it counts the event as returned.
pub(super) struct MessageTask {
    worker: Arc<WorkerInner>,
    route: Arc<RouteConsumer>,
    message: Message,
    headers: HeaderMap,
    attempt: NonZeroU32,
    /// The number of deliveries that the consumer has made.
    pub(super) consumer_sequence: u64,
    /// The identity of the event's stream, and the event's sequence in it.
    stream: u64,
    sequence: u64,
    published: SystemTime,
    exit: Exit,
    _permit: Option<OwnedSemaphorePermit>,
    _running: Running,
}

/// How the work on an event ended: its exit, or the delay after which the server redelivers the event.
type End = Result<Exit, Duration>;

impl MessageTask {
    /// Returns `None` if the message isn't from a stream.
    pub(super) fn new(
        worker: &Arc<WorkerInner>,
        route: &Arc<RouteConsumer>,
        message: Message,
    ) -> Option<Self> {
        let info = message.info().ok()?;
        let attempt = u32::try_from(info.delivered).unwrap_or(u32::MAX);
        let (sequence, consumer_sequence) = (info.stream_sequence, info.consumer_sequence);
        let published = SystemTime::from(info.published);
        worker.counts().enter();
        Some(Self {
            worker: Arc::clone(worker),
            route: Arc::clone(route),
            headers: message.headers.clone().unwrap_or_default(),
            message,
            attempt: NonZeroU32::new(attempt).unwrap_or(NonZeroU32::MIN),
            consumer_sequence,
            stream: worker.checkpoints.stream(),
            sequence,
            published,
            exit: Exit::Returned,
            _permit: Arc::clone(&route.permits).try_acquire_owned().ok(),
            _running: worker.connection.draining.subscribe(),
        })
    }

    pub(super) async fn run(mut self) {
        let Some(guard) = self.route.begin(self.sequence) else {
            // The event is already running, and the acknowledgement of its first delivery is also valid for this delivery.
            return;
        };
        let delay = if self.worker.connection.is_draining() {
            Some(Duration::ZERO)
        } else {
            let end = self.process_alive().await;
            self.exit = end.unwrap_or(Exit::Retried);
            end.err()
        };
        // The server can redeliver the event as soon as it receives the message below.
        drop(guard);
        if let Some(delay) = delay {
            let delay = (!delay.is_zero()).then_some(delay);
            // If the message gets lost, the server redelivers the event after `ack_wait`.
            let _ = self.message.ack_with(AckKind::Nak(delay)).await;
        }
    }

    /// Processes the event, and signals progress to the server in the meantime.
    async fn process_alive(&self) -> End {
        let process = pin!(CatchPanic::new(self.process()));
        match select(process, pin!(self.keep_alive())).await {
            // The executor catches panics of the user's code. After a panic in this crate, the server redelivers the event.
            Either::Left((end, _)) => end.unwrap_or(Ok(Exit::Retried)),
            Either::Right((never, _)) => match never {},
        }
    }

    async fn keep_alive(&self) -> Infallible {
        loop {
            let ack_wait = self.worker.options.ack_wait;
            let ack_wait = ack_wait.min(self.route.ack_wait());
            self.worker.connection.runtime.sleep(ack_wait / 3).await;
            // A lost signal does no harm, because the next signal follows.
            let _ = self.message.ack_with(AckKind::Progress).await;
        }
    }

    async fn process(&self) -> End {
        let worker = &self.worker;
        if !headers::is_meant_for(&self.headers, &self.route.consumer) {
            return self.ack(Exit::Acked).await;
        }
        if self.attempt > NonZeroU32::MIN {
            // If another worker finished the event but got no answer to its acknowledgement, the server redelivers the event only
            // after `ack_wait`. So a record that is half as old has the event.
            let age = worker.options.ack_wait / 2;
            worker.checkpoints.refresh(age).await;
        }
        if self.is_finished() {
            // Look up the stream first, because a new stream with the same name reuses the sequences.
            if worker.events().await.is_err() {
                return Err(Backoff::FAILED.longest);
            }
            if self.is_finished() {
                return self.ack(Exit::Acked).await;
            }
        }
        self.warn_of_delay();
        let body = Box::from(&*self.message.payload);
        let traceparent = headers::traceparent(&self.headers);
        let event = match Event::received(body, self.received_at(), traceparent) {
            Ok(event) => event,
            Err(undecoded) => {
                let cause = format!("it can't be decoded: {}", undecoded.error);
                return self.dead_letter(&[], Some(cause)).await;
            }
        };
        let route = &self.route;
        if matches!(route.selection, RouteSelection::Fallback) {
            let matching = worker.router.matching_routes(event.event_type().clone());
            if !matching
                .iter()
                .any(|matching| *matching.name() == *route.name)
            {
                return self.ack(Exit::Acked).await;
            }
        }
        let most = self.max_attempts();
        if self.attempt.get() > most.saturating_add(CRASHES) {
            let times = self.attempt.get() - 1;
            let cause = format!("it was delivered {times} times and never finished");
            return self.dead_letter(&[], Some(cause)).await;
        }
        self.attempt(event).await
    }

    /// Returns the maximum number of attempts of the consumer's routes.
    fn max_attempts(&self) -> u32 {
        let default = &self.worker.executor.settings.retry;
        let is_shared = matches!(self.route.selection, RouteSelection::Rest(_));
        let routes = self.worker.router.routes();
        let routes = routes.filter(|route| is_shared || *route.name() == *self.route.name);
        let attempts = routes.map(|route| route.policy(default).attempts());
        attempts.max().unwrap_or_else(|| default.attempts())
    }

    /// Returns the event's sequence and its time of publication, in nanoseconds since the Unix epoch.
    fn position(&self) -> (u64, u64) {
        (self.sequence, nanos(self.published))
    }

    fn is_finished(&self) -> bool {
        let checkpoints = &self.worker.checkpoints;
        checkpoints.is_finished(&self.route.consumer, self.position())
    }

    fn received_at(&self) -> SystemTime {
        headers::received_at(&self.headers).unwrap_or(self.published)
    }

    async fn attempt(&self, event: Event) -> End {
        let executor = &self.worker.executor;
        let finished = headers::finished_routes(&self.headers);
        let only = headers::only_route(&self.headers);
        // A dead letter of a replay also has the routes that the replay doesn't run, so the next replay doesn't run them either.
        let results = finished.iter().map(RouteResult::handled_by).collect();
        let attempt_state = self.route.attempt_state(self.attempt, finished, only);
        let attempt_state = Arc::new(attempt_state.with_clock(executor.clock()));
        let mut job = Job {
            number: self.sequence,
            parent_span: ParentSpan::none(),
            progress: Progress::restored(self.attempt, results, false),
            key: None,
            event: event.clone(),
        };
        let span = executor.attempt_span(&job);
        let next = span
            .instrument(async {
                let began = executor.now();
                let report = executor.attempt(event, &attempt_state).await;
                let lasted = executor.now().saturating_duration_since(began);
                self.log_attempt(lasted, &report);
                executor.finish_attempt(&mut job, &attempt_state, report, lasted)
            })
            .await;
        let results = job.progress.results();
        match next {
            Next::Retry(delay) => {
                self.worker.executor.metrics.retried();
                Err(delay)
            }
            // Opening a worker refuses routes that would wait for a key, and the consumer's permits limit the runs.
            Next::Wait(_) => Err(Backoff::FAILED.first),
            Next::End(_) if results.iter().any(RouteResult::is_failure) => {
                self.dead_letter(results, None).await
            }
            Next::End(_) => self.ack(Exit::Acked).await,
        }
    }

    /// Remembers an attempt for the event log.
    fn log_attempt(&self, lasted: Duration, report: &Report) {
        let ended_at = self.worker.executor.time_of_day();
        let attempt = AttemptRecord::new(self.attempt.get(), ended_at, lasted, report);
        let event = headers::replay_of(&self.headers).unwrap_or(self.sequence);
        let attempts = &self.worker.log.attempts;
        attempts.add(self.stream, event, self.sequence, attempt);
    }

    /// Stores a dead letter, then acknowledges the event. If the letter can't be stored, the worker retries storing it, but doesn't
    /// run the route again. The event keeps its permit, so the route stalls before many letters wait in memory.
    async fn dead_letter(&self, results: &[RouteResult], cause: Option<String>) -> End {
        let (worker, consumer) = (&self.worker, &self.route.consumer);
        let letter = DeadLetter::stored(StoredRecord {
            id: 0,
            message_id: &headers::message_id(&self.headers).unwrap_or_default(),
            body: &String::from_utf8_lossy(&self.message.payload),
            traceparent: headers::traceparent(&self.headers),
            state: EventState::Dead,
            received_at: self.received_at(),
            ended_at: Some(worker.executor.time_of_day()),
            attempts: self.attempt.get(),
            routes: results.to_vec(),
            history: Vec::new(),
            cause: cause.map(Arc::from),
        });
        let mut tries = 0;
        let stored = loop {
            let replay_of = headers::replay_of(&self.headers);
            let letters = &worker.dead_letters;
            let stored = letters.store(&letter, consumer, self.sequence, replay_of);
            let stored = stored.await;
            self.report(Operation::StoreDeadLetter, &stored);
            if let Ok(stored) = stored {
                break stored;
            }
            let wait = Backoff::FAILED.wait(tries);
            worker.connection.runtime.sleep(wait).await;
            tries += 1;
        };
        let end = self.ack(Exit::Dead).await;
        worker.executor.dead_lettered(&stored);
        end
    }

    /// Sends the acknowledgement repeatedly until the server answers. If the server doesn't answer within `ack_wait`, it redelivers
    /// the event, and the worker acknowledges it without another attempt.
    async fn ack(&self, exit: Exit) -> End {
        let checkpoints = &self.worker.checkpoints;
        checkpoints.finish(&self.route.consumer, self.stream, self.position());
        let runtime = &self.worker.connection.runtime;
        let begun = runtime.now();
        // In another stream, the acknowledgement would apply to another event.
        while checkpoints.stream() == self.stream {
            let sent = self.send_ack().await;
            self.report(Operation::Acknowledge, &sent);
            if sent.is_ok() {
                break;
            }
            if runtime.now().saturating_duration_since(begun) >= self.worker.options.ack_wait {
                let is_stored = exit == Exit::Dead;
                return Ok(if is_stored { exit } else { Exit::Retried });
            }
            runtime.sleep(Backoff::FAILED.first).await;
        }
        Ok(exit)
    }

    /// Sends an acknowledgement and waits for the answer. The client's own double acknowledgement mistakes "no responders" for an
    /// answer, for example while a leader is elected.
    async fn send_ack(&self) -> Result<(), Error> {
        let reply = self.message.reply.clone();
        let reply = reply.expect("a message from a stream has a reply subject");
        let request = Request::new().payload("+ACK".into());
        let request = request.timeout(Some(ACK_TIMEOUT));
        let client = self.worker.connection.context.client();
        let answer = client.send_request(reply, request).await;
        answer.map_err(|error| failed("events can't be acknowledged", error))?;
        Ok(())
    }

    fn report<T>(&self, operation: Operation, result: &Result<T, Error>) {
        let stalls = &self.worker.connection.stalls;
        stalls.report(Some(&self.route.name), operation, result);
    }

    fn warn_of_delay(&self) {
        if self.attempt > NonZeroU32::MIN {
            return;
        }
        let now = self.worker.connection.server_time();
        let waited = now.duration_since(self.published);
        let text = "events are waiting longer than half of the stream's `max_age`: add workers before the stream deletes the events";
        let result = match waited.unwrap_or_default() > self.worker.max_delay {
            true => Err(Error::new(ErrorKind::Inbox, text)),
            false => Ok(()),
        };
        self.report(Operation::KeepUp, &result);
    }
}

impl Drop for MessageTask {
    fn drop(&mut self) {
        self.worker.counts().leave(self.exit);
        let metrics = &self.worker.executor.metrics;
        metrics.delivery(&self.route.name, self.exit.as_str());
    }
}
