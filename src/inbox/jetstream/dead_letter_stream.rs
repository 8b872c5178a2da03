use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::Context;
use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream,
};
use bytes::Bytes;

use super::StreamSettings;
use super::headers::{self, DeadLetterHeaders, StoredHeaders};
use super::stream::{failed, get_or_create};
use super::subjects::Subjects;
use crate::delivery::{DeadLetter, Progress};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::runtime::to_millis;

/// The stand-in for the type of a body that can't be decoded. No encoded segment looks like it.
const UNDECODED: &str = "=undecoded.$";

/// The stream of dead letters, as one group sees it.
pub(super) struct DeadLetterStream {
    context: Context,
    stream: Stream,
    /// Those of the group's letters, under the event types.
    subjects: Subjects,
    /// Where replays go.
    events: Subjects,
    events_stream: String,
    group: String,
    /// The consumers of this worker: a letter of any other can't be replayed by it.
    consumers: Vec<String>,
    replayed: AtomicU64,
}

/// What is left of an event.
pub(super) enum LetterBody {
    Event(Event),
    /// A body that can't be decoded, and the id that the stream knows it by.
    Body(String, Option<String>),
}

/// A dead letter, and what isn't the user's to see.
pub(super) struct StoredLetter {
    pub(super) letter: DeadLetter,
    headers: StoredHeaders,
}

impl DeadLetterStream {
    pub(super) async fn open(
        context: &Context,
        settings: &StreamSettings,
        group: &str,
        consumers: Vec<String>,
    ) -> Result<Self, Error> {
        let prefix = settings.dead_prefix();
        let all = Subjects::new(&*prefix).all();
        let wanted = Config {
            name: settings.dead_stream_name(),
            subjects: vec![all.clone()],
            retention: RetentionPolicy::Limits,
            // The oldest letter goes for a new one, rather than that its route stands still.
            discard: DiscardPolicy::Old,
            max_bytes: (settings.byte_limit() / 4).max(1),
            storage: StorageType::File,
            num_replicas: settings.replica_count(),
            // A letter is kept once, also if its event is delivered again before the server knows that it is done.
            duplicate_window: Duration::from_secs(60 * 60),
            ..Config::default()
        };
        let stream = get_or_create(context, wanted, settings.creates()).await?;
        let found = &stream.cached_info().config;
        if !found.subjects.contains(&all)
            || found.retention != RetentionPolicy::Limits
            || found.no_ack
            || found.sealed
            || found.storage != StorageType::File
            || found.num_replicas < settings.replica_count()
            || found.max_messages_per_subject > 0
        {
            let name = settings.dead_stream_name();
            let text = format!(
                "the stream {name} doesn't fit: its subjects must include {all:?}, its retention must be limits, its \
                 storage file, its replicas at least {}, without a limit a subject, and it must neither be sealed nor \
                 without acknowledgements",
                settings.replica_count()
            );
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        Ok(Self {
            context: context.clone(),
            stream,
            subjects: Subjects::new(format!("{prefix}.{group}")),
            events: settings.subjects(),
            events_stream: settings.stream_name().to_owned(),
            group: group.to_owned(),
            consumers,
            replayed: AtomicU64::new(0),
        })
    }

    pub(super) fn client(&self) -> async_nats::Client {
        self.context.client()
    }

    /// Returns the number of the last letter of now.
    pub(super) async fn last(&self) -> Result<u64, Error> {
        let info = self.stream.get_info().await;
        let info =
            info.map_err(|error| failed("dead letters can't be counted".to_owned(), error))?;
        Ok(info.state.last_sequence)
    }

    /// Returns whether the letter is of a route that this worker has.
    pub(super) fn is_ours(&self, letter: &StoredLetter) -> bool {
        self.consumers.contains(&letter.headers.consumer)
    }

    pub(super) fn replayed(&self) -> u64 {
        // A count on its own, that nothing else is read by.
        self.replayed.load(Ordering::Relaxed)
    }

    /// Keeps a letter, and returns it once the stream has it.
    pub(super) async fn store(
        &self,
        body: &LetterBody,
        (consumer, sequence): (&str, u64),
        (received_at, dead_lettered_at): (SystemTime, SystemTime),
        progress: &Progress,
        cause: Option<&str>,
    ) -> Result<DeadLetter, Error> {
        let (subject, body, message_id) = match body {
            LetterBody::Event(event) => (self.subjects.of(event.event_type()), event.body(), None),
            LetterBody::Body(body, id) => {
                let all = self.subjects.all();
                let subject = all.replace('>', UNDECODED);
                (subject, &**body, id.as_deref())
            }
        };
        let headers = DeadLetterHeaders {
            consumer,
            message_id,
            received_at,
            dead_lettered_at,
            attempts: progress.attempts(),
            cause,
            routes: progress.ends(),
        };
        let id = format!("{consumer}.{sequence}.{}", to_millis(received_at));
        // The id is a header too.
        let room = self.context.client().max_payload();
        let room = room.saturating_sub(body.len() + id.len() + 64);
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(body.as_bytes()))
            .headers(headers.write(room))
            .message_id(id);
        let publish = self.context.send_publish(subject, message);
        let failed = |error| failed("a dead letter can't be kept".to_owned(), error);
        let ack = publish.await.map_err(failed)?.await.map_err(failed)?;
        Ok(DeadLetter::stored(
            (ack.sequence, message_id.unwrap_or_default()),
            body,
            (received_at, dead_lettered_at),
            progress.attempts(),
            progress.ends().to_vec(),
            cause.map(Arc::from),
        ))
    }

