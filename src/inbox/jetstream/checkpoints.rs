use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_nats::jetstream::consumer::{self, DeliverPolicy};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::Info;
use futures_util::future::{Either, select};
use tokio::sync::Notify;

use super::StreamSettings;
use super::connection::{Connection, next};
use super::finished::{Finished, FinishedRecord};
use super::stalls::Operation;
use crate::error::Error;

/// The minimum time between two records. A busy worker writes ten records a second.
const SPACING: Duration = Duration::from_millis(100);

/// The maximum size of a stored range, in bytes: two numbers with 20 digits, and four punctuation characters.
const RANGE_BYTES: usize = 44;

/// The finished events of a group, stored in a separate stream. If a consumer is deleted, the server loses the consumer's position.
/// Without this position, the route would run every event again or skip events.
///
/// Each worker writes one record under its own subject, and each record replaces the previous record. A record contains the whole
/// state of its worker. The group's state is the union of all records, so a record whose content is also in another record can be
/// deleted.
pub(super) struct Checkpoints {
    connection: Arc<Connection>,
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
    /// When the records were last read.
    loaded: Option<Instant>,
}

#[derive(Default)]
struct Position {
    /// When the consumer was created, in nanoseconds since the Unix epoch; 0 if unknown.
    created: u64,
    finished: Finished,
}

/// The stored form, as JSON: `State::stream`, and for each consumer `Position::created` and the finished events.
type Record = (u64, BTreeMap<String, (u64, FinishedRecord)>);

impl Checkpoints {
    pub(super) fn new(connection: Arc<Connection>, group: &str) -> Self {
        let prefix = format!("{}-checkpoint.{group}", connection.settings.prefix);
        Self {
            connection,
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

    /// Stores a record after each change, until the worker is drained and idle.
    pub(super) async fn run(&self) {
        let draining = &self.connection.draining;
        while let Either::Left(_) =
            select(pin!(self.changed.notified()), pin!(draining.closed())).await
        {
            let bytes = self.store().await.unwrap_or_default();
            // Large records are written less often: a record of 1 MB every ten seconds.
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            let wait = SPACING + Duration::from_micros(bytes.saturating_mul(10));
            self.connection.runtime.sleep(wait).await;
        }
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

    /// Returns when a consumer was created, and the sequence up to which its events are finished. Returns `None` if the group never
    /// had the consumer.
    pub(super) fn position(&self, consumer: &str) -> Option<(u64, u64)> {
        let state = self.state();
        let position = state.positions.get(consumer)?;
        Some((position.created, position.finished.floor()))
    }

    /// Records a consumer's position on the server, which includes the acknowledgements of all workers.
    pub(super) fn observe(&self, info: &consumer::Info) {
        let created = created_at(info);
        let acked = info.ack_floor.stream_sequence;
        let floor = acked.max(begin(&info.config).unwrap_or(1) - 1);
        let position = self.position(&info.name);
        if position.is_some_and(|(known, finished)| known == created && finished >= floor) {
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

    /// Returns whether this worker knows that an event is finished. For an event that the server delivers
    /// again, call [`is_finished`](Self::is_finished) instead.
    pub(super) fn has_finished(&self, consumer: &str, (sequence, published): (u64, u64)) -> bool {
        let state = self.state();
        let position = state.positions.get(consumer);
        position.is_some_and(|position| position.finished.contains(sequence, published))
    }

    /// Reads the records of the other workers, unless they were read within `age`.
    pub(super) async fn refresh(&self, age: Duration) {
        let now = self.connection.runtime.now();
        let loaded = self.state().loaded;
        if loaded.is_none_or(|loaded| now.saturating_duration_since(loaded) >= age) {
            self.load().await;
        }
    }

    /// Reads the records of the other workers, and returns the sequences of the records. If reading fails, the worker logs a
    /// warning and continues.
    pub(super) async fn load(&self) -> Vec<u64> {
        self.state().loaded = Some(self.connection.runtime.now());
        self.read().await.unwrap_or_else(|error| {
            let stalls = &self.connection.stalls;
            stalls.report::<()>(None, Operation::StoreCheckpoint, &Err(error));
            Vec::new()
        })
    }

    async fn read(&self) -> Result<Vec<u64>, Error> {
        let stream = self.connection.stream(StreamSettings::checkpoints).await?;
        let (mut from, mut read) = (1, Vec::new());
        while let Some(message) = next(&stream, &self.filter, &mut from).await? {
            if *message.subject != *self.subject {
                read.push(message.sequence);
                // If a record can't be read, a later version of this crate wrote it.
                if let Ok(record) = serde_json::from_slice(&message.payload) {
                    self.merge(record);
                }
            }
        }
        Ok(read)
    }

    fn merge(&self, (stream, consumers): Record) {
        self.change(|state| {
            let is_same = state.stream == stream;
            for (name, (created, finished)) in consumers {
                let position = state.positions.entry(name).or_default();
                if is_same {
                    position.created = position.created.max(created);
                    position.finished.merge(finished);
                }
            }
        });
    }

    /// Stores this worker's record, even without a change, because an operator may have deleted the previous record. Returns the
    /// record's size. If storing fails, the worker logs a warning and continues.
    pub(super) async fn store(&self) -> Option<usize> {
        let _guard = self.writing.lock().await;
        let record = serde_json::to_vec(&self.record()).expect("names and numbers are JSON");
        let size = record.len();
        let message = PublishMessage::build().payload(record.into());
        let (config, subject) = (StreamSettings::checkpoints, self.subject.clone());
        let stored = self.connection.store(config, subject, message).await;
        let stalls = &self.connection.stalls;
        stalls.report(None, Operation::StoreCheckpoint, &stored);
        stored.is_ok().then_some(size)
    }

    fn record(&self) -> Record {
        let state = self.state();
        let room = self.connection.context.client().max_payload() / 2 / RANGE_BYTES;
        let most = room / state.positions.len().max(1);
        let consumers = state.positions.iter().map(|(name, position)| {
            let finished = position.finished.to_record(most);
            (name.clone(), (position.created, finished))
        });
        (state.stream, consumers.collect())
    }

    /// Deletes other workers' records whose positions are already in this worker's record.
    pub(super) async fn delete(&self, sequences: Vec<u64>) {
        let Ok(stream) = self.connection.stream(StreamSettings::checkpoints).await else {
            return;
        };
        for sequence in sequences {
            // This fails if the other worker has replaced its record in the meantime.
            let _ = stream.delete_message(sequence).await;
        }
    }
}

/// Returns the first sequence that a consumer delivers, or `None` if the consumer's configuration doesn't contain the sequence.
pub(super) fn begin(config: &consumer::Config) -> Option<u64> {
    match config.deliver_policy {
        DeliverPolicy::All => Some(1),
        DeliverPolicy::ByStartSequence { start_sequence } => Some(start_sequence.max(1)),
        _ => None,
    }
}

pub(super) fn created_at(info: &consumer::Info) -> u64 {
    nanos(SystemTime::from(info.created))
}

pub(super) fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
