//! Publishes events to the stream.

use std::error::Error as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::StreamSettings;
use super::connection::{Connection, Running};
use super::event_stream::{EventStream, LogState};
use super::headers;
use super::stalls::Operation;
use super::stream::{check_events, open_events};
use super::subjects::encoded;
use crate::catch_panic::catch_panic;
use crate::delivery::{Attempt, Stats};
use crate::error::Error;
use crate::event::Event;
use crate::inbox::{
    AcceptError, AcceptErrorKind, Accepted, Drained, EventStore, InboxControl, InboxInfo, Monitor,
    Monitored,
};
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry::{Counted, Metrics};

/// The maximum size of a message without its body, in bytes: subject, headers and framing.
const OVERHEAD: usize = 1024;

type Answer = Result<Accepted, AcceptError>;

#[derive(Clone, Copy, Debug)]
pub(super) struct PublishLimits {
    pub(super) publish_timeout: Duration,
    pub(super) bytes: usize,
}

/// The state that the clones of an inbox share.
pub(super) struct Publisher {
    pub(super) connection: Arc<Connection>,
    pub(super) log: Arc<LogState>,
    limits: PublishLimits,
    /// The stream's own limit for the size of a message, in bytes.
    max_message_size: usize,
    pub(super) metrics: Metrics,
    stats: Mutex<Stats>,
}

impl Publisher {
    pub(super) async fn open(connection: Connection, limits: PublishLimits) -> Result<Self, Error> {
        let stream = open_events(&connection).await?;
        let limit = usize::try_from(stream.cached_info().config.max_message_size);
        Ok(Self {
            connection: Arc::new(connection),
            log: Arc::default(),
            limits,
            // A stream without a limit has a limit of -1 or 0.
            max_message_size: limit.ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX),
            metrics: Metrics::without_router(),
            stats: Mutex::default(),
        })
    }

    /// Returns the maximum size of a body, in bytes. The limit may change when the client connects to another server.
    pub(super) fn max_body_bytes(&self) -> usize {
        let payload = self.connection.context.client().max_payload();
        payload.min(self.max_message_size).saturating_sub(OVERHEAD)
    }

    pub(super) async fn accept(self: Arc<Self>, event: Event) -> Answer {
        Monitor::wake(&self);
        let label = self.metrics.label(event.event_type());
        let answer = self.submit(event).await;
        if answer.is_err() {
            self.counts().refused += 1;
            self.metrics.event(label, Counted::Refused);
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
            Either::Left((answer, _)) => {
                answer.unwrap_or_else(|_| Err(AcceptError::new(AcceptErrorKind::Unavailable)))
            }
            Either::Right(_) => self.judge(Err(PublishErrorKind::TimedOut.into())),
        }
    }

    /// Admits a publication of `bytes` bytes.
    fn admit(self: &Arc<Self>, bytes: usize) -> Result<Publication, AcceptError> {
        let (connection, stalls) = (&self.connection, &self.connection.stalls);
        let running = connection
            .begin()
            .ok_or(AcceptError::new(AcceptErrorKind::Draining))?;
        if connection.context.client().connection_state() != State::Connected {
            // The client would buffer the event.
            let cause = "the client isn't connected to the server".to_owned();
            stalls.raise(None, Operation::Admit, cause);
            return Err(AcceptError::new(AcceptErrorKind::Unavailable));
        }
        if bytes > self.max_body_bytes() {
            return Err(AcceptError::new(AcceptErrorKind::Unavailable));
        }
        let bytes = bytes as u64;
        let is_admitted = {
            let mut counts = self.counts();
            // The new publication is one of them.
            let publications = self.publications();
            let held = counts.bytes.saturating_add(bytes);
            let held = held.saturating_add(publications.saturating_mul(OVERHEAD as u64));
            let is_admitted = publications <= 1 || held <= self.limits.bytes as u64;
            if is_admitted {
                counts.bytes += bytes;
            }
            is_admitted
        };
        if !is_admitted {
            let cause =
                "too many events are waiting for their acknowledgement: see `max_bytes_in_flight`";
            stalls.raise(None, Operation::Admit, cause.to_owned());
            return Err(AcceptError::new(AcceptErrorKind::Full));
        }
        stalls.clear(None, Operation::Admit);
        Ok(Publication {
            publisher: Arc::clone(self),
            bytes,
            _running: running,
        })
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
                return Err(AcceptError::new(AcceptErrorKind::Unavailable)
                    .retry_after(Duration::from_secs(1)));
            }
            Some(
                ErrorCode::STREAM_STORE_FAILED
                | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
                | ErrorCode::INSUFFICIENT_RESOURCES
                | ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ) => AcceptError::new(AcceptErrorKind::Full),
            _ => AcceptError::new(AcceptErrorKind::Unavailable),
        };
        let error = self.connection.unpublished(StreamSettings::events, error);
        let stalls = &self.connection.stalls;
        stalls.report::<()>(None, Operation::Publish, &Err(error));
        Err(refused)
    }

    /// Compares the stream with the settings. If the stream is missing, the next publication reports the cause.
    pub(super) async fn check_stream(&self) -> Result<(), Error> {
        let stream = self.connection.events().await?;
        let fits = check_events(&stream, &self.connection.settings);
        let stalls = &self.connection.stalls;
        stalls.report(None, Operation::CheckStream, &fits);
        fits
    }

    /// Returns the number of publications in flight.
    pub(super) fn publications(&self) -> u64 {
        self.connection.draining.receiver_count() as u64
    }

    fn counts(&self) -> MutexGuard<'_, Stats> {
        // No user code runs under the lock, so the counts are consistent even if the lock is poisoned.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A publication in flight.
