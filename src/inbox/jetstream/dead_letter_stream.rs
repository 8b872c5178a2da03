use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::error;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use bytes::Bytes;

use super::StreamSettings;
use super::headers::{self, DeadLetterHeaders, StoredHeaders};
use super::stream::{failed, get_or_create, is_stream_missing, server_time};
use super::subjects::Subjects;
use crate::delivery::{DeadLetter, Progress};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::runtime::to_millis;

/// Replaces the event type in the subject if the body can't be decoded. No encoded segment equals `=undecoded`.
const UNDECODED: &str = "=undecoded.$";

/// The minimum space for the headers of a letter, in bytes.
const MIN_HEADERS: usize = 512;

/// The stream of dead letters, as one group sees it.
pub(super) struct DeadLetterStream {
    context: Context,
    stream: Stream,
    create: bool,
    /// The maximum size of a message in the stream, in bytes.
    limit: AtomicUsize,
    /// The subjects of the group's letters.
    subjects: Subjects,
    /// The subjects of replays.
    events: Subjects,
    events_stream: String,
    group: String,
    /// The consumers of this worker. The worker can't replay letters of other consumers.
    consumers: Vec<String>,
    replayed: AtomicU64,
}

/// The event of a letter.
pub(super) enum LetterBody {
    Event(Event),
    /// A body that can't be decoded, and its `messageId`.
    Undecoded(String, Option<String>),
}

/// A letter to store.
pub(super) struct NewLetter<'a> {
    body: &'a LetterBody,
    consumer: &'a str,
    sequence: u64,
    received_at: SystemTime,
    dead_lettered_at: SystemTime,
    progress: &'a Progress,
    cause: Option<String>,
}

impl<'a> NewLetter<'a> {
    pub(super) fn new(
        body: &'a LetterBody,
        received_at: SystemTime,
        progress: &'a Progress,
        cause: Option<String>,
    ) -> Self {
        Self {
            body,
            consumer: "",
            sequence: 0,
            received_at,
            dead_lettered_at: received_at,
            progress,
            cause,
        }
    }

    /// Sets the origin and the time of the letter. Even if the clock was set back, the letter isn't dated before its event.
    pub(super) fn of(mut self, consumer: &'a str, sequence: u64, now: SystemTime) -> Self {
        (self.consumer, self.sequence) = (consumer, sequence);
        self.dead_lettered_at = now.max(self.received_at);
        self
    }
}

/// A stored letter with its headers.
pub(super) struct StoredLetter {
    pub(super) letter: DeadLetter,
    /// The time when the letter was stored, by the server's clock.
    pub(super) stored_at: SystemTime,
    headers: StoredHeaders,
}

