use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};

use super::{Job, OrderKey};

/// The jobs that are waiting for a worker. Jobs of one key run in order.
///
/// A key is present while one of its events is in flight. The key's first event is ready, running or waiting for its next
/// attempt. The key's other events wait in a separate queue, so they don't delay other keys. When the last event of a key
/// ends, the key is removed.
#[derive(Default)]
pub(crate) struct KeyedQueue {
    ready: VecDeque<Box<Job>>,
    /// The jobs that are waiting behind the first event of each key.
    followers: HashMap<OrderKey, VecDeque<Box<Job>>>,
    /// The number of jobs in `followers`.
    held_back: usize,
}

impl KeyedQueue {
    /// Adds a new job.
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

    /// Adds a job that is the first of its key or has no key.
    pub(crate) fn push_first(&mut self, job: Box<Job>) {
        self.ready.push_back(job);
    }

    /// Takes the oldest ready job.
    pub(crate) fn pop(&mut self) -> Option<Box<Job>> {
        self.ready.pop_front()
    }

    /// Makes the next job of a key ready.
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

    /// Removes the job with this number, unless a worker has taken it.
    pub(crate) fn remove(&mut self, number: u64) -> Option<Box<Job>> {
        let find = |jobs: &VecDeque<Box<Job>>| jobs.iter().position(|job| job.number == number);
        if let Some(index) = find(&self.ready) {
            let job = self.ready.remove(index)?;
            self.release(job.key.as_ref());
            return Some(job);
        }
        let mut queues = self.followers.values_mut();
        let (jobs, index) = queues.find_map(|jobs| find(jobs).map(|index| (jobs, index)))?;
        self.held_back -= 1;
        jobs.remove(index)
    }

    /// Returns all jobs, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Job> {
        let followers = self.followers.values().flatten();
        self.ready.iter().chain(followers).map(|job| &**job)
    }

    /// Returns the number of ready jobs.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Returns the number of jobs that are waiting for a worker or for another job of their key.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len() + self.held_back
    }
}
