use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use futures_channel::oneshot;

use super::command::Park;
use super::health::Health;
use super::settings::Settings;
use super::store::Measured;
use super::volume::Volume;
use crate::delivery::{EventOutcome, Job, JobExecutor, Stats, WorkerPool, WorkerSlot};
use crate::inbox::Fullness;
use crate::outcome::Lease;
use crate::runtime::Clock;
use crate::telemetry::{Counted, CountedType, Metrics, PendingCounts};
use crate::waiters::Waiters;

/// The limit of the events that wait for their commit: a few batches of a busy server.
const MAX_PENDING: Volume = Volume {
    events: 8192,
    bytes: 32 << 20,
};

/// The state that the inbox, its workers and its tasks share, under one lock.
///
/// A `std` mutex, because no critical section awaits, blocks or runs the user's code.
pub(super) struct SharedState {
    state: Mutex<State>,
    pub(super) clock: Clock,
    metrics: Metrics,
}

/// The counts of this process, and the events that its worker has leased.
pub(super) struct State {
    /// The worker's id in the database, or 0 if this process runs no events. A worker that has lost its events gets a new id.
    pub(super) worker: i64,
    /// When the lease ends. After that, another worker may have the events, so no event starts.
    pub(super) leased_until: Instant,
    /// The leased events that wait for a worker.
    pub(super) ready: VecDeque<Box<Job>>,
    /// The leased events whose next attempt isn't due.
    retrying: BTreeMap<(Instant, u64), Box<Job>>,
    /// The leased events that wait for the limits of a route.
    parked: HashMap<u64, (Box<Job>, Park)>,
    /// The parked events of which another route is retried.
    parked_due: BTreeSet<(Instant, u64)>,
    /// All leased events, and the events that are running although their lease is lost.
    held: HashMap<u64, Held>,
    held_bytes: u64,
    pub(super) worker_pool: WorkerPool,
    /// The number of ended attempts whose result isn't recorded.
    unwritten: usize,
    limit: Volume,
    max_in_memory: Volume,
    /// The numbers of rows at the last measurement.
    pub(super) measured: Measured,
    /// The events and bytes that this process has added since the last measurement, less the ended events.
    growth: (i64, i64),
    /// The events that wait for their commit.
    pub(super) pending: Volume,
    /// All counts except `waiting`, `running` and `retrying`.
    pub(super) stats: Stats,
    /// Whether the inbox can't store events or results now. If so, no event starts.
    pub(super) failing: bool,
    /// Whether the database may have due events without an owner.
    pub(super) may_claim: bool,
    pub(super) health: Health,
    pub(super) fullness: Fullness,
    /// When the inbox began to drain, by the inbox's clock.
    pub(super) draining_since: Option<u64>,
    /// The number of events that the drain released.
    pub(super) returned: u64,
    /// When the oldest event in the database was received.
    pub(super) oldest: Option<SystemTime>,
    /// Tasks that wait until no event is in flight here.
    idle: Waiters,
    /// Tasks that wait until no event is running.
    at_rest: Waiters,
}

/// A leased event.
struct Held {
    /// The worker that leased the event.
    worker: i64,
    size: u64,
    /// Absent if this version can't decode the event.
    counted_type: Option<CountedType>,
    is_running: bool,
    /// Whether the event may crash its process.
    is_candidate: bool,
    /// The lease of the running attempt.
    lease: Option<Lease>,
}

/// How an event leaves the events that this process has leased.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    Outcome(EventOutcome),
    /// Another worker runs the event, or will run it.
    Published,
}