impl DeadLetterStream {
    pub(super) async fn open(
        context: &Context,
        settings: &StreamSettings,
        group: &str,
        consumers: Vec<String>,
    ) -> Result<Self, Error> {
        let wanted = config(settings);
        let stream = get_or_create(context, wanted.clone(), settings.creates()).await?;
        let found = &stream.cached_info().config;
        if !found.subjects.contains(&wanted.subjects[0])
            || found.retention != wanted.retention
            || found.no_ack
            || found.sealed
            || found.storage != wanted.storage
            || found.num_replicas < wanted.num_replicas
            || found.max_messages_per_subject > 0
        {
            let text = format!(
                "the stream {} doesn't fit: its subjects must include {:?}, its retention must be limits, its storage \
                 file, its replicas at least {}, without a limit per subject, and it must neither be sealed nor without \
                 acknowledgements",
                wanted.name, wanted.subjects[0], wanted.num_replicas
            );
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        Ok(Self {
            context: context.clone(),
            limit: AtomicUsize::new(limit_of(&stream.cached_info().config)),
            stream,
            create: settings.creates(),
            subjects: Subjects::new(format!("{}.{group}", settings.dead_prefix())),
            events: settings.subjects(),
            events_stream: settings.stream_name().to_owned(),
            group: group.to_owned(),
            consumers,
            replayed: AtomicU64::new(0),
        })
    }

    /// Returns the id of the last letter that is currently in the stream.
    pub(super) async fn last_id(&self) -> Result<u64, Error> {
        let info = self.stream.get_info().await;
        let info = info.map_err(|error| failed("dead letters can't be counted", error))?;
        Ok(info.state.last_sequence)
    }

    /// Returns the current time by the server's clock.
    pub(super) async fn server_time(&self) -> Option<SystemTime> {
        server_time(&self.context, &self.stream.cached_info().config.name).await
    }

    /// Returns whether this worker has the letter's route.
    pub(super) fn has_route_of(&self, stored: &StoredLetter) -> bool {
        self.consumers.contains(&stored.headers.consumer)
    }

    pub(super) fn replayed(&self) -> u64 {
        // Nothing else depends on this count.
        self.replayed.load(Ordering::Relaxed)
    }

    /// Stores a letter and returns it. If the body is too large, the letter is stored without it, and the cause says so.
    pub(super) async fn store(&self, letter: &NewLetter<'_>) -> Result<DeadLetter, Error> {
        let (subject, body, mut message_id) = match letter.body {
            LetterBody::Event(event) => (self.subjects.of(event.event_type()), event.body(), None),
            LetterBody::Undecoded(body, id) => {
                let subject = self.subjects.all().replace('>', UNDECODED);
                (subject, &**body, id.as_deref())
            }
        };
        let (times, progress) = (
            (letter.received_at, letter.dead_lettered_at),
            letter.progress,
        );
        let id = format!(
            "{}.{}.{}",
            letter.consumer,
            letter.sequence,
            to_millis(times.0)
        );
        let limit = self.limit.load(Ordering::Relaxed);
        let limit = limit.min(self.context.client().max_payload());
        // The id also goes into a header.
        let beside = id.len() + 64;
        let is_too_large = body.len() + beside + MIN_HEADERS > limit;
        let (body, cause) = if is_too_large {
            if let LetterBody::Event(event) = letter.body {
                message_id = Some(event.id());
            }
            ("", Some(without_body(letter, body.len(), limit)))
        } else {
            (body, letter.cause.clone())
        };
        let headers = DeadLetterHeaders {
            consumer: letter.consumer,
            message_id,
            received_at: times.0,
            dead_lettered_at: times.1,
            attempts: progress.attempts(),
            cause: cause.as_deref(),
            routes: progress.ends(),
        };
        let headers = headers.write(limit.saturating_sub(body.len() + beside));
        let message = || {
            PublishMessage::build()
                .payload(Bytes::copy_from_slice(body.as_bytes()))
                .headers(headers.clone())
                .message_id(&id)
        };
        let mut published = self.publish(&subject, message()).await;
        if is_stream_missing(&published) {
            let config = self.stream.cached_info().config.clone();
            get_or_create(&self.context, config, self.create).await?;
            published = self.publish(&subject, message()).await;
        }
        if published.is_err()
            && let Ok(info) = self.stream.get_info().await
        {
            // An operator may have changed the limits.
            self.limit.store(limit_of(&info.config), Ordering::Relaxed);
        }
        let ack = published.map_err(|error| failed("a dead letter can't be stored", error))?;
        Ok(DeadLetter::stored(
            (ack.sequence, message_id.unwrap_or_default()),
            (body, None),
            times,
            progress.attempts(),
            progress.ends().to_vec(),
            cause.map(Arc::from),
        ))
    }

    async fn publish(
        &self,
        subject: &str,
        message: PublishMessage,
    ) -> Result<PublishAck, PublishError> {
        let publish = self.context.send_publish(subject.to_owned(), message);
        publish.await?.await
    }

    /// Returns the group's first letter with this id or a later id.
    pub(super) async fn next(&self, from: u64) -> Result<Option<StoredLetter>, Error> {
        let filter = self.subjects.all();
        self.read(self.stream.get_first_raw_message_by_subject(filter, from))
            .await
    }

    /// Returns a letter, unless it belongs to another group.
    pub(super) async fn get(&self, id: u64) -> Result<Option<StoredLetter>, Error> {
        self.read(self.stream.get_raw_message(id)).await
    }

    async fn read(
        &self,
        found: impl Future<Output = Result<StreamMessage, error::Error<LastRawMessageErrorKind>>>,
    ) -> Result<Option<StoredLetter>, Error> {
        let message = match found.await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Ok(None);
            }
            Err(error) => return Err(failed("a dead letter can't be read", error)),
        };
        let all = self.subjects.all();
        let own = all.strip_suffix('>').expect("the filter of all ends so");
        Ok(message
            .subject
            .starts_with(own)
            .then(|| StoredLetter::of(&message)))
    }

    pub(super) async fn delete(&self, id: u64) -> Result<bool, Error> {
        if self.get(id).await?.is_none() {
            return Ok(false);
        }
        let deleted = self.stream.delete_message(id).await;
        deleted.map_err(|error| failed("a dead letter can't be deleted", error))
    }

    /// Publishes a letter's event again, only for the letter's consumer, and deletes the letter.
    pub(super) async fn replay(&self, stored: &StoredLetter) -> Result<(), Error> {
        let (letter, consumer) = (&stored.letter, &stored.headers.consumer);
        let refused = if !self.has_route_of(stored) {
            Some(format!(
                "this worker has no route with the consumer {consumer}"
            ))
        } else if letter.body().is_empty() {
            Some("the dead letter was stored without its body".to_owned())
        } else {
            None
        };
        if let Some(text) = refused {
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        let event = letter.event().map_err(Clone::clone)?;
        // If the letter can't be deleted, its next replay has the same id, so the stream recognises that replay as a copy.
        let died = to_millis(letter.dead_lettered_at());
        let id = format!("=replay.{}.{}.{died}", self.group, letter.id());
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(event.body().as_bytes()))
            .headers(headers::replay(&stored.headers))
            .message_id(id)
            .expected_stream(&self.events_stream);
        let subject = self.events.of(event.event_type());
        let published = self.publish(&subject, message).await;
        published.map_err(|error| failed("a dead letter can't be replayed", error))?;
        self.replayed.fetch_add(1, Ordering::Relaxed);
        let deleted = self.stream.delete_message(letter.id()).await;
        deleted.map_err(|error| {
            let text = "a dead letter was replayed and can't be deleted";
            Error::caused(ErrorKind::Inbox, text, error)
        })?;
        Ok(())
    }
}