struct Publication {
    publisher: Arc<Publisher>,
    bytes: u64,
    _running: Running,
}

impl Publication {
    async fn run(self, event: Event, sender: oneshot::Sender<Answer>) {
        let publisher = Arc::clone(&self.publisher);
        let published = publisher.send(&event).await;
        let error = published.as_ref().map_err(PublishError::kind).err();
        let answer = publisher.judge(published);
        let label = publisher.metrics.label(event.event_type());
        match answer {
            Ok(Accepted::New) => {
                publisher.counts().accepted += 1;
                publisher.metrics.event(label, Counted::Accepted);
                publisher.metrics.event(label, Counted::Published);
            }
            Ok(Accepted::Duplicate) => {
                publisher.counts().duplicates += 1;
                publisher.metrics.event(label, Counted::Duplicate);
            }
            Err(_) => {}
        }
        // The caller may have stopped waiting.
        let _ = sender.send(answer);
        if error == Some(PublishErrorKind::TimedOut) {
            // The client may hold the body while it is disconnected, so the body counts until the client has sent everything.
            let _ = publisher.connection.context.client().flush().await;
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.publisher.counts().bytes -= self.bytes;
    }
}

impl InboxControl for Publisher {
    fn info(&self) -> InboxInfo {
        InboxInfo {
            kind: "jetstream",
            location: Some(self.connection.settings.name.clone()),
            recovered: None,
            is_durable: true,
            // The stream's limits also count ended events.
            limits: None,
        }
    }

    fn stats(&self) -> Stats {
        let stats = *self.counts();
        Stats {
            published: stats.accepted,
            replayed: self.log.replayed(),
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
            Drained::new(if is_idle { 0 } else { self.publications() })
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move { self.connection.draining.closed().await })
    }

    fn events(self: Arc<Self>) -> Arc<dyn EventStore> {
        let (connection, log) = (Arc::clone(&self.connection), Arc::clone(&self.log));
        Arc::new(EventStream::new(connection, None, log))
    }

    fn monitored(self: Arc<Self>) -> Arc<dyn Monitored> {
        self
    }

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>) {
        // The workers run the attempts.
        drop(hook);
    }
}
