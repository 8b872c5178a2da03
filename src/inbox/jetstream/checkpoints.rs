use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{self, DeliverPolicy};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, LastRawMessageErrorKind, RetentionPolicy, StorageType,
};
use tokio::sync::Notify;

use super::StreamSettings;
use super::finished::Finished;
use super::stream::{failed, get_or_create, is_stream_missing};
use crate::error::Error;

/// The minimum time between two records. A busy worker writes ten records a second.
pub(super) const SPACING: Duration = Duration::from_millis(100);

/// The maximum size of a stored range, in bytes: two numbers with 20 digits, and four signs.
const RANGE_BYTES: usize = 44;

/// The finished events of a group, stored in a separate stream. If a consumer is deleted, the server loses the consumer's position.
/// Without this position, the route would run every event again or skip events.
///
/// Each worker writes one record under its own subject, and each record replaces the previous record. A record contains the whole
/// state of its worker. The group's state is the union of all records, so a record whose content is also in another record can be
/// deleted.
pub(super) struct Checkpoints {
    context: Context,
    config: Config,
    create: bool,
    /// The filter of the group's records, and the subject of this worker's record.
    filter: String,
    subject: String,
    state: Mutex<State>,
    changed: Notify,
    /// Locked while a record is written, so that a record never replaces a later record.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// When the stream of events was created, in nanoseconds since the Unix epoch, or 0 if unknown. This time identifies the
    /// stream.
    stream: u64,
    /// The positions of the consumers that the group has had, by name.
    positions: BTreeMap<String, Position>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Position {
    /// When the consumer was created, in nanoseconds since the Unix epoch; 0 if unknown.
    pub(super) created: u64,
    pub(super) finished: Finished,
}

/// The stored form, as JSON: `State::stream`, and for each consumer `Position::created` and the finished events.
type Record = (u64, BTreeMap<String, (u64, (u64, u64, Vec<(u64, u64)>))>);

impl Checkpoints {
    pub(super) fn new(context: &Context, settings: &StreamSettings, group: &str) -> Self {
        let prefix = format!("{}.{group}", settings.checkpoint_prefix());
        Self {
            context: context.clone(),
            config: Config {
                name: settings.checkpoint_stream_name(),
                subjects: vec![format!("{}.>", settings.checkpoint_prefix())],
                retention: RetentionPolicy::Limits,
                discard: DiscardPolicy::Old,
                max_messages_per_subject: 1,
                max_bytes: settings.checkpoint_byte_limit(),
                storage: StorageType::File,
                num_replicas: settings.replica_count(),
                ..Config::default()
            },
            create: settings.creates(),
            filter: format!("{prefix}.*"),
            subject: format!("{prefix}.{:016x}", fastrand::u64(..)),
            state: Mutex::default(),
            changed: Notify::new(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_one();
    }

    /// Waits for the next change.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Records the identity of the stream. If the identity has changed, resets all positions, because none of the new stream's
    /// events is finished.
    pub(super) fn identify(&self, info: &Info) {
        let created = nanos(SystemTime::from(info.created));
        if self.stream() == created {
            return;
        }
        self.change(|state| {
            if std::mem::replace(&mut state.stream, created) != 0 {
                let positions = state.positions.values_mut();
                positions.for_each(|position| *position = Position::default());
            }
        });
    }

    /// Returns the identity of the stream.
    pub(super) fn stream(&self) -> u64 {
        self.state().stream
    }

    /// Returns the position of a consumer, or `None` if the group never had the consumer.
    pub(super) fn position(&self, consumer: &str) -> Option<Position> {
        self.state().positions.get(consumer).cloned()
    }

    /// Returns the names of the consumers that the group has had.
    pub(super) fn consumers(&self) -> Vec<String> {
        self.state().positions.keys().cloned().collect()
    }

    /// Records a consumer's position on the server, which includes the acknowledgements of all workers.
    pub(super) fn observe(&self, info: &consumer::Info) {
        let created = nanos(SystemTime::from(info.created));
        let floor = info.ack_floor.stream_sequence.max(begin(&info.config) - 1);
        let known = self.position(&info.name);
        if known.is_some_and(|known| known.created == created && known.finished.floor() >= floor) {
            return;
        }
        self.change(|state| {
            let position = state.positions.entry(info.name.clone()).or_default();
            position.created = created;
            position.finished.raise_floor(floor);
        });
    }

    /// Records that an event is finished, unless it belongs to a different stream.
    pub(super) fn finish(&self, consumer: &str, stream: u64, (sequence, published): (u64, u64)) {
        self.change(|state| {
            if state.stream == stream
                && let Some(position) = state.positions.get_mut(consumer)
            {
                position.finished.insert(sequence, published);
            }
        });
    }

    /// Returns whether an event is finished.
    pub(super) fn is_finished(&self, consumer: &str, (sequence, published): (u64, u64)) -> bool {
        let mut state = self.state();
        let Some(position) = state.positions.get_mut(consumer) else {
            return false;
        };
        let is_finished = position.finished.contains(sequence, published);
        if !is_finished {
            position.finished.lower_floor(sequence);
        }
        is_finished
    }

    /// Forgets the position of a consumer, but keeps the consumer in the group's list.
    pub(super) fn reset(&self, consumer: &str) {
        self.change(|state| {
            state
                .positions
                .insert(consumer.to_owned(), Position::default());
        });
    }

    /// Reads the records of the other workers, and returns the sequences of the records.
    pub(super) async fn load(&self) -> Result<Vec<u64>, Error> {
        let stream = get_or_create(&self.context, self.config.clone(), self.create).await?;
        let (mut from, mut loaded) = (1, Vec::new());
        loop {
            let next = stream.get_first_raw_message_by_subject(&self.filter, from);
            let message = match next.await {
                Ok(message) => message,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => break,
                Err(error) => return Err(failed("the checkpoints can't be read", error)),
            };
            from = message.sequence.saturating_add(1);
            if *message.subject != *self.subject {
                loaded.push(message.sequence);
                // If a record can't be read, a later version of this crate wrote it.
                if let Ok(record) = serde_json::from_slice(&message.payload) {
                    self.merge(record);
                }
            }
        }
        Ok(loaded)
    }

    fn merge(&self, (stream, consumers): Record) {
        self.change(|state| {
            let is_same = state.stream == stream;
            for (name, (created, finished)) in consumers {
                let position = state.positions.entry(name).or_default();
                if is_same {
                    position.created = position.created.max(created);
                    position.finished.merge(&Finished::from_record(finished));
                }
            }
        });
    }

    /// Stores this worker's record, even without a change, and returns the record's size. An operator may have deleted the previous
    /// record.
    pub(super) async fn store(&self) -> Result<usize, Error> {
        let _guard = self.writing.lock().await;
        let record = self.record();
        let record = serde_json::to_vec(&record).expect("names and numbers are JSON");
        let size = record.len();
        let message = || PublishMessage::build().payload(record.clone().into());
        let publish = async || {
            let publish = self.context.send_publish(self.subject.clone(), message());
            publish.await?.await
        };
        let mut published = publish().await;
        if is_stream_missing(&published) {
            get_or_create(&self.context, self.config.clone(), self.create).await?;
            published = publish().await;
        }
        published.map_err(|error| failed("the checkpoint can't be stored", error))?;
        Ok(size)
    }

    fn record(&self) -> Record {
        let state = self.state();
        let room = self.context.client().max_payload() / 2 / RANGE_BYTES;
        let most = room / state.positions.len().max(1);
        let consumers = state.positions.iter().map(|(name, position)| {
            let finished = position.finished.to_record(most);
            (name.clone(), (position.created, finished))
        });
        (state.stream, consumers.collect())
    }

    /// Deletes other workers' records whose positions are already in this worker's record.
    pub(super) async fn delete(&self, sequences: Vec<u64>) {
        let Ok(stream) = self.context.get_stream(&self.config.name).await else {
            return;
        };
        for sequence in sequences {
            // This fails if the other worker has replaced its record in the meantime.
            let _ = stream.delete_message(sequence).await;
        }
    }
}

/// Returns the first sequence that a consumer delivers, or 1 if the consumer's configuration doesn't contain a start sequence.
pub(super) fn begin(config: &consumer::Config) -> u64 {
    match config.deliver_policy {
        DeliverPolicy::ByStartSequence { start_sequence } => start_sequence.max(1),
        _ => 1,
    }
}

pub(super) fn created_at(info: &consumer::Info) -> u64 {
    nanos(SystemTime::from(info.created))
}

pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