/// Returns the configuration of the stream.
fn config(settings: &StreamSettings) -> Config {
    Config {
        name: settings.dead_stream_name(),
        subjects: vec![Subjects::new(settings.dead_prefix()).all()],
        retention: RetentionPolicy::Limits,
        // A full stream drops the oldest letter. With `new`, a full stream would refuse letters, and routes would stall.
        discard: DiscardPolicy::Old,
        max_bytes: (settings.byte_limit() / 4).max(1),
        storage: StorageType::File,
        num_replicas: settings.replica_count(),
        // A letter is stored once, even if its event is redelivered before the acknowledgement.
        duplicate_window: Duration::from_secs(60 * 60),
        ..Config::default()
    }
}

/// Returns the maximum size of a message in a stream, in bytes.
fn limit_of(config: &Config) -> usize {
    let limits = [i64::from(config.max_message_size), config.max_bytes];
    let limits = limits.map(|limit| usize::try_from(limit).unwrap_or(0));
    let limits = limits.into_iter().filter(|limit| *limit > 0);
    limits.min().unwrap_or(usize::MAX)
}

/// Returns the cause of a letter without a body.
fn without_body(letter: &NewLetter<'_>, bytes: usize, limit: usize) -> String {
    let text = format!("its body isn't stored: {bytes} bytes exceed the limit of {limit} bytes");
    match &letter.cause {
        Some(cause) => format!("{cause}; {text}"),
        None => text,
    }
}

impl StoredLetter {
    fn of(message: &StreamMessage) -> Self {
        let headers = StoredHeaders::of(&message.headers);
        let stored_at = SystemTime::from(message.time);
        let dead_lettered_at = headers.dead_lettered_at.unwrap_or(stored_at);
        let letter = DeadLetter::stored(
            (
                message.sequence,
                headers.message_id.as_deref().unwrap_or_default(),
            ),
            (&String::from_utf8_lossy(&message.payload), None),
            (headers.received_at.unwrap_or(stored_at), dead_lettered_at),
            headers.attempts,
            headers.routes.clone(),
            headers.cause.as_deref().map(Arc::from),
        );
        Self {
            letter,
            headers,
            stored_at,
        }
    }
}
