//! Publishes events to the stream.

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::connection::State;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, Context, ErrorCode};
use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::StreamSettings;
use super::headers;
use super::stalls::{Operation, Stalls};
use super::stream::{self, is_stream_missing, mismatch};
use super::subjects::{Subjects, encoded};
use crate::catch_panic::catch_panic;
use crate::delivery::{Attempt, Stats};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Drained, InboxControl, InboxInfo};
use crate::runtime::{BoxFuture, Runtime, TokioRuntime};
use crate::waiters::Waiters;

/// The maximum size of a message without its body, in bytes: subject, headers and framing.
const OVERHEAD: usize = 1024;

/// The time between two comparisons of the stream with the settings, while events arrive.
const CHECK_EVERY: Duration = Duration::from_secs(60);

type Answer = Result<Accepted, AcceptError>;

#[derive(Clone, Copy, Debug)]
pub(super) struct PublishLimits {
    pub(super) publish_timeout: Duration,
    pub(super) bytes: usize,
}

/// The state that the clones of an inbox share.
pub(super) struct Publisher {
    context: Context,
    settings: StreamSettings,
    subjects: Subjects,
    limits: PublishLimits,
    runtime: Arc<TokioRuntime>,
    stalls: Stalls,
    /// The stream's own limit for the size of a message, in bytes, if the stream has a limit.
    max_message_size: Option<usize>,
    state: Mutex<InFlight>,
}

/// The publications in flight, and the counts.
#[derive(Default)]
struct InFlight {
    publications: u64,
    bytes: usize,
    draining: bool,
    accepted: u64,
    duplicates: u64,
    refused: u64,
    /// When the stream was last compared with the settings.
    checked: Option<Instant>,
    /// Notified when no publication is in flight.
    idle: Waiters,
}

impl InFlight {
    /// Returns the overhead of all publications in flight and one new publication.
    fn overhead(&self) -> usize {
        let publications = usize::try_from(self.publications).unwrap_or(usize::MAX);
        publications.saturating_add(1).saturating_mul(OVERHEAD)
    }
}

impl Publisher {
    pub(super) fn new(
        context: Context,
        settings: StreamSettings,
        limits: PublishLimits,
        max_message_size: Option<usize>,
    ) -> Self {
        let runtime = Arc::new(TokioRuntime::new());
        Self {
            context,
            subjects: settings.subjects(),
            settings,
            limits,
            stalls: Stalls::new(Arc::clone(&runtime) as Arc<dyn Runtime>),
            runtime,
            max_message_size: max_message_size.filter(|bytes| *bytes > 0),
            state: Mutex::default(),
        }
    }

