use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{Config, Stream};
use bytes::Bytes;

use super::StreamSettings;
use super::checkpoints::nanos;
use super::connection::{Connection, failed, next, stored};
use super::event_index::DELETED;
use super::event_stream::mark_replay;
use super::headers;
use super::route_consumer::RouteConsumer;
use super::subjects::Subjects;
use crate::delivery::{DeadLetter, EventState, StoredRecord};
use crate::error::{Error, ErrorKind};
use crate::inbox::DeadLetterStore;
use crate::router::Pattern;
use crate::runtime::{BoxFuture, to_millis};
use crate::telemetry::Metrics;

/// Replaces the event type in the subject if the body can't be decoded. No encoded segment equals `=undecoded`.
const UNDECODED: &str = "=undecoded.$";

/// The minimum space for the headers of a letter, in bytes.
const MIN_HEADERS: usize = 512;

/// The stream of dead letters, as one group sees it.
pub(super) struct DeadLetterStream {
    connection: Arc<Connection>,
    /// The consumers of this worker. The worker can't replay letters of other consumers.
    routes: Vec<Arc<RouteConsumer>>,
    /// The subjects of the group's letters.
    subjects: Subjects,
    replayed: AtomicU64,
    metrics: Metrics,
}

/// A stored letter.
struct StoredLetter {
    letter: DeadLetter,
    consumer: String,
    /// The sequence of the event.
    sequence: Option<u64>,
    /// The time when the letter was stored, by the server's clock.
    stored_at: SystemTime,
}

impl DeadLetterStream {
    pub(super) fn new(
        connection: Arc<Connection>,
        routes: Vec<Arc<RouteConsumer>>,
        group: &str,
    ) -> Self {
        let prefix = format!("{}-dead.{group}", connection.settings.prefix);
        Self {
            connection,
            routes,
            subjects: Subjects::new(prefix),
            replayed: AtomicU64::new(0),
            metrics: Metrics::without_router(),
        }
    }

    /// Returns the stream. If the stream doesn't exist and the settings say so, creates it.
    pub(super) async fn stream(&self) -> Result<Stream, Error> {
        self.connection.stream(StreamSettings::dead_letters).await
    }

    /// Returns the number of letters that this worker replayed.
    pub(super) fn replayed(&self) -> u64 {
        // Nothing else depends on this count.
        self.replayed.load(Ordering::Relaxed)
    }

    /// Stores the letter of the message with this sequence, which may replay an event, and returns the stored letter. If the body is too large, the letter is
    /// stored without it, and the cause says so.
    pub(super) async fn store(
        &self,
        letter: &DeadLetter,
        consumer: &str,
        sequence: u64,
        replay_of: Option<u64>,
    ) -> Result<DeadLetter, Error> {
        // An operator may have deleted the stream or changed its limit.
        let limit = limit_of(&self.stream().await?.cached_info().config);
        let limit = limit.min(self.connection.context.client().max_payload());
        let subject = match letter.event() {
            Ok(event) => self.subjects.of(event.event_type()),
            Err(_) => self.subjects.all().replace('>', UNDECODED),
        };
        let id = format!("{consumer}.{sequence}.{}", to_millis(letter.received_at()));
        // The id also goes into a header.
        let beside = id.len() + 64;
        let mut letter = match letter.body().len() + beside + MIN_HEADERS > limit {
            true => without_body(letter, limit),
            false => letter.clone(),
        };
        let room = limit.saturating_sub(letter.body().len() + beside);
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(letter.body().as_bytes()))
            .headers(headers::of_letter(&letter, consumer, replay_of, room))
            .message_id(&id);
        let stored = self
            .connection
            .store(StreamSettings::dead_letters, subject, message);
        letter.id = stored.await?;
        Ok(letter)
    }

    /// Returns the group's first letter with the id `from` or a later id, and sets `from` to the id after it.
    async fn next(&self, stream: &Stream, from: &mut u64) -> Result<Option<StoredLetter>, Error> {
        let found = next(stream, &self.subjects.all(), from).await?;
        Ok(found.as_ref().map(StoredLetter::of))
    }

    /// Returns a letter, unless it belongs to another group.
    async fn letter(&self, id: u64) -> Result<Option<StoredLetter>, Error> {
        let found = stored(self.stream().await?.get_raw_message(id).await)?;
        let all = self.subjects.all();
        let own = all.strip_suffix('>').expect("the filter of all ends so");
        let found = found.filter(|message| message.subject.starts_with(own));
        Ok(found.as_ref().map(StoredLetter::of))
    }

    async fn delete_letter(&self, id: u64) -> Result<bool, Error> {
        let deleted = self.stream().await?.delete_message(id).await;
        deleted.map_err(|error| failed("a dead letter can't be deleted", error))
    }

    /// Deletes a letter, and hides its event from the event log.
    async fn discard_letter(&self, stored: &StoredLetter) -> Result<bool, Error> {
        let is_deleted = self.delete_letter(stored.letter.id()).await?;
        if is_deleted {
            self.mark(stored, DELETED).await?;
        }
        Ok(is_deleted)
    }

    /// Records for the event log what replaces a letter.
    async fn mark(&self, stored: &StoredLetter, replay: u64) -> Result<(), Error> {
        let Some(event) = stored.sequence else {
            return Ok(());
        };
        let events = self.connection.events().await?;
        let created = nanos(SystemTime::from(events.cached_info().created));
        mark_replay(&self.connection, event, replay, created).await
    }

    /// Returns whether this worker has the letter's route.
    fn has_route_of(&self, stored: &StoredLetter) -> bool {
        let mut consumers = self.routes.iter().map(|route| &route.consumer);
        consumers.any(|consumer| *consumer == stored.consumer)
    }

    /// Publishes a letter's event again, only for the letter's consumer, and deletes the letter.
    async fn replay_letter(&self, stored: &StoredLetter) -> Result<(), Error> {
        let StoredLetter {
            letter, consumer, ..
        } = stored;
        let refused = |text| Err(Error::new(ErrorKind::Inbox, text));
        if !self.has_route_of(stored) {
            return refused(format!(
                "this worker has no route with the consumer {consumer}"
            ));
        }
        if letter.body().is_empty() {
            return refused("the dead letter was stored without its body".to_owned());
        }
        let event = letter.event().map_err(Clone::clone)?;
        // If the letter can't be deleted, its next replay has the same id, so the stream recognises that replay as a copy.
        let died = to_millis(letter.dead_lettered_at());
        let id = format!("=replay.{consumer}.{}.{died}", letter.id());
        let settings = &self.connection.settings;
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(event.body().as_bytes()))
            .headers(headers::of_replay(letter, event, consumer, stored.sequence))
            .message_id(id)
            .expected_stream(&settings.name);
        let subject = settings.subjects().of(event.event_type());
        let replay = self
            .connection
            .store(StreamSettings::events, subject, message);
        let replay = replay.await?;
        self.mark(stored, replay).await?;
        self.replayed.fetch_add(1, Ordering::Relaxed);
        self.metrics.replayed();
        self.delete_letter(letter.id()).await?;
        Ok(())
    }
}

