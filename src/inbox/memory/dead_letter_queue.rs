use std::collections::BTreeMap;

use super::limits::MemoryLimits;
use crate::delivery::{DeadLetter, OrderKey};

/// The dead letters of a memory inbox. Beyond the limits, the queue drops the oldest letters.
pub(super) struct DeadLetterQueue {
    limits: MemoryLimits,
    /// Whether a letter blocks the ordering key of its event.
    blocks_keys: bool,
    letters: BTreeMap<u64, Entry>,
    /// The ids of the letters, by their push numbers.
    ids: BTreeMap<u64, u64>,
    /// The number of letters ever pushed, which is also the newest push number.
    pushed: u64,
    bytes: usize,
    /// The number of dropped letters.
    dropped: u64,
}

struct Entry {
    pushed: u64,
    /// The time of the push, by the inbox's clock.
    since: u64,
    letter: DeadLetter,
    /// The ordering key of the event.
    key: Option<OrderKey>,
}

impl DeadLetterQueue {
    pub(super) fn new(limits: MemoryLimits, blocks_keys: bool) -> Self {
        Self {
            limits,
            blocks_keys,
            letters: BTreeMap::new(),
            ids: BTreeMap::new(),
            pushed: 0,
            bytes: 0,
            dropped: 0,
        }
    }

    /// Stores a letter and drops the oldest letters beyond the limits. Returns the keys that are no longer blocked.
    pub(super) fn push(
        &mut self,
        letter: DeadLetter,
        key: Option<OrderKey>,
        since: u64,
    ) -> Vec<OrderKey> {
        let mut unblocked = Vec::new();
        let size = letter.size();
        if size > self.limits.dead_letter_bytes {
            // A letter above the limit would first displace all others, and then be dropped too.
            self.dropped += 1;
            unblocked.extend(key.filter(|_| self.blocks_keys));
            return unblocked;
        }
        self.bytes += size;
        self.pushed += 1;
        let (id, pushed) = (letter.id(), self.pushed);
        self.ids.insert(pushed, id);
        self.letters.insert(
            id,
            Entry {
                pushed,
                since,
                letter,
                key,
            },
        );
        while self.letters.len() > self.limits.dead_letters
            || self.bytes > self.limits.dead_letter_bytes
        {
            let Some((_, &oldest)) = self.ids.first_key_value() else {
                break;
            };
            self.dropped += 1;
            let key = self.remove(oldest);
            unblocked.extend(key.filter(|_| self.blocks_keys));
        }
        unblocked
    }

    /// Returns the ids of the letters that were pushed before `time`, by the inbox's clock.
    pub(super) fn older_than(&self, time: u64) -> Vec<u64> {
        let old = self.letters.values().filter(|entry| entry.since < time);
        old.map(|entry| entry.letter.id()).collect()
    }

    pub(super) fn get(&self, id: u64) -> Option<&DeadLetter> {
        self.letters.get(&id).map(|entry| &entry.letter)
    }

    /// Returns whether letters block the ordering keys of their events.
    pub(super) fn blocks_keys(&self) -> bool {
        self.blocks_keys
    }

    /// Returns whether the letter with this id blocks a key.
    pub(super) fn is_blocking(&self, id: u64) -> bool {
        let entry = self.letters.get(&id);
        self.blocks_keys && entry.is_some_and(|entry| entry.key.is_some())
    }

    /// Removes a letter, and returns the ordering key of its event.
    pub(super) fn remove(&mut self, id: u64) -> Option<OrderKey> {
        let entry = self.letters.remove(&id)?;
        self.ids.remove(&entry.pushed);
        self.bytes -= entry.letter.size();
        entry.key
    }

    /// Returns the letters with ids above `after`, ordered by id.
    pub(super) fn iter(&self, after: Option<u64>) -> impl Iterator<Item = &DeadLetter> {
        let first = after.map_or(0, |after| after.saturating_add(1));
        self.letters.range(first..).map(|(_, entry)| &entry.letter)
    }

    pub(super) fn len(&self) -> usize {
        self.letters.len()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
