use std::collections::{HashSet, VecDeque};

use super::volume::Volume;
use crate::delivery::{Job, WorkerPool};

/// The events that are in memory: they wait for a worker, run, or wait until their result is on disk.
pub(super) struct Window {
    limit: Volume,
    /// The events that wait for a worker.
    pub(super) ready: VecDeque<Box<Job>>,
    pub(super) worker_pool: WorkerPool,
    /// The ids of the events that run, or whose attempt has ended and isn't on disk yet.
    running: HashSet<u64>,
    /// The number of ended attempts and ended events whose result isn't on disk yet.
    unwritten: usize,
    /// The total size of the bodies of all events in the window, in bytes.
    bytes: u64,
}

impl Window {
    pub(super) fn new(limit: Volume, worker_pool: WorkerPool) -> Self {
        Self {
            limit,
            ready: VecDeque::new(),
            worker_pool,
            running: HashSet::new(),
            unwritten: 0,
            bytes: 0,
        }
    }

    /// Returns the free space. An empty window has space for an event of any size.
    pub(super) fn free(&self) -> Volume {
        let (events, bytes) = (self.len() as u64, self.bytes);
        let Volume {
            events: max,
            bytes: max_bytes,
        } = self.limit;
        Volume {
            events: max.saturating_sub(events),
            bytes: max_bytes.saturating_sub(bytes).max(u64::from(events == 0)),
        }
    }

    /// Returns how many more events could run at once.
    pub(super) fn free_workers(&self, concurrency: usize) -> usize {
        concurrency.saturating_sub(self.ready.len() + self.worker_pool.busy())
    }

    pub(super) fn push(&mut self, job: Box<Job>) {
        self.bytes += job.size() as u64;
        self.ready.push_back(job);
    }

    /// Adds an event that has ended without running, and whose body has `size` bytes.
    pub(super) fn push_ended(&mut self, size: u64) {
        self.bytes += size;
        self.unwritten += 1;
    }

    /// Removes and returns the events that wait for a worker.
    pub(super) fn take_ready(&mut self) -> VecDeque<Box<Job>> {
        let ready = std::mem::take(&mut self.ready);
        self.bytes -= ready.iter().map(|job| job.size() as u64).sum::<u64>();
        ready
    }

    /// Returns whether the number of unwritten results lets another event start.
    pub(super) fn may_start(&self) -> bool {
        (self.unwritten as u64) < (self.limit.events / 2).max(1)
    }

    /// Counts events whose attempt has ended.
    pub(super) fn finish(&mut self, events: usize) {
        (0..events).for_each(|_| self.worker_pool.done());
        self.unwritten += events;
    }

    /// Takes the next event, and records that it runs.
    pub(super) fn start(&mut self) -> Option<Box<Job>> {
        let job = self.ready.pop_front()?;
        self.running.insert(job.number);
        Some(job)
    }

    /// Returns whether the event runs, or its attempt has ended and isn't on disk yet.
    pub(super) fn runs(&self, id: u64) -> bool {
        self.running.contains(&id)
    }

    /// Removes an event whose result is on disk.
    pub(super) fn remove(&mut self, id: u64, size: u64) {
        self.running.remove(&id);
        self.unwritten -= 1;
        self.bytes -= size;
    }

    /// Returns how many events are in memory.
    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.running()
    }

    /// Returns how many events are running, or wait until their result is on disk.
    pub(super) fn running(&self) -> usize {
        self.worker_pool.busy() + self.unwritten
    }
}
