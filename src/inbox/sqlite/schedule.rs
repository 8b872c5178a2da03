use std::collections::hash_map::{Entry, HashMap};
use std::collections::{BTreeSet, VecDeque};

use super::stored::Head;
use crate::delivery::OrderKey;

/// In which order the events on disk are loaded. It knows them by their ids only.
///
/// Events are looked at in the order of acceptance, up to a cursor; what lies beyond it needs no
/// memory. One whose key is busy stands in the line of that key; one whose attempt isn't due waits for
/// its time; all others may run. The line of a key that nothing is in any more is forgotten.
#[derive(Default)]
pub(super) struct Schedule {
    /// The last event that was looked at.
    cursor: u64,
    /// The last event on disk.
    last: u64,
    /// What may run and isn't in memory.
    next: VecDeque<u64>,
    /// Who waits behind the first event of each key.
    lines: HashMap<OrderKey, VecDeque<u64>>,
    /// What waits for the time of its attempt, by that time.
    retrying: BTreeSet<(u64, u64)>,
    /// The event that runs as the only one of those that may have crashed the process.
    suspect: Option<u64>,
    /// The others.
    suspects: VecDeque<u64>,
}

impl Schedule {
    /// Returns that of a store whose last event is `last`, none of which has been looked at.
    pub(super) fn new(last: u64) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    /// Has a key be busy by a dead letter that holds it.
    pub(super) fn hold(&mut self, key: OrderKey) {
        self.lines.entry(key).or_default();
    }

    /// Returns the id after which to look for more, if nothing that may run is known and there is
    /// more on disk.
    pub(super) fn unseen(&self) -> Option<u64> {
        (self.next.is_empty() && self.cursor < self.last).then_some(self.cursor)
    }

    /// Looks at the event that is next on disk. Returns whether its attempt isn't due.
    pub(super) fn see(&mut self, head: Head, now: u64) -> bool {
        self.cursor = head.id;
        if !self.may_pass(head.key, head.id) {
            return false;
        }
        match head.due_at {
            Some(due) if due > now => self.retrying.insert((due, head.id)),
            _ => {
                self.next.push_back(head.id);
                false
            }
        }
    }

    /// Leaves out what may be next on disk, since it can't be read.
    pub(super) fn pass_over(&mut self) {
        self.cursor += 1;
    }

    /// There is nothing more on disk.
    pub(super) fn seen_all(&mut self) {
        self.cursor = self.last;
    }

    /// Looks at an event that was just written. Returns whether it may run at once; `room` says
    /// whether there is room for it in memory.
    pub(super) fn arrived(&mut self, id: u64, key: Option<OrderKey>, room: bool) -> bool {
        let caught_up = self.cursor == self.last;
        self.last = id;
        if !caught_up || !room {
            return false;
        }
        self.cursor = id;
        if !self.may_pass(key, id) {
            return false;
        }
        if !self.next.is_empty() {
            self.next.push_back(id);
            return false;
        }
        true
    }

    fn may_pass(&mut self, key: Option<OrderKey>, id: u64) -> bool {
        let Some(key) = key else { return true };
        match self.lines.entry(key) {
            Entry::Vacant(idle) => {
                idle.insert(VecDeque::new());
                true
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(id);
                false
            }
        }
    }

    /// Puts an event that was replayed among those that may run, or behind others of its key. Its id
    /// is that of an old one, so the cursor has mostly passed it. `held` says that its key was its own.
    pub(super) fn replayed(&mut self, id: u64, key: Option<OrderKey>, held: bool) {
        if self.cursor < id {
            // It will be looked at in its place. What it held lets pass who was before it, a letter
            // once that was replayed; whatever comes behind it hasn't been looked at either.
            self.release(key.as_ref().filter(|_| held));
            return;
        }
        if held || self.may_pass(key, id) {
            self.next.push_back(id);
        }
    }

    /// Lets the next event of a key pass.
    pub(super) fn release(&mut self, key: Option<&OrderKey>) {
        let Some(key) = key else { return };
        let Some(line) = self.lines.get_mut(key) else {
            return;
        };
        match line.pop_front() {
            Some(next) => self.next.push_back(next),
            None => drop(self.lines.remove(key)),
        }
    }

    /// Has an event wait for its next attempt.
    pub(super) fn retry(&mut self, id: u64, due_at: u64) {
        self.retrying.insert((due_at, id));
    }

    /// Puts what is due among those that may run. Returns how many.
    pub(super) fn wake_due(&mut self, now: u64) -> usize {
        let mut woken = 0;
        while let Some((due, id)) = self.retrying.first().copied()
            && due <= now
        {
            self.retrying.pop_first();
            self.next.push_back(id);
            woken += 1;
        }
        woken
    }

    /// Returns when the next attempt is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.retrying.first().map(|(due, _)| *due)
    }

    /// Takes the next event that may run.
    pub(super) fn pop(&mut self) -> Option<u64> {
        self.next.pop_front()
    }

    /// Puts back what couldn't be loaded.
    pub(super) fn put_back(&mut self, id: u64) {
        self.next.push_front(id);
    }

    pub(super) fn peek(&self) -> Option<u64> {
        self.next.front().copied()
    }

    /// Returns whether an event that may have crashed the process can run now. If another such one
    /// does, it comes after it.
    pub(super) fn try_suspect(&mut self, id: u64) -> bool {
        if self.suspect.is_some() {
            self.suspects.push_back(id);
            return false;
        }
        self.suspect = Some(id);
        true
    }

    /// Takes back that an event may run as the only such one.
    pub(super) fn unsuspect(&mut self, id: u64) {
        if self.suspect == Some(id) {
            self.suspect = None;
        }
    }

    /// Passes over an event that can't be read: what stands behind it goes on.
    pub(super) fn pass_by(&mut self, key: Option<&OrderKey>) {
        self.release(key);
        if self.suspect.is_none()
            && let Some(next) = self.suspects.pop_front()
        {
            self.next.push_front(next);
        }
    }

    /// Lets the next such event pass, if this was the one that ran.
    pub(super) fn clear(&mut self, id: u64) {
        if self.suspect == Some(id) {
            self.suspect = None;
            if let Some(next) = self.suspects.pop_front() {
                self.next.push_front(next);
            }
        }
    }
}
