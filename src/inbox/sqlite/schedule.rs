use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeSet, VecDeque};

use super::park::Park;
use super::store::Head;
use crate::delivery::OrderKey;

/// The order in which events are loaded. The schedule holds ids, not events.
///
/// The schedule sees events in the order of acceptance, up to a cursor. Events beyond the cursor take no memory. An
/// event whose ordering key is busy waits in that key's queue. An event whose attempt isn't due waits until the attempt
/// is due. All other events may run.
#[derive(Default)]
pub(super) struct Schedule {
    /// The longest time in milliseconds until an attempt is due.
    max_delay: u64,
    /// The last event that the schedule has seen.
    pub(super) cursor: u64,
    /// The last event on disk.
    pub(super) last: u64,
    /// Events that may run and aren't in memory.
    pub(super) next: VecDeque<u64>,
    /// The queue of each busy key. The first entry is the event that makes the key busy, or 0 for a dead letter.
    queues: HashMap<OrderKey, VecDeque<u64>>,
    /// Events whose attempt isn't due, by due time.
    retrying: BTreeSet<(u64, u64)>,
    /// The poison candidates: events that may have crashed an earlier process. Only the first one may run.
    poison_candidates: VecDeque<u64>,
    /// Events that wait for the limits of a route.
    parked: HashMap<u64, Park>,
    /// Events in `next` that have waited for the limits of a route.
    unparked: HashMap<u64, Park>,
}

impl Schedule {
    /// Returns the schedule of a store whose last event is `last`. The schedule has seen no events.
    pub(super) fn new(last: u64, max_delay: u64) -> Self {
        Self {
            last,
            max_delay,
            ..Self::default()
        }
    }

    /// Marks the key of a blocking dead letter as busy.
    pub(super) fn block(&mut self, key: OrderKey) {
        let queue = self.queues.entry(key);
        queue.or_insert_with(|| VecDeque::from([0]));
    }

    /// Returns the id after which to continue reading, if no loaded id may run and the disk has further events.
    pub(super) fn unseen(&self) -> Option<u64> {
        (self.next.is_empty() && self.cursor < self.last).then_some(self.cursor)
    }

    /// Adds the next event on disk.
    pub(super) fn see(&mut self, head: Head, now: u64) {
        self.cursor = head.id;
        if !self.try_key(head.key, head.id) {
            return;
        }
        match head.due_at {
            Some(due) if due > now => {
                let due = due.min(now.saturating_add(self.max_delay));
                self.retrying.insert((due, head.id));
            }
            _ => self.next.push_back(head.id),
        }
    }

    /// Adds an event that was just stored. Returns true if the event may run now. `room` is true if the window has
    /// space for the event.
    pub(super) fn stored(&mut self, id: u64, key: Option<OrderKey>, room: bool) -> bool {
        let caught_up = self.cursor == self.last;
        self.last = id;
        if !caught_up || !room {
            return false;
        }
        self.cursor = id;
        if !self.try_key(key, id) {
            return false;
        }
        if !self.next.is_empty() {
            self.next.push_back(id);
            return false;
        }
        true
    }

    fn try_key(&mut self, key: Option<OrderKey>, id: u64) -> bool {
        let Some(key) = key else { return true };
        match self.queues.entry(key) {
            Entry::Vacant(idle) => {
                idle.insert(VecDeque::from([id]));
                true
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(id);
                false
            }
        }
    }

    /// Schedules a replayed event, which keeps its old id. `blocked` is true if the dead letter blocked the event's
    /// key.
    pub(super) fn requeue(&mut self, id: u64, key: Option<OrderKey>, blocked: bool) {
        if self.cursor < id {
            // The cursor will reach this event later. Releasing the key only lets earlier events of the key run,
            // because the schedule has seen no later events. The earlier events were replayed too.
            self.release(key.as_ref().filter(|_| blocked));
            return;
        }
        if blocked || self.try_key(key, id) {
            self.next.push_back(id);
        }
    }

