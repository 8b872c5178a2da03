use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt;
use futures_util::stream::iter;

use super::StreamSettings;
use super::checkpoints::nanos;
use super::connection::{Connection, failed, next, stored};
use super::headers;
use crate::error::Error;

/// The number of messages that are read at once.
const BATCH: u64 = 64;

/// Stands for the sequence of a replay, if the letter of an event was deleted.
pub(super) const DELETED: u64 = 0;

/// The dead letters and the replays of the events, by the sequence of the event. The index reads the dead-letter stream once, and
/// later only the new messages. It takes about 100 bytes per message.
#[derive(Default)]
pub(super) struct EventIndex {
    /// The identities of the stream of dead letters and of the stream of events.
    streams: (u64, u64),
    /// The sequence up to which the dead-letter stream was read.
    read: u64,
    /// The ids of the letters of each event and its replays.
    letters: BTreeMap<u64, BTreeSet<u64>>,
    replays: BTreeMap<u64, BTreeSet<u64>>,
    /// The events whose letters were deleted.
    deleted: BTreeSet<u64>,
}

impl EventIndex {
    /// Reads the new messages of the dead-letter stream, and returns the stream, or `None` if it doesn't exist. `events` is the
    /// identity of the stream of events, and `prefix` begins the subjects of the letters.
    pub(super) async fn refresh(
        &mut self,
        connection: &Connection,
        events: u64,
        prefix: &str,
    ) -> Result<Option<Stream>, Error> {
        let config = connection.settings.dead_letters();
        let stream = match connection.context.get_stream(&config.name).await {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), GetStreamErrorKind::JetStream(cause)
                    if cause.error_code() == ErrorCode::STREAM_NOT_FOUND) =>
            {
                *self = Self::default();
                return Ok(None);
            }
            Err(error) => {
                let text = format!("the stream {} can't be looked up", config.name);
                return Err(failed(text, error));
            }
        };
        let info = stream.cached_info();
        let streams = (nanos(SystemTime::from(info.created)), events);
        if self.streams != streams {
            *self = Self {
                streams,
                ..Self::default()
            };
        }
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        let marks = mark_subject(&connection.settings);
        let mut from = (self.read + 1).max(first);
        while from <= last {
            let Some(message) = next(&stream, &config.subjects[0], &mut from).await? else {
                break;
            };
            let upper = (message.sequence + BATCH).min(last + 1);
            self.add(&message, &marks, prefix);
            for message in read(&stream, from..upper).await? {
                self.add(&message, &marks, prefix);
            }
            from = upper.max(from);
            self.read = from - 1;
        }
        self.read = self.read.max(last);
        Ok(Some(stream))
    }

    fn add(&mut self, message: &StreamMessage, marks: &str, prefix: &str) {
        if *message.subject == *marks {
            if let Some((event, replay)) = headers::mark(&message.headers, self.streams.1) {
                match replay {
                    DELETED => drop(self.deleted.insert(event)),
                    _ => self.add_replay(event, replay),
                }
            }
        } else if message.subject.starts_with(prefix)
            && let Some(sequence) = headers::letter_event(&message.headers)
        {
            let letters = self.letters.entry(sequence).or_default();
            letters.insert(message.sequence);
        }
    }

    pub(super) fn add_replay(&mut self, event: u64, replay: u64) {
        self.replays.entry(event).or_default().insert(replay);
    }

    /// Returns whether an operator deleted a letter of the event.
    pub(super) fn is_deleted(&self, event: u64) -> bool {
        self.deleted.contains(&event)
    }

    /// Returns the sequences of an event's replays, oldest first.
    pub(super) fn replays(&self, event: u64) -> Vec<u64> {
        let replays = self.replays.get(&event).into_iter().flatten();
        replays.copied().collect()
    }

    /// Returns the ids of the letters of an event and its replays.
    pub(super) fn letters(&self, event: u64) -> Vec<u64> {
        let letters = self.letters.get(&event).into_iter().flatten();
        letters.copied().collect()
    }

    /// Removes a letter that no longer exists.
    pub(super) fn remove_letter(&mut self, event: u64, id: u64) {
        if let Some(letters) = self.letters.get_mut(&event) {
            letters.remove(&id);
            if letters.is_empty() {
                self.letters.remove(&event);
            }
        }
    }

    /// Returns the sequences in a range whose events have dead letters, newest first.
    pub(super) fn dead(&self, range: std::ops::Range<u64>) -> Vec<u64> {
        if range.is_empty() {
            return Vec::new();
        }
        let events = self.letters.range(range).rev();
        events.map(|(event, _)| *event).collect()
    }
}

/// Returns the subject of the messages that record replays. No group has a name with `=`.
pub(super) fn mark_subject(settings: &StreamSettings) -> String {
    format!("{}-dead.=replay.$", settings.prefix)
}

/// Returns the existing messages with these sequences, in order.
pub(super) async fn read(
    stream: &Stream,
    sequences: std::ops::Range<u64>,
) -> Result<Vec<StreamMessage>, Error> {
    let requests =
        sequences.map(|sequence| async move { stored(stream.get_raw_message(sequence).await) });
    let answers = iter(requests).buffered(BATCH as usize);
    let answers: Vec<_> = answers.collect().await;
    let messages: Result<Vec<_>, _> = answers.into_iter().collect();
    Ok(messages?.into_iter().flatten().collect())
}

/// Returns the newest messages below a sequence, newest first, and the sequence below which the next call continues. Returns at
/// most 64 messages, and none at the end of the stream. Skips large ranges of deleted messages with few requests.
pub(super) async fn newest(
    stream: &Stream,
    filter: &str,
    before: u64,
) -> Result<(Vec<StreamMessage>, u64), Error> {
    let state = &stream.cached_info().state;
    let first = state.first_sequence.max(1);
    let mut upper = before.min(state.last_sequence.saturating_add(1));
    let mut size = BATCH;
    while upper > first {
        let lower = upper.saturating_sub(size).max(first);
        let mut from = lower;
        let found = next(stream, filter, &mut from).await?;
        match found {
            Some(found) if found.sequence < upper && size <= BATCH => {
                let mut messages = read(stream, found.sequence..upper).await?;
                messages.reverse();
                return Ok((messages, lower));
            }
            Some(found) if found.sequence < upper => size = (size / 4).max(BATCH),
            _ => {
                upper = lower;
                size = size.saturating_mul(4);
            }
        }
    }
    Ok((Vec::new(), first))
}
