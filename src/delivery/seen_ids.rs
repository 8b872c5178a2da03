use std::collections::hash_map::RandomState;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::time::Duration;

use crate::runtime::millis;

/// Remembers the ids of accepted events, for a time and up to a count.
///
/// What is kept of an id is a fingerprint under keys that are drawn at random, so that nobody can
/// make two ids look the same, and long ids cost no more than short ones.
#[derive(Debug)]
pub(crate) struct SeenIds {
    remembered: HashSet<Fingerprint, BuildHasherDefault<AsItIs>>,
    /// The same fingerprints, oldest first.
    order: VecDeque<Remembered>,
    max_ids: usize,
    /// In milliseconds.
    window: u64,
    /// The highest number of an event whose id was forgotten.
    forgotten: u64,
}

#[derive(Debug)]
struct Remembered {
    /// In milliseconds, by the inbox's clock.
    since: u64,
    /// That of the event.
    number: u64,
    id: Fingerprint,
}

/// A messageId, as it is remembered.
pub(crate) type Fingerprint = u128;

/// Hashes a fingerprint to its lower half: it is a hash already, and nobody outside knows its keys.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Not called for a u128; whatever else is hashed is mixed in, if poorly.
        bytes
            .iter()
            .for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    #[allow(clippy::cast_possible_truncation)] // the lower half
    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }
}

/// The keys of an inbox's fingerprints.
#[derive(Debug, Default)]
pub(crate) struct Fingerprints {
    keys: [RandomState; 2],
}

impl Fingerprints {
    pub(crate) fn of(&self, id: &str) -> Fingerprint {
        let [low, high] = self.keys.each_ref().map(|key| u128::from(key.hash_one(id)));
        low | high << 64
    }
}

impl SeenIds {
    pub(crate) fn new(max_ids: usize, window: Duration) -> Self {
        Self {
            remembered: HashSet::default(),
            order: VecDeque::new(),
            max_ids,
            window: millis(window),
            forgotten: 0,
        }
    }

    /// Returns whether the id is that of an event that was taken within the window.
    pub(crate) fn contains(&mut self, id: Fingerprint, now: u64) -> bool {
        self.expire(now);
        self.remembered.contains(&id)
    }

    /// Forgets the ids whose window is over. Returns the highest number of an event whose id was
    /// ever forgotten.
    pub(crate) fn expire(&mut self, now: u64) -> u64 {
        while let Some(oldest) = self.order.front()
            && now.saturating_sub(oldest.since) >= self.window
        {
            self.forget_oldest();
        }
        self.forgotten
    }

    /// Returns the highest number of an event whose id was ever forgotten.
    #[cfg(feature = "sqlite")]
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Forgets everything, as if nothing had ever been there.
    #[cfg(feature = "sqlite")]
    pub(crate) fn clear(&mut self) {
        self.remembered.clear();
        self.order.clear();
        self.forgotten = 0;
    }

    /// Remembers the id of the event of this number, which is higher than those before. Returns
    /// false if another one had to be forgotten for it before its window was over.
    pub(crate) fn insert(&mut self, id: Fingerprint, number: u64, now: u64) -> bool {
        if self.max_ids == 0 || self.window == 0 {
            return true;
        }
        let full = self.order.len() >= self.max_ids;
        if full {
            self.forget_oldest();
        }
        if self.remembered.insert(id) {
            self.order.push_back(Remembered {
                since: now,
                number,
                id,
            });
        }
        !full
    }

    /// Remembers an id that a store has, unless its window is over.
    #[cfg(feature = "sqlite")]
    pub(crate) fn recall(&mut self, id: Fingerprint, number: u64, since: u64, now: u64) {
        if now.saturating_sub(since) < self.window {
            self.insert(id, number, since);
        } else {
            self.forgotten = number;
        }
    }

    /// Forgets an id whose event wasn't taken after all.
    pub(crate) fn remove(&mut self, id: Fingerprint) {
        if self.remembered.remove(&id)
            && let Some(place) = self.order.iter().rposition(|each| each.id == id)
        {
            self.order.remove(place);
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.remembered.remove(&oldest.id);
            self.forgotten = oldest.number;
        }
    }
}