    /// Lets the next event of a key run.
    pub(super) fn release(&mut self, key: Option<&OrderKey>) {
        let Some(key) = key else { return };
        let Some(queue) = self.queues.get_mut(key) else {
            return;
        };
        queue.pop_front();
        match queue.front() {
            Some(next) => self.next.push_back(*next),
            None => drop(self.queues.remove(key)),
        }
    }

    /// Schedules the next attempt of an event.
    pub(super) fn retry(&mut self, id: u64, due_at: u64) {
        self.end_poison_candidate(id);
        self.retrying.insert((due_at, id));
    }

    /// Keeps an event that waits for the limits of a route.
    pub(super) fn park(&mut self, id: u64, park: Park) {
        self.end_poison_candidate(id);
        // The limits may have a permit for the event by now.
        if park.park() {
            return self.requeue_parked(id, park);
        }
        self.retrying.extend(park.due_at.map(|due| (due, id)));
        self.parked.insert(id, park);
    }

    /// Lets a parked event run. Ignores an event that isn't parked.
    pub(super) fn unpark(&mut self, id: u64) {
        let Some(park) = self.parked.remove(&id) else {
            return;
        };
        if let Some(due) = park.due_at {
            self.retrying.remove(&(due, id));
        }
        self.requeue_parked(id, park);
    }

    fn requeue_parked(&mut self, id: u64, park: Park) {
        // The event may occupy a route, so it runs before the events that have never started.
        self.next.push_front(id);
        self.unparked.insert(id, park);
    }

    /// Takes the tickets of an event that has waited for the limits of a route.
    pub(super) fn take_park(&mut self, id: u64) -> Option<Park> {
        self.unparked.remove(&id)
    }

    /// Lets the events run that wait for this event: the next event of its key, and the next poison candidate. The key is
    /// `None` if the event keeps its key busy.
    pub(super) fn end(&mut self, id: u64, key: Option<&OrderKey>) {
        self.end_poison_candidate(id);
        self.release(key);
    }

    /// Skips an event that can't be read or that another process deleted.
    pub(super) fn skip(&mut self, id: u64) {
        drop(self.take_park(id));
        let mut queues = self.queues.iter();
        let queue = queues.find(|(_, queue)| queue.front() == Some(&id));
        let key = queue.map(|(key, _)| OrderKey::clone(key));
        self.end(id, key.as_ref());
    }

    /// Marks each event whose attempt is due as ready to run. Returns whether any attempt was due.
    pub(super) fn wake_due(&mut self, now: u64) -> bool {
        let mut woken = false;
        while let Some((due, id)) = self.retrying.first().copied()
            && due <= now
        {
            self.retrying.pop_first();
            match self.parked.remove(&id) {
                Some(park) => self.requeue_parked(id, park),
                None => self.next.push_back(id),
            }
            woken = true;
        }
        woken
    }

    /// Returns when the next attempt is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.retrying.first().map(|(due, _)| *due)
    }

    /// Returns the number of events whose attempt isn't due.
    pub(super) fn retrying(&self) -> u64 {
        self.retrying.len() as u64
    }

    /// Returns whether there may be an event to load.
    pub(super) fn has_work(&self) -> bool {
        !self.next.is_empty() || self.cursor < self.last
    }

    /// Adds a poison candidate. Returns whether it may run now. Otherwise, it waits for the other candidates.
    pub(super) fn try_poison_candidate(&mut self, id: u64) -> bool {
        if !self.poison_candidates.contains(&id) {
            self.poison_candidates.push_back(id);
        }
        self.poison_candidates.front() == Some(&id)
    }

    fn end_poison_candidate(&mut self, id: u64) {
        if self.poison_candidates.front() == Some(&id) {
            self.poison_candidates.pop_front();
            let next = self.poison_candidates.front().copied();
            next.into_iter().for_each(|next| self.next.push_front(next));
        }
    }
}