    /// Returns the first letter of the group from a number on.
    pub(super) async fn next(&self, from: u64) -> Result<Option<StoredLetter>, Error> {
        let filter = self.subjects.all();
        self.read(self.stream.get_first_raw_message_by_subject(filter, from))
            .await
    }

    /// Returns one letter, unless it is another group's.
    pub(super) async fn get(&self, id: u64) -> Result<Option<StoredLetter>, Error> {
        self.read(self.stream.get_raw_message(id)).await
    }

    async fn read(
        &self,
        found: impl Future<
            Output = Result<StreamMessage, async_nats::error::Error<LastRawMessageErrorKind>>,
        >,
    ) -> Result<Option<StoredLetter>, Error> {
        let message = match found.await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Ok(None);
            }
            Err(error) => return Err(failed("a dead letter can't be read".to_owned(), error)),
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
        deleted.map_err(|error| failed("a dead letter can't be deleted".to_owned(), error))
    }

    /// Sends a letter's event round again, for its own consumer alone.
    pub(super) async fn replay(&self, stored: &StoredLetter) -> Result<(), Error> {
        let consumer = &stored.headers.consumer;
        if !self.is_ours(stored) {
            let text = format!("this worker has no route with the consumer {consumer}");
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        let letter = &stored.letter;
        let event = letter.event().map_err(Clone::clone)?;
        // An id of its own, which is the same if this is done twice because the letter couldn't be deleted.
        let id = format!(
            "=replay.{}.{}.{}",
            self.group,
            letter.id(),
            to_millis(letter.dead_lettered_at())
        );
        let message = PublishMessage::build()
            .payload(Bytes::copy_from_slice(event.body().as_bytes()))
            .headers(headers::replay(&stored.headers))
            .message_id(id)
            .expected_stream(&self.events_stream);
        let subject = self.events.of(event.event_type());
        let failed = |error| failed("a dead letter can't be sent round again".to_owned(), error);
        let publish = self.context.send_publish(subject, message);
        publish.await.map_err(failed)?.await.map_err(failed)?;
        self.replayed.fetch_add(1, Ordering::Relaxed);
        let deleted = self.stream.delete_message(letter.id()).await;
        deleted.map_err(|error| {
            Error::caused(
                ErrorKind::Inbox,
                "a dead letter was sent round again and can't be deleted",
                error,
            )
        })?;
        Ok(())
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
            &String::from_utf8_lossy(&message.payload),
            (headers.received_at.unwrap_or(stored_at), dead_lettered_at),
            headers.attempts,
            headers.routes.clone(),
            headers.cause.as_deref().map(Arc::from),
        );
        Self { letter, headers }
    }
}
