//! Publishes events to the stream.

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::connection;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::StreamSettings;
use super::connection::Connection;
use super::headers;
use super::stalls::Operation;
use super::stream::{check_events, open_events};
use super::subjects::encoded;
use crate::catch_panic::catch_panic;
use crate::delivery::{Attempt, Stats};
use crate::error::Error;
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Drained, InboxControl, InboxInfo, Monitor, Monitored};
use crate::runtime::{BoxFuture, Runtime};

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
    pub(super) connection: Connection,
    limits: PublishLimits,
    /// The stream's own limit for the size of a message, in bytes.
    max_message_size: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    stats: Stats,
    /// When the stream was last compared with the settings.
    checked: Option<Instant>,
}

impl Publisher {
    pub(super) async fn open(connection: Connection, limits: PublishLimits) -> Result<Self, Error> {
        let stream = open_events(&connection).await?;
        let limit = usize::try_from(stream.cached_info().config.max_message_size);
        Ok(Self {
            connection,
            limits,
            // A stream without a limit has a limit of -1 or 0.
            max_message_size: limit.ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX),
            state: Mutex::default(),
        })
    }

    /// Returns the maximum size of a body, in bytes. The limit may change when the client connects to another server.
    pub(super) fn max_body_bytes(&self) -> usize {
        let payload = self.connection.context.client().max_payload();
        payload.min(self.max_message_size).saturating_sub(OVERHEAD)
    }

    pub(super) async fn accept(self: Arc<Self>, event: Event) -> Answer {
        Monitor::wake(&self);
        let answer = self.submit(event).await;
        if answer.is_err() {
            self.state().stats.refused += 1;
        }
        answer
    }

    /// Publishes an event in its own task, so that the event is counted even if the caller drops its future.
    async fn submit(self: &Arc<Self>, event: Event) -> Answer {
        let publication = self.admit(event.body().len())?;
        let runtime = &self.connection.runtime;
        let (sender, receiver) = oneshot::channel();
        let task = Box::pin(publication.run(event, sender));
        // Without a runtime, the task is dropped and no answer arrives.
        let _ = catch_panic(|| runtime.spawn(task));
        match select(receiver, runtime.sleep(self.limits.publish_timeout)).await {
            Either::Left((answer, _)) => answer.unwrap_or_else(|_| Err(AcceptError::unavailable())),
            Either::Right(_) => self.judge(Err(PublishErrorKind::TimedOut.into())),
        }
    }

    /// Admits a publication of `bytes` bytes.
    fn admit(self: &Arc<Self>, bytes: usize) -> Result<Publication, AcceptError> {
        let is_connected =
            self.connection.context.client().connection_state() == connection::State::Connected;
        let (refused, cause) = {
            let mut state = self.state();
            let count = self.connection.draining.receiver_count();
            let held = usize::try_from(state.stats.bytes).unwrap_or(usize::MAX);
            let held = held.saturating_add(bytes);
            let held = held.saturating_add((count + 1).saturating_mul(OVERHEAD));
            if self.connection.is_draining() {
                (AcceptError::draining(), None)
            } else if !is_connected {
                // The client would buffer the event.
                let cause = "the client isn't connected to the server";
                (AcceptError::unavailable(), Some(cause))
            } else if bytes > self.max_body_bytes() {
                (AcceptError::unavailable(), None)
            } else if count > 0 && held > self.limits.bytes {
                let cause = "too many events are waiting for their acknowledgement: see `max_bytes_in_flight`";
                (AcceptError::full(), Some(cause))
            } else {
                state.stats.bytes += bytes as u64;
                drop(state);
                self.connection.stalls.clear(None, Operation::Admit);
                return Ok(Publication {
                    publisher: Arc::clone(self),
                    bytes: bytes as u64,
                    _draining: self.connection.draining.subscribe(),
                });
            }
        };
        if let Some(cause) = cause {
            self.connection
                .stalls
                .raise(None, Operation::Admit, cause.to_owned());
        }
        Err(refused)
    }

    async fn send(&self, event: &Event) -> Result<PublishAck, PublishError> {
        let settings = &self.connection.settings;
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(event.body().as_bytes()))
            .headers(headers::of_event(event))
            .message_id(encoded(event.id()))
            .expected_stream(&settings.name);
        let subject = settings.subjects().of(event.event_type());
        let published = self
            .connection
            .publish(StreamSettings::events, subject, message);
        published.await
    }

    /// Returns the answer for the outcome of a publication, and records whether the stream accepts events.
    fn judge(&self, published: Result<PublishAck, PublishError>) -> Answer {
        let error = match published {
            Ok(ack) if ack.duplicate => return Ok(Accepted::Duplicate),
            Ok(_) => {
                self.connection.stalls.clear(None, Operation::Publish);
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
        let error = self.connection.unpublished(StreamSettings::events, error);
        let stalls = &self.connection.stalls;
        stalls.report::<()>(None, Operation::Publish, &Err(error));
        Err(refused)
    }

    /// Compares the stream with the settings if a comparison is due. An operator may have changed the stream.
    async fn check_stream(&self) {
        let now = self.connection.runtime.now();
        {
            let mut state = self.state();
            let checked = state.checked.get_or_insert(now);
            if now.saturating_duration_since(*checked) < CHECK_EVERY {
                return;
            }
            *checked = now;
        }
        // If the stream is missing, the next publication fails and reports the cause.
        if let Ok(stream) = self.connection.events().await {
            let fits = check_events(&stream, &self.connection.settings);
            let stalls = &self.connection.stalls;
            stalls.report(None, Operation::CheckStream, &fits);
        }
    }

    /// Returns the number of publications in flight.
    pub(super) fn publications(&self) -> usize {
        self.connection.draining.receiver_count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A publication in flight.
struct Publication {
    publisher: Arc<Publisher>,
    bytes: u64,
    _draining: watch::Receiver<Option<Instant>>,
}

impl Publication {
    async fn run(self, event: Event, sender: oneshot::Sender<Answer>) {
        let publisher = Arc::clone(&self.publisher);
        let published = publisher.send(&event).await;
        let error = published.as_ref().map_err(PublishError::kind).err();
        let answer = publisher.judge(published);
        match answer {
            Ok(Accepted::New) => publisher.state().stats.accepted += 1,
            Ok(Accepted::Duplicate) => publisher.state().stats.duplicates += 1,
            Err(_) => {}
        }
        // The caller may have stopped waiting.
        let _ = sender.send(answer);
        if error == Some(PublishErrorKind::TimedOut) {
            // The client may hold the body while it is disconnected, so the body counts until the client has sent everything.
            let _ = publisher.connection.context.client().flush().await;
        }
        drop(self);
        publisher.check_stream().await;
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.publisher.state().stats.bytes -= self.bytes;
    }
}

impl InboxControl for Publisher {
    fn info(&self) -> InboxInfo {
        InboxInfo {
            kind: "jetstream",
            location: Some(self.connection.settings.name.clone()),
            recovered: None,
        }
    }

    fn stats(&self) -> Stats {
        let stats = self.state().stats;
        Stats {
            published: stats.accepted,
            ..stats
        }
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.connection.runtime)
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            Monitor::rouse(&(Arc::clone(&self) as Arc<dyn Monitored>));
            let is_idle = self.connection.drain(within, async {}).await;
            let remaining = self.connection.draining.receiver_count();
            Drained::new(if is_idle { 0 } else { remaining as u64 })
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move { self.connection.draining.closed().await })
    }

    fn monitored(self: Arc<Self>) -> Arc<dyn Monitored> {
        self
    }

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>) {
        // The workers run the attempts.
        drop(hook);
    }
}
