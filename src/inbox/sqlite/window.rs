use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_channel::oneshot;

use crate::delivery::{EventOutcome, Job, Stats, WorkerPool, WorkerSlot};
use crate::waiters::Waiters;

/// The events that are in memory, and the counts of all.
///
/// The writer puts in what may run, workers take it out and hand it back, and the writer counts it out
/// once its end is on disk.
pub(super) struct Window {
    limits: WindowLimits,
    ready: VecDeque<Box<Job>>,
    pub(super) worker_pool: WorkerPool,
    /// Events that were handed back and whose end isn't on disk yet.
    unwritten: usize,
    /// Bytes of the bodies in memory.
    loaded_bytes: usize,
    draining: bool,
    /// Whether ends can't be written at the moment: nothing new is started.
    failing: bool,
    /// Events that wait for a place among those in delivery, here or on disk.
    waiting: u64,
    /// Events that wait for the time of their next attempt.
    retrying: u64,
    /// All but the counts above.
    pub(super) stats: Stats,
    /// Who waits until nothing is in flight.
    idle: Waiters,
    /// Who waits until nothing runs.
    rest: Waiters,
}

/// How much is in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
    /// How many events may have been handed back without their end being on disk.
    pub(super) unwritten: usize,
}

/// What is in memory, and how much may be.
#[derive(Debug)]
pub(super) struct Room {
    loaded: usize,
    bytes: usize,
    /// How many events run or are about to.
    pub(super) active: usize,
    limits: WindowLimits,
}

impl Room {
    /// Returns whether there is room for one more event. For one there always is.
    pub(super) fn has_room(&self) -> bool {
        self.loaded == 0 || (self.loaded < self.limits.events && self.bytes < self.limits.bytes)
    }

    /// Takes room for an event that was loaded. `runs` says that it is about to run.
    pub(super) fn took(&mut self, size: usize, runs: bool) {
        self.loaded += 1;
        self.active += usize::from(runs);
        self.bytes += size;
    }
}

/// A window and its lock. No user code runs under it.
pub(super) struct Shared {
    window: Mutex<Window>,
}

impl Shared {
    pub(super) fn new(window: Window) -> Self {
        Self {
            window: Mutex::new(window),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the window, and tells those who wait for what came of it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Window) -> T) -> T {
        let mut window = self.lock();
        let changed = change(&mut window);
        let idle = (window.in_flight() == 0).then(|| window.idle.take());
        let rest = window.at_rest().then(|| window.rest.take());
        drop(window);
        idle.into_iter().chain(rest).for_each(Waiters::wake);
        changed
    }
}

impl Window {
    pub(super) fn new(limits: WindowLimits, worker_pool: WorkerPool) -> Self {
        Self {
            limits,
            ready: VecDeque::new(),
            worker_pool,
            unwritten: 0,
            loaded_bytes: 0,
            draining: false,
            failing: false,
            waiting: 0,
            retrying: 0,
            stats: Stats::default(),
            idle: Waiters::default(),
            rest: Waiters::default(),
        }
    }

    /// Returns whether there is room for one more event.
    pub(super) fn has_room(&self) -> bool {
        self.room().has_room()
    }

    fn loaded(&self) -> usize {
        self.ready.len() + self.worker_pool.busy() + self.unwritten
    }

    /// Returns how much room there is.
    pub(super) fn room(&self) -> Room {
        Room {
            loaded: self.loaded(),
            bytes: self.loaded_bytes,
            active: self.ready.len() + self.worker_pool.busy(),
            limits: self.limits,
        }
    }

    /// Puts in an event that waited on disk, or was just accepted, and is counted as waiting.
    pub(super) fn push(&mut self, job: Box<Job>) {
        self.loaded_bytes += job.size();
        self.ready.push_back(job);
    }

    /// Returns how many events wait for a worker.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Takes out the events that haven't been started: they wait on disk.
    pub(super) fn unload(&mut self) -> VecDeque<Box<Job>> {
        let ready = std::mem::take(&mut self.ready);
        self.loaded_bytes -= ready.iter().map(|job| job.size()).sum::<usize>();
        ready
    }

    fn may_start(&self) -> bool {
        !self.draining && !self.failing && self.unwritten < self.limits.unwritten
    }

    pub(super) fn reserve_slot(&mut self) -> Option<WorkerSlot> {
        if !self.may_start() {
            return None;
        }
        self.worker_pool.reserve_slot(self.ready.len())
    }

    pub(super) fn next(&mut self) -> Option<Box<Job>> {
        let job = self.may_start().then(|| self.ready.pop_front()).flatten();
        self.worker_pool.took(job.is_some());
        self.waiting -= u64::from(job.is_some());
        job
    }

    /// Counts an event that its worker handed back.
    pub(super) fn hand_back(&mut self) {
        self.worker_pool.done();
        self.unwritten += 1;
    }

    fn written(&mut self, job: &Job) {
        self.unwritten -= 1;
        self.loaded_bytes -= job.size();
    }

    /// Counts an event whose end is on disk.
    pub(super) fn ended(&mut self, job: &Job, event_outcome: EventOutcome) {
        self.written(job);
        self.stats.bytes -= job.size() as u64;
        self.stats.end(event_outcome);
    }

    /// Counts an event of which it is on disk that there is another attempt.
    pub(super) fn rescheduled(&mut self, job: &Job) {
        self.written(job);
        self.retrying += 1;
        self.stats.retried += 1;
    }

    /// Counts an event whose next attempt is due.
    pub(super) fn due(&mut self) {
        self.retrying -= 1;
        self.waiting += 1;
    }

    /// Counts an event that waits for the time of its attempt, found on disk or replayed.
    pub(super) fn not_due(&mut self) {
        self.waiting -= 1;
        self.retrying += 1;
    }

    /// Counts an event with a body of `size` bytes that is now in the store.
    pub(super) fn stored(&mut self, size: usize) {
        self.waiting += 1;
        self.stats.bytes += size as u64;
    }

    /// Counts what was found in the store at the start.
    pub(super) fn recovered(&mut self, events: u64, bytes: u64) {
        self.waiting = events;
        self.stats.recovered = events;
        self.stats.bytes = bytes;
    }

    /// Counts an event that waited and is dead without having run.
    pub(super) fn died_waiting(&mut self, size: usize) {
        self.waiting = self.waiting.saturating_sub(1);
        self.stats.bytes = self.stats.bytes.saturating_sub(size as u64);
        self.stats.end(EventOutcome::Dead);
    }

    /// Refuses new events and starts none from now on.
    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// Starts no event while ends can't be written.
    pub(super) fn set_failing(&mut self, failing: bool) {
        self.failing = failing;
    }

    fn at_rest(&self) -> bool {
        self.worker_pool.busy() == 0 && self.unwritten == 0
    }

    /// Returns what is received once nothing runs, or `None` if nothing does.
    pub(super) fn rest(&mut self) -> Option<oneshot::Receiver<()>> {
        (!self.at_rest()).then(|| self.rest.wait())
    }

    /// Returns what is received once nothing is in flight, or `None` if nothing is.
    pub(super) fn idle(&mut self) -> Option<oneshot::Receiver<()>> {
        (self.in_flight() > 0).then(|| self.idle.wait())
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.stats().in_flight()
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            waiting: self.waiting,
            running: (self.worker_pool.busy() + self.unwritten) as u64,
            retrying: self.retrying,
            ..self.stats
        }
    }
}
