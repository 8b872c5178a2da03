use std::collections::BTreeMap;

use crate::delivery::{DeadLetter, OrderKey};

/// How many dead letters are kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeadLetterLimits {
    pub(super) letters: usize,
    pub(super) bytes: usize,
}

/// The dead letters of an inbox in memory, within bounds of their own.
pub(super) struct DeadLetterQueue {
    limits: DeadLetterLimits,
    /// Whether a letter holds back what comes after it.
    holds: bool,
    letters: BTreeMap<u64, Entry>,
    /// Their ids, in the order in which their events were given up.
    deaths: BTreeMap<u64, u64>,
    /// How many events were given up so far, which numbers their deaths.
    buried: u64,
    bytes: usize,
    /// How many had to go for others.
    dropped: u64,
}

struct Entry {
    death: u64,
    letter: DeadLetter,
    /// What its event was put in order by.
    key: Option<OrderKey>,
}

impl DeadLetterQueue {
    pub(super) fn new(limits: DeadLetterLimits, holds: bool) -> Self {
        Self {
            limits,
            holds,
            letters: BTreeMap::new(),
            deaths: BTreeMap::new(),
            buried: 0,
            bytes: 0,
            dropped: 0,
        }
    }

    /// Keeps a letter, and drops those that are dead for the longest time if there is no room then. Returns the keys
    /// that those held back which are not kept.
    pub(super) fn push(&mut self, letter: DeadLetter, key: Option<OrderKey>) -> Vec<OrderKey> {
        let mut passing = Vec::new();
        let size = letter.body().len();
        if size > self.limits.bytes {
            // All others would have to go, and then this one too.
            self.dropped += 1;
            passing.extend(key.filter(|_| self.holds));
            return passing;
        }
        self.bytes += size;
        self.buried += 1;
        let (id, death) = (letter.id(), self.buried);
        self.deaths.insert(death, id);
        self.letters.insert(id, Entry { death, letter, key });
        while self.letters.len() > self.limits.letters || self.bytes > self.limits.bytes {
            let Some((_, oldest)) = self.deaths.first_key_value() else {
                break;
            };
            self.dropped += 1;
            let (key, held) = self.take(*oldest);
            passing.extend(key.filter(|_| held));
        }
        passing
    }

    pub(super) fn get(&self, id: u64) -> Option<&DeadLetter> {
        self.letters.get(&id).map(|entry| &entry.letter)
    }

    /// Returns whether letters hold back the keys of their events.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// Returns whether there is a letter of this id that holds back a key.
    pub(super) fn is_holding(&self, id: u64) -> bool {
        let entry = self.letters.get(&id);
        self.holds && entry.is_some_and(|entry| entry.key.is_some())
    }

    /// Takes a letter out. Returns its key, and whether it held that back.
    pub(super) fn take(&mut self, id: u64) -> (Option<OrderKey>, bool) {
        let Some(entry) = self.letters.remove(&id) else {
            return (None, false);
        };
        self.deaths.remove(&entry.death);
        self.bytes -= entry.letter.body().len();
        let held = self.holds && entry.key.is_some();
        (entry.key, held)
    }

    /// Returns the letters with ids above `after`, in their order.
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
