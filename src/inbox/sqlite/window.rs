use std::collections::VecDeque;

use crate::delivery::{Job, WorkerPool, WorkerSlot};

/// The limits of the events in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// The maximum number of ended attempts whose results aren't on disk yet.
    pub(super) unwritten: usize,
}

/// The events that are in memory: they wait for a worker, run, or wait until their result is on disk.
pub(super) struct Window {
    limits: WindowLimits,
    ready: VecDeque<Box<Job>>,
    pub(super) worker_pool: WorkerPool,
    /// Events whose attempt has ended and whose result isn't on disk yet.
    unwritten: usize,
    /// The total size of the bodies of all events in the window, in bytes.
    bytes: usize,
}

/// The used part of the window.
#[derive(Debug)]
pub(super) struct Capacity {
    events: usize,
    bytes: usize,
    /// Events that are running, or will run next.
    pub(super) active: usize,
    limits: WindowLimits,
}

impl Capacity {
    /// Returns whether there is space for one more event. An empty window always has space.
    pub(super) fn has_room(&self) -> bool {
        self.events == 0 || (self.events < self.limits.events && self.bytes < self.limits.bytes)
    }

    /// Takes space for an event. `runs` is true if the event will run.
    pub(super) fn take(&mut self, size: usize, runs: bool) {
        self.events += 1;
        self.active += usize::from(runs);
        self.bytes += size;
    }
}

impl Window {
    pub(super) fn new(limits: WindowLimits, worker_pool: WorkerPool) -> Self {
        Self {
            limits,
            ready: VecDeque::new(),
            worker_pool,
            unwritten: 0,
            bytes: 0,
        }
    }

    pub(super) fn capacity(&self) -> Capacity {
        Capacity {
            events: self.ready.len() + self.running(),
            bytes: self.bytes,
            active: self.ready.len() + self.worker_pool.busy(),
            limits: self.limits,
        }
    }

    pub(super) fn push(&mut self, job: Box<Job>) {
        self.bytes += job.size();
        self.ready.push_back(job);
    }

    pub(super) fn pop(&mut self) -> Option<Box<Job>> {
        self.ready.pop_front()
    }

    /// Returns how many events wait for a worker.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes out the events that wait for a worker.
    pub(super) fn take_ready(&mut self) -> VecDeque<Box<Job>> {
        let ready = std::mem::take(&mut self.ready);
        self.bytes -= ready.iter().map(|job| job.size()).sum::<usize>();
        ready
    }

    /// Returns whether the number of unwritten results lets another event start.
    pub(super) fn may_start(&self) -> bool {
        self.unwritten < self.limits.unwritten
    }

    pub(super) fn reserve_slot(&mut self) -> Option<WorkerSlot> {
        self.worker_pool.reserve_slot(self.ready.len())
    }

    /// Counts events whose attempt has ended.
    pub(super) fn finish(&mut self, events: usize) {
        (0..events).for_each(|_| self.worker_pool.done());
        self.unwritten += events;
    }

    /// Removes an event whose result is on disk.
    pub(super) fn remove(&mut self, size: usize) {
        self.unwritten -= 1;
        self.bytes -= size;
    }

    /// Returns how many events are running, or wait until their result is on disk.
    pub(super) fn running(&self) -> usize {
        self.worker_pool.busy() + self.unwritten
    }
}
