use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::delivery::AttemptRecord;

/// The maximum number of events whose attempts a worker remembers.
const MAX_EVENTS: usize = 1000;

/// The maximum number of attempts per event, counting the attempts of all routes separately.
const MAX_ATTEMPTS: usize = 25;

/// The attempts of the newest events that a worker ran, in memory.
///
/// Each route makes its own attempts at an event. The log joins the attempts with the same number.
#[derive(Default)]
pub(super) struct AttemptLog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The identity of the stream that the sequences belong to.
    stream: u64,
    events: BTreeMap<u64, Vec<Entry>>,
}

/// An attempt at the message with this sequence: the event, or one of its replays.
type Entry = (u64, AttemptRecord);

impl AttemptLog {
    /// Adds an attempt at a message. `event` is the sequence of the event that the message is, or replays.
    pub(super) fn add(&self, stream: u64, event: u64, sequence: u64, attempt: AttemptRecord) {
        let mut state = self.state();
        if state.stream != stream {
            *state = State {
                stream,
                ..State::default()
            };
        }
        let entries = state.events.entry(event).or_default();
        let is_same =
            |entry: &&mut Entry| entry.0 == sequence && entry.1.number() == attempt.number();
        match entries.iter_mut().find(is_same) {
            Some((_, known)) => *known = known.joined(&attempt),
            None => entries.push((sequence, attempt)),
        }
        if entries.len() > MAX_ATTEMPTS {
            entries.remove(0);
        }
        if state.events.len() > MAX_EVENTS {
            state.events.pop_first();
        }
    }

    /// Returns the attempts at an event of a stream, by message and then by number.
    pub(super) fn of(&self, stream: u64, event: u64) -> Vec<Entry> {
        let state = self.state();
        let entries = state.events.get(&event).filter(|_| state.stream == stream);
        let mut entries = entries.cloned().unwrap_or_default();
        entries.sort_by_key(|(sequence, attempt)| (*sequence, attempt.number()));
        entries
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