    pub(super) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.runtime) as Arc<dyn Runtime>
    }

    /// Returns the maximum size of a body, in bytes. The limit may change when the client connects to another server.
    pub(super) fn max_body_bytes(&self) -> usize {
        let payload = self.context.client().max_payload();
        let message = self.max_message_size.unwrap_or(payload);
        payload.min(message).saturating_sub(OVERHEAD)
    }

    /// Publishes an event in its own task, so that the event is counted even if the caller drops its future.
    pub(super) async fn publish(self: Arc<Self>, event: Event) -> Answer {
        let permit = self.admit(event.body().len())?;
        let (sender, receiver) = oneshot::channel();
        let publication = Publication {
            publisher: Arc::clone(&self),
            sender: Some(sender),
        };
        let task = Box::pin(publication.run(event, permit));
        // Without a runtime, the publication is dropped and the event counts as refused.
        let _ = catch_panic(|| self.runtime.spawn(task));
        let answer = receiver.await;
        answer.unwrap_or_else(|_| Err(AcceptError::unavailable()))
    }

    /// Admits a publication of `bytes` bytes.
    fn admit(self: &Arc<Self>, bytes: usize) -> Result<PublishPermit, AcceptError> {
        let is_connected = self.context.client().connection_state() == State::Connected;
        let admitted = {
            let mut state = self.state();
            let held = state.bytes.saturating_add(bytes);
            let held = held.saturating_add(state.overhead());
            if state.draining {
                Err((AcceptError::draining(), None))
            } else if !is_connected {
                // The client would buffer the event.
                let cause = "the client isn't connected to the server";
                Err((AcceptError::unavailable(), Some(cause)))
            } else if bytes > self.max_body_bytes() {
                Err((AcceptError::unavailable(), None))
            } else if state.publications > 0 && held > self.limits.bytes {
                let cause =
                    "too many events are waiting for their acknowledgement: see `max_bytes_in_flight`";
                Err((AcceptError::full(), Some(cause)))
            } else {
                state.publications += 1;
                state.bytes += bytes;
                Ok(())
            }
            .inspect_err(|_| state.refused += 1)
        };
        match admitted {
            Ok(()) => {
                self.stalls.clear(None, Operation::Admit);
                let publisher = Arc::clone(self);
                Ok(PublishPermit { publisher, bytes })
            }
            Err((refused, cause)) => {
                if let Some(cause) = cause {
                    self.stalls.raise(None, Operation::Admit, cause.to_owned());
                }
                Err(refused)
            }
        }
    }

    async fn send(&self, event: &Event) -> Result<PublishAck, PublishError> {
        let mut headers = HeaderMap::new();
        headers::set_received_at(&mut headers, event.received_at());
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(event.body().as_bytes()))
            .headers(headers)
            .message_id(encoded(event.id()))
            .expected_stream(self.settings.stream_name());
        let subject = self.subjects.of(event.event_type());
        self.context.send_publish(subject, message).await?.await
    }

    /// Sends an event and waits for the acknowledgement. Creates a missing stream if the settings say so.
    async fn acknowledged(&self, event: &Event) -> Result<PublishAck, PublishError> {
        let acknowledged = self.send(event).await;
        if !self.settings.creates() || !is_stream_missing(&acknowledged) {
            return acknowledged;
        }
        match stream::find(&self.context, &self.settings).await {
            Ok(_) => self.send(event).await,
            Err(_) => acknowledged,
        }
    }

    /// Returns the answer for the outcome of a publication, and records whether the stream accepts events.
    fn judge(&self, acknowledged: &Result<PublishAck, PublishError>) -> Answer {
        let error = match acknowledged {
            Ok(ack) if ack.duplicate => return Ok(Accepted::Duplicate),
            Ok(_) => {
                self.stalls.clear(None, Operation::Publish);
                return Ok(Accepted::New);
            }
            Err(error) => error,
        };
        let response = error
            .source()
            .and_then(|source| source.downcast_ref::<jetstream::Error>());
        let refused = match response.map(jetstream::Error::error_code) {
            // Another receiver is currently publishing a copy.
            Some(ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT) => {
                return Err(AcceptError::unavailable().retry_after(Duration::from_secs(1)));
            }
            Some(
                ErrorCode::STREAM_STORE_FAILED
                | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ) => AcceptError::full(),
            _ => AcceptError::unavailable(),
        };
        let stream = self.settings.stream_name();
        let cause = match error.kind() {
            PublishErrorKind::StreamNotFound => {
                let subjects = self.subjects.all();
                format!(
                    "no stream has the subjects `{subjects}`: the stream {stream} is missing or was changed, or the server has \
                     turned JetStream off"
                )
            }
            PublishErrorKind::TimedOut => return Err(self.overdue()),
            _ => format!("the stream {stream} doesn't accept events: {error}"),
        };
        self.stalls.raise(None, Operation::Publish, cause);
        Err(refused)
    }

    /// Records that no acknowledgement arrived in time. The server doesn't answer a publication that it denies.
    fn overdue(&self) -> AcceptError {
        let (stream, timeout) = (self.settings.stream_name(), self.limits.publish_timeout);
        let cause = format!(
            "the stream {stream} sent no acknowledgement within {timeout:?}: the server is overloaded or unreachable, or it \
             denies `publish` on `{}` to this user",
            self.subjects.all()
        );
        self.stalls.raise(None, Operation::Publish, cause);
        AcceptError::unavailable()
    }

    /// Compares the stream with the settings if a comparison is due. An operator may have changed the stream.
    async fn check_stream(&self) {
        let now = self.runtime.now();
        {
            let mut state = self.state();
            let checked = state.checked.get_or_insert(now);
            if now.saturating_duration_since(*checked) < CHECK_EVERY {
                return;
            }
            *checked = now;
        }
        let Ok(stream) = stream::find(&self.context, &self.settings).await else {
            // The next publication fails and reports the cause.
            return;
        };
        let cause = mismatch(&stream.cached_info().config, &self.settings);
        self.stalls.update(None, Operation::CheckStream, cause);
    }

    fn count(&self, answer: &Answer) {
        let mut state = self.state();
        *match answer {
            Ok(Accepted::New) => &mut state.accepted,
            Ok(Accepted::Duplicate) => &mut state.duplicates,
            Err(_) => &mut state.refused,
        } += 1;
    }

    fn state(&self) -> MutexGuard<'_, InFlight> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no publication is in flight.
    async fn idle(&self) {
        let idle = {
            let mut state = self.state();
            if state.publications == 0 {
                return;
            }
            state.idle.wait()
        };
        // `self` holds the sender, so the channel stays open.
        let _ = idle.await;
    }
}