impl SharedState {
    pub(super) fn new(settings: &Settings, executor: &JobExecutor, worker: i64) -> Self {
        let concurrency = executor.settings.inbox_concurrency();
        Self {
            state: Mutex::new(State {
                worker,
                leased_until: executor.runtime.now(),
                ready: VecDeque::new(),
                retrying: BTreeMap::new(),
                parked: HashMap::new(),
                parked_due: BTreeSet::new(),
                held: HashMap::new(),
                held_bytes: 0,
                worker_pool: WorkerPool::new(concurrency),
                unwritten: 0,
                limit: settings.max_events,
                max_in_memory: settings.max_in_memory,
                measured: Measured::default(),
                growth: (0, 0),
                pending: Volume::default(),
                stats: Stats::default(),
                failing: false,
                may_claim: true,
                health: Health::default(),
                fullness: Fullness::default(),
                draining_since: None,
                returned: 0,
                oldest: None,
                idle: Waiters::default(),
                at_rest: Waiters::default(),
            }),
            clock: Clock::new(Arc::clone(&executor.runtime)),
            metrics: executor.metrics.clone(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, records the counts of the change, and wakes the tasks that wait for the result.
    pub(super) fn update<'a, T>(
        &'a self,
        change: impl FnOnce(&mut State, &mut PendingCounts<'a>) -> T,
    ) -> T {
        let mut counts = PendingCounts::new(&self.metrics);
        let mut state = self.lock();
        let changed = change(&mut state, &mut counts);
        let idle = state.held.is_empty().then(|| state.idle.take());
        let at_rest = (state.running() == 0).then(|| state.at_rest.take());
        drop(state);
        // The recorder is the user's code, so it runs without the lock.
        counts.record();
        idle.into_iter().chain(at_rest).for_each(Waiters::wake);
        changed
    }
}

impl State {
    /// Returns whether an event may start.
    pub(super) fn may_start(&self, now: Instant) -> bool {
        let writes_soon = self.unwritten < (self.max_in_memory.events as usize / 2).max(1);
        self.draining_since.is_none() && !self.failing && writes_soon && now < self.leased_until
    }

    pub(super) fn reserve_slot(&mut self, now: Instant) -> Option<WorkerSlot> {
        if !self.may_start(now) {
            return None;
        }
        self.worker_pool.reserve_slot(self.ready.len())
    }

    /// Takes the next event, and records that it runs.
    pub(super) fn start(&mut self) -> Option<Box<Job>> {
        let job = self.ready.pop_front()?;
        if let Some(held) = self.held.get_mut(&job.number) {
            held.is_running = true;
        }
        Some(job)
    }

    /// Counts an event whose attempt has ended. Returns whether a handler may have called `complete`.
    pub(super) fn finish(&mut self, id: u64) -> bool {
        self.worker_pool.done();
        self.unwritten += 1;
        let lease = self.held.get_mut(&id).and_then(|held| held.lease.take());
        lease.is_some_and(|lease| lease.is_used())
    }

    /// Returns the lease of an attempt that begins.
    pub(super) fn lease(&mut self, id: u64, schema: Arc<str>) -> Lease {
        let held = self.held.get_mut(&id);
        let worker = held.as_ref().map_or(self.worker, |held| held.worker);
        let lease = Lease::new(stored(id), worker, schema);
        if let Some(held) = held {
            held.lease = Some(lease.clone());
        }
        lease
    }

    /// Returns the number of events that are running, or whose result isn't recorded.
    pub(super) fn running(&self) -> usize {
        self.worker_pool.busy() + self.unwritten
    }

    /// Counts results that are recorded, or that the writer has discarded.
    pub(super) fn written(&mut self, results: usize) {
        self.unwritten = self.unwritten.saturating_sub(results);
    }

    /// Adds a leased event.
    pub(super) fn hold(&mut self, job: &Job, is_candidate: bool) {
        let counted_type = CountedType::of(job.event.event_type());
        self.add(
            job.number,
            job.size() as u64,
            Some(counted_type),
            is_candidate,
        );
    }

    /// Adds a leased event that can't run, and whose result isn't recorded.
    pub(super) fn hold_ended(&mut self, id: u64, size: u64) {
        self.add(id, size, None, false);
        self.unwritten += 1;
    }

    fn add(&mut self, id: u64, size: u64, counted_type: Option<CountedType>, is_candidate: bool) {
        self.held_bytes += size;
        let held = Held {
            worker: self.worker,
            size,
            counted_type,
            is_running: false,
            is_candidate,
            lease: None,
        };
        self.held.insert(id, held);
    }

    /// Records that the event doesn't run: another attempt follows.
    pub(super) fn retry(&mut self, job: Box<Job>, due: Instant) {
        if let Some(held) = self.held.get_mut(&job.number) {
            held.is_running = false;
            held.is_candidate = false;
            self.retrying.insert((due, job.number), job);
        }
    }

    /// Keeps an event until the limits of a route let it run, or until another route is retried.
    pub(super) fn park(&mut self, job: Box<Job>, park: Park) {
        let Some(held) = self.held.get_mut(&job.number) else {
            return;
        };
        held.is_running = false;
        held.is_candidate = false;
        // The limits may have a permit for the event by now.
        if job.progress.park() {
            return self.resume(job, park, park.since);
        }
        self.parked_due
            .extend(park.due.map(|due| (due, job.number)));
        self.parked.insert(job.number, (job, park));
    }

    /// Lets a parked event run. Ignores an event that isn't parked.
    pub(super) fn unpark(&mut self, id: u64, now: Instant) {
        if let Some((job, park)) = self.parked.remove(&id) {
            if let Some(due) = park.due {
                self.parked_due.remove(&(due, id));
            }
            self.resume(job, park, now);
        }
    }

    fn resume(&mut self, mut job: Box<Job>, park: Park, now: Instant) {
        let waited = now.saturating_duration_since(park.since);
        job.progress.elapse(waited);
        self.ready.push_back(job);
    }

    /// Moves the due events to the events that are ready. Returns when the next event is due.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&(due, id)) = self.parked_due.first()
            && due <= now
        {
            self.parked_due.pop_first();
            self.unpark(id, now);
        }
        while let Some(first) = self.retrying.first_entry()
            && first.key().0 <= now
        {
            let job = first.remove();
            self.ready.push_back(job);
        }
        let retrying = self.retrying.first_key_value().map(|(key, _)| key.0);
        let parked = self.parked_due.first().map(|(due, _)| *due);
        retrying.into_iter().chain(parked).min()
    }

    /// Removes an event that ended, or that another worker runs.
    pub(super) fn end(&mut self, id: u64, ended: Ended, counts: &mut PendingCounts<'_>) {
        let Some(held) = self.held.remove(&id) else {
            return;
        };
        self.held_bytes -= held.size;
        let counted = match ended {
            Ended::Outcome(outcome) => {
                self.stats.end(outcome);
                self.shrink(held.size);
                outcome.counted()
            }
            Ended::Published => {
                self.stats.published += 1;
                Counted::Published
            }
        };
        let label = match &held.counted_type {
            Some(counted_type) => counts.metrics.counted_label(counted_type),
            None => Metrics::unknown(),
        };
        counts.event(label, counted);
    }

    /// Counts an event that this process has claimed.
    pub(super) fn recover(&mut self, counts: &mut PendingCounts<'_>) {
        self.stats.recovered += 1;
        counts.recovered(1);
    }

    /// Returns the ids of the leased events that aren't running.
    pub(super) fn idle_ids(&self) -> Vec<i64> {
        let parked = self.parked.values().map(|(job, _)| job);
        let jobs = self.ready.iter().chain(self.retrying.values());
        let jobs = jobs.chain(parked);
        jobs.map(|job| stored(job.number)).collect()
    }

    /// Takes the events that aren't running, because the worker has released or lost them. The caller drops them without the lock.
    #[allow(clippy::vec_box)] // the jobs are boxed already
    pub(super) fn take_idle(&mut self, counts: &mut PendingCounts<'_>) -> Vec<Box<Job>> {
        let retrying = std::mem::take(&mut self.retrying).into_values();
        let parked = std::mem::take(&mut self.parked).into_values();
        self.parked_due.clear();
        let jobs = self.ready.drain(..).chain(retrying);
        let jobs: Vec<_> = jobs.chain(parked.map(|(job, _)| job)).collect();
        for job in &jobs {
            self.end(job.number, Ended::Published, counts);
        }
        jobs
    }

    /// Continues an event that runs here although its lease was lost, because the worker has leased the event again. Returns whether
    /// the event runs here.
    pub(super) fn retake(&mut self, id: u64) -> bool {
        let worker = self.worker;
        let held = self.held.get_mut(&id);
        held.map(|held| held.worker = worker).is_some()
    }

    /// Returns whether another worker may have the event.
    pub(super) fn is_lost(&self, id: u64) -> bool {
        let held = self.held.get(&id);
        held.is_none_or(|held| held.worker != self.worker)
    }

    /// Returns whether this process has leased the event.
    pub(super) fn holds(&self, id: u64) -> bool {
        self.held.contains_key(&id)
    }

    /// Returns the ids of all events that the worker has leased.
    pub(super) fn held_ids(&self) -> Vec<i64> {
        self.held.keys().copied().map(stored).collect()
    }

    /// Returns how many more events this process may lease for its free workers.
    pub(super) fn free_workers(&self, concurrency: usize) -> usize {
        concurrency.saturating_sub(self.ready.len() + self.worker_pool.busy())
    }

    /// Returns whether an event that may crash its process is leased.
    pub(super) fn has_candidate(&self) -> bool {
        self.held.values().any(|held| held.is_candidate)
    }

    /// Returns whether this process may lease one more event, besides `more` events.
    pub(super) fn has_space_in_memory(&self, more: usize) -> bool {
        ((self.held.len() + more) as u64) < self.max_in_memory.events
            && self.held_bytes < self.max_in_memory.bytes
    }

    /// Returns whether this process may keep another event that waits for its retry.
    pub(super) fn keeps_retries(&self) -> bool {
        ((self.retrying.len() + self.parked.len()) as u64) < self.max_in_memory.events / 2
    }

    /// Returns the number of events in the database, as far as this process knows, and the events that wait for their commit.
    pub(super) fn stored_events(&self) -> Volume {
        let sum = |measured: u64, growth: i64| measured.saturating_add_signed(growth);
        Volume {
            events: sum(self.measured.events.events, self.growth.0) + self.pending.events,
            bytes: sum(self.measured.events.bytes, self.growth.1) + self.pending.bytes,
        }
    }

    /// Returns whether the inbox has space for an event of `size` bytes.
    pub(super) fn has_space(&self, size: u64) -> bool {
        self.stored_events().has_space(self.limit, size)
    }

    /// Returns whether another event may wait for its commit.
    pub(super) fn may_wait(&self, size: u64) -> bool {
        self.pending.has_space(MAX_PENDING, size)
    }

    /// Returns the growth since the last measurement.
    pub(super) fn growth(&self) -> (i64, i64) {
        self.growth
    }

    /// Replaces the measured numbers. `before` is the growth when the measurement began.
    pub(super) fn measure(&mut self, measured: Measured, before: (i64, i64)) {
        self.measured = measured;
        self.growth = (self.growth.0 - before.0, self.growth.1 - before.1);
        self.stats.dead_letters = measured.dead_letters;
    }

    /// Counts an event that this process has added.
    pub(super) fn grow(&mut self, size: u64) {
        self.growth.0 += 1;
        self.growth.1 += stored(size);
    }

    fn shrink(&mut self, size: u64) {
        self.growth.0 -= 1;
        self.growth.1 -= stored(size);
    }

    /// Returns a receiver that is ready once no event is running, or `None` if none is running now.
    pub(super) fn at_rest(&mut self) -> Option<oneshot::Receiver<()>> {
        (self.running() > 0).then(|| self.at_rest.wait())
    }

    /// Returns a receiver that is ready once no event is in flight here, or `None` if none is in flight now.
    pub(super) fn idle(&mut self) -> Option<oneshot::Receiver<()>> {
        (!self.held.is_empty()).then(|| self.idle.wait())
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.held.len() as u64
    }

    /// Returns whether the event runs here, or its attempt has ended and isn't recorded yet.
    pub(super) fn runs(&self, id: u64) -> bool {
        self.held.get(&id).is_some_and(|held| held.is_running)
    }

    pub(super) fn stats(&self) -> Stats {
        let in_flight = self.in_flight();
        let running = in_flight.min(self.running() as u64);
        let retrying = (self.retrying.len() + self.parked_due.len()) as u64;
        let retrying = retrying.min(in_flight - running);
        Stats {
            waiting: in_flight - running - retrying,
            running,
            retrying,
            bytes: self.held_bytes,
            ..self.stats
        }
    }
}

fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