impl StoredLetter {
    fn of(message: &StreamMessage) -> Self {
        Self {
            letter: headers::letter(message),
            consumer: headers::consumer(&message.headers).to_owned(),
            sequence: headers::letter_event(&message.headers),
            stored_at: SystemTime::from(message.time),
        }
    }
}

impl DeadLetterStore for DeadLetterStream {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>> {
        Box::pin(async move {
            let stream = self.stream().await?;
            let mut from = after.map_or(1, |after| after.saturating_add(1));
            let mut letters = Vec::new();
            while letters.len() < limit
                && let Some(stored) = self.next(&stream, &mut from).await?
            {
                letters.push(stored.letter);
            }
            Ok(letters)
        })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>> {
        Box::pin(async move { Ok(self.letter(id).await?.map(|stored| stored.letter)) })
    }

    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            let stored = self.letter(id).await?;
            if let Some(stored) = &stored {
                self.replay_letter(stored).await?;
            }
            Ok(stored.is_some())
        })
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // Stop at the current last id, so that an event that fails again during the replay isn't replayed twice.
            let stream = self.stream().await?;
            let last = stream.cached_info().state.last_sequence;
            let (mut from, mut count) = (1, 0);
            while let Some(stored) = self.next(&stream, &mut from).await?
                && stored.letter.id() <= last
            {
                let event = stored.letter.event();
                // Skip letters whose routes only other workers have.
                if self.has_route_of(&stored)
                    && event.is_ok_and(|event| pattern.matches(event.event_type().as_str()))
                {
                    self.replay_letter(&stored).await?;
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            match self.letter(id).await? {
                Some(stored) => self.discard_letter(&stored).await,
                None => Ok(false),
            }
        })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // Ages use the server's clock, because a wrong clock on this machine must not delete a letter.
            let now = self.connection.server_time();
            let Some(limit) = now.checked_sub(older_than) else {
                return Ok(0);
            };
            let stream = self.stream().await?;
            let (mut from, mut count) = (1, 0);
            while let Some(stored) = self.next(&stream, &mut from).await? {
                if stored.stored_at < limit && self.discard_letter(&stored).await? {
                    count += 1;
                }
            }
            Ok(count)
        })
    }
}

/// Returns the maximum size of a message in a stream, in bytes.
fn limit_of(config: &Config) -> usize {
    let limits = [i64::from(config.max_message_size), config.max_bytes];
    let limits = limits.map(|limit| usize::try_from(limit).unwrap_or(0));
    let limits = limits.into_iter().filter(|limit| *limit > 0);
    limits.min().unwrap_or(usize::MAX)
}

/// Returns a letter without its body, for a stream with this limit in bytes.
fn without_body(letter: &DeadLetter, limit: usize) -> DeadLetter {
    let bytes = letter.body().len();
    let text = format!("its body isn't stored: {bytes} bytes exceed the limit of {limit} bytes");
    let cause = match letter.cause() {
        Some(cause) => format!("{cause}; {text}"),
        None => text,
    };
    DeadLetter::stored(StoredRecord {
        id: 0,
        message_id: letter.message_id(),
        body: "",
        traceparent: None,
        state: EventState::Dead,
        received_at: letter.received_at(),
        ended_at: Some(letter.dead_lettered_at()),
        attempts: letter.attempts(),
        routes: letter.routes().to_vec(),
        history: Vec::new(),
        cause: Some(Arc::from(cause)),
    })
}