/// A publication in flight. It is answered and counted once, even if it is dropped.
struct Publication {
    publisher: Arc<Publisher>,
    sender: Option<oneshot::Sender<Answer>>,
}

impl Publication {
    async fn run(mut self, event: Event, permit: PublishPermit) {
        let publisher = Arc::clone(&self.publisher);
        let overdue = publisher.runtime.sleep(publisher.limits.publish_timeout);
        let acknowledged = Box::pin(publisher.acknowledged(&event));
        let outcome = match select(acknowledged, overdue).await {
            Either::Left((outcome, _)) => {
                self.answer(publisher.judge(&outcome));
                outcome
            }
            Either::Right(((), acknowledged)) => {
                self.answer(Err(publisher.overdue()));
                let outcome = acknowledged.await;
                if let Ok(Accepted::New) = publisher.judge(&outcome) {
                    publisher.count(&Ok(Accepted::New));
                }
                outcome
            }
        };
        if outcome.is_err_and(|error| error.kind() == PublishErrorKind::TimedOut) {
            // The client may hold the body while it is disconnected, so keep the permit until the client has sent everything.
            let _ = publisher.context.client().flush().await;
        }
        drop(permit);
        publisher.check_stream().await;
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(sender) = self.sender.take() {
            self.publisher.count(&answer);
            // The caller may have dropped its future.
            let _ = sender.send(answer);
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.answer(Err(AcceptError::unavailable()));
    }
}

/// The permit of a publication, released on drop.
struct PublishPermit {
    publisher: Arc<Publisher>,
    bytes: usize,
}

impl Drop for PublishPermit {
    fn drop(&mut self) {
        let idle = {
            let mut state = self.publisher.state();
            state.publications -= 1;
            state.bytes -= self.bytes;
            (state.publications == 0).then(|| state.idle.take())
        };
        if let Some(idle) = idle {
            idle.wake();
        }
    }
}

impl InboxControl for Publisher {
    fn info(&self) -> InboxInfo {
        InboxInfo {
            kind: "jetstream",
            location: Some(self.settings.stream_name().to_owned()),
            recovered: None,
        }
    }

    fn stats(&self) -> Stats {
        let state = self.state();
        Stats {
            accepted: state.accepted,
            published: state.accepted,
            duplicates: state.duplicates,
            refused: state.refused,
            bytes: state.bytes as u64,
            ..Stats::default()
        }
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            self.state().draining = true;
            let sleep = self.runtime.sleep(within);
            let idle = Box::pin(self.idle());
            match select(idle, sleep).await {
                Either::Left(_) => Drained::new(0),
                Either::Right(_) => Drained::new(self.state().publications),
            }
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move { self.idle().await })
    }

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>) {
        // The workers run the attempts.
        drop(hook);
    }
}
