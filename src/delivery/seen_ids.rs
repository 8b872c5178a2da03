use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap, RandomState};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};
use std::time::Duration;

use siphasher::sip128::SipHasher13;

use crate::runtime::millis;

/// The message ids of accepted events, remembered for a limited time and up to a limited count.
///
/// Ids are stored as fingerprints under random keys. So a client can't forge a collision, and a long id uses no more memory
/// than a short id.
#[derive(Debug)]
pub(crate) struct SeenIds {
    remembered: HashMap<Fingerprint, (), BuildHasherDefault<LowerHalf>>,
    /// The fingerprints of `remembered`, oldest first.
    order: VecDeque<SeenId>,
    max_ids: usize,
    /// How long an id is remembered, in milliseconds.
    window: u64,
    /// The highest number among events whose id was forgotten.
    forgotten: u64,
    /// Whether an id was forgotten before its window ended.
    forgot_early: bool,
}

#[derive(Debug)]
struct SeenId {
    /// The time of acceptance in milliseconds, by the inbox's clock.
    since: u64,
    /// The number of the event.
    number: u64,
    id: Fingerprint,
}

/// The decision about an event that the inbox doesn't refuse.
#[derive(Debug)]
pub(crate) enum Admission {
    New {
        /// The event's position in the order of acceptance.
        number: u64,
        /// Whether, for the first time, an id was forgotten before its window ended.
        forgot_early: bool,
    },
    /// The inbox has already accepted a copy of the event.
    Duplicate,
}

/// The hash by which an inbox remembers a message id.
pub(crate) type Fingerprint = u128;

/// Hashes a fingerprint to its lower half, because a fingerprint is already a hash under secret keys.
#[derive(Debug, Default)]
struct LowerHalf(u64);

impl Hasher for LowerHalf {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Hashing a `u128` doesn't call this method.
        bytes
            .iter()
            .for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    #[allow(clippy::cast_possible_truncation)] // the lower half
    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64;
    }
}

/// Computes the fingerprints of an inbox under random keys.
pub(crate) struct Fingerprints {
    hasher: SipHasher13,
}

impl Default for Fingerprints {
    fn default() -> Self {
        // The standard library has no other source of random keys.
        let random = RandomState::new();
        let [first, second] = [1, 2].map(|number| random.hash_one(number));
        Self {
            hasher: SipHasher13::new_with_keys(first, second),
        }
    }
}

impl Fingerprints {
    pub(crate) fn of(&self, id: &str) -> Fingerprint {
        self.hasher.hash(id.as_bytes()).as_u128()
    }
}

impl SeenIds {
    pub(crate) fn new(max_ids: usize, window: Duration) -> Self {
        Self {
            remembered: HashMap::default(),
            order: VecDeque::new(),
            max_ids,
            window: millis(window),
            forgotten: 0,
            forgot_early: false,
        }
    }

    /// Decides whether the event with this id is new or a duplicate. For a new id, `number` returns a number above all
    /// earlier numbers, or refuses the event.
    pub(crate) fn admit<E>(
        &mut self,
        id: Fingerprint,
        now: u64,
        number: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Admission, E> {
        self.expire(now);
        let Entry::Vacant(vacant) = self.remembered.entry(id) else {
            return Ok(Admission::Duplicate);
        };
        let number = number()?;
        let mut forgot_early = false;
        if self.max_ids > 0 && self.window > 0 {
            vacant.insert(());
            let since = now;
            let forgot = self.push(SeenId { since, number, id });
            forgot_early = forgot && !std::mem::replace(&mut self.forgot_early, true);
        }
        Ok(Admission::New {
            number,
            forgot_early,
        })
    }

    /// Returns whether an event with this id was accepted within the window.
    pub(crate) fn contains(&mut self, id: Fingerprint, now: u64) -> bool {
        self.expire(now);
        self.remembered.contains_key(&id)
    }

    /// Forgets the ids whose window has ended. Returns the highest number among all events whose id was forgotten.
    pub(crate) fn expire(&mut self, now: u64) -> u64 {
        while let Some(oldest) = self.order.front()
            && now.saturating_sub(oldest.since) >= self.window
        {
            self.forget_oldest();
        }
        self.forgotten
    }

    /// Returns whether a remembered id belongs to an event with a number above `number`.
    pub(crate) fn is_newer(&self, id: Fingerprint, number: u64) -> bool {
        let newer = self.order.iter().rev();
        let mut newer = newer.take_while(|each| each.number > number);
        newer.any(|each| each.id == id)
    }

    /// Remembers the id of the event with this number, which is above all earlier numbers. Returns false if this forgets
    /// another id before its window ends.
    pub(crate) fn insert(&mut self, id: Fingerprint, number: u64, since: u64) -> bool {
        if self.max_ids == 0 || self.window == 0 || self.remembered.insert(id, ()).is_some() {
            return true;
        }
        !self.push(SeenId { since, number, id })
    }

    /// Remembers an id from a store, unless the id's window has ended.
    pub(crate) fn recall(&mut self, id: Fingerprint, number: u64, since: u64, now: u64) {
        if now.saturating_sub(since) < self.window {
            self.insert(id, number, since);
        } else {
            self.forgotten = number;
        }
    }

    /// Forgets an id whose event wasn't stored.
    pub(crate) fn remove(&mut self, id: Fingerprint) {
        if self.remembered.remove(&id).is_some()
            && let Some(index) = self.order.iter().rposition(|each| each.id == id)
        {
            self.order.remove(index);
        }
    }

    /// Adds an id. If there are too many ids, forgets the oldest id and returns true.
    fn push(&mut self, id: SeenId) -> bool {
        self.order.push_back(id);
        let too_many = self.order.len() > self.max_ids;
        if too_many {
            self.forget_oldest();
        }
        too_many
    }

    fn forget_oldest(&mut self) {
        if let Some(oldest) = self.order.pop_front() {
            self.remembered.remove(&oldest.id);
            self.forgotten = oldest.number;
        }
    }
}
