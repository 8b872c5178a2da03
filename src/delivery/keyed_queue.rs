use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};

use super::{Job, OrderKey};

/// The events that wait for a place among those in delivery, and the order of those that have a key.
///
/// A key is here for as long as one of its events is on its way: the first of them may run or wait
/// for its next attempt, and those behind it stand in a line of their own, out of everyone else's
/// way. A key whose last event has ended leaves no trace.
#[derive(Default)]
pub(crate) struct KeyedQueue {
    ready: VecDeque<Box<Job>>,
    /// Who waits behind the first event of each key.
    followers: HashMap<OrderKey, VecDeque<Box<Job>>>,
    /// How many wait behind another one, over all keys.
    held_back: usize,
}

impl KeyedQueue {
    /// Puts a new event at the end.
    pub(crate) fn push(&mut self, job: Box<Job>) {
        let Some(key) = &job.key else {
            return self.ready.push_back(job);
        };
        match self.followers.entry(OrderKey::clone(key)) {
            Entry::Vacant(idle) => {
                idle.insert(VecDeque::new());
                self.ready.push_back(job);
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(job);
                self.held_back += 1;
            }
        }
    }

    /// Puts an event at the end that is the first of its key, or has none.
    pub(crate) fn push_first(&mut self, job: Box<Job>) {
        self.ready.push_back(job);
    }

    /// Takes the oldest event that may run.
    pub(crate) fn pop(&mut self) -> Option<Box<Job>> {
        self.ready.pop_front()
    }

    /// Lets the next event of a key pass.
    pub(crate) fn release(&mut self, key: Option<&OrderKey>) {
        let Some(key) = key else { return };
        let Some(followers) = self.followers.get_mut(key) else {
            return;
        };
        match followers.pop_front() {
            Some(next) => {
                self.held_back -= 1;
                self.ready.push_back(next);
            }
            None => drop(self.followers.remove(key)),
        }
    }

    /// Takes an event out, wherever it is, if it hasn't been taken.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Box<Job>> {
        let find = |line: &VecDeque<Box<Job>>| line.iter().position(|job| job.number == number);
        if let Some(place) = find(&self.ready) {
            let job = self.ready.remove(place)?;
            self.release(job.key.as_ref());
            return Some(job);
        }
        let mut lines = self.followers.values_mut();
        let (line, place) = lines.find_map(|line| find(line).map(|place| (line, place)))?;
        self.held_back -= 1;
        line.remove(place)
    }

    /// Returns how many events may run.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Returns how many events wait, for a place or behind another one.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len() + self.held_back
    }
}
