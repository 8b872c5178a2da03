use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_channel::oneshot;

use super::admissions::Admissions;
use super::command::{Accept, Complete, CopyPending, Reply, Step};
use super::health::Health;
use super::schedule::Schedule;
use super::settings::Settings;
use super::store::Totals;
use super::volume::Volume;
use super::window::Window;
use crate::delivery::{
    Admission, EventOutcome, Fingerprint, Fingerprints, JobExecutor, SeenIds, Stats, WorkerPool,
    WorkerSlot,
};
use crate::inbox::{AcceptError, AcceptErrorKind, Accepted, Fullness};
use crate::runtime::Clock;
use crate::telemetry::{Counted, Metrics, PendingCounts};
use crate::waiters::Waiters;

/// The state that the inbox, its workers and its writer share, under one lock.
///
/// A `std` mutex, because no critical section awaits, blocks or runs the user's code.
pub(super) struct SharedState {
    state: Mutex<State>,
    /// The number of attempts that ended since the lock was last taken. Workers increment this number without the lock.
    pub(super) finished: AtomicUsize,
    /// The number of events that a worker runs before it yields. Updated when a worker takes an event.
    pub(super) batch_len: AtomicUsize,
    pub(super) clock: Arc<Clock>,
    pub(super) fingerprints: Fingerprints,
    pub(super) metrics: Metrics,
}

/// The counts of all events, and the events in memory.
///
/// The writer adds events, and workers run them. Once the result of an event is on disk, the writer removes the event.
pub(super) struct State {
    pub(super) admissions: Admissions,
    pub(super) window: Window,
    /// All counts except `waiting`, `running` and `retrying`.
    pub(super) stats: Stats,
    /// The number of stored events that haven't ended.
    pub(super) in_flight: u64,
    /// The number of events whose next attempt isn't due.
    retrying: u64,
    /// Whether results can't be written now. If so, no event starts.
    pub(super) failing: bool,
    /// Why the inbox can't store or read events now.
    pub(super) health: Health,
    /// When the writer's thread ended because of a panic, by the inbox's clock.
    pub(super) writer_ended: Option<u64>,
    pub(super) fullness: Fullness,
    pub(super) probe: Probe,
    /// Tasks that wait until no event is in flight.
    idle: Waiters,
    /// Tasks that wait until no event is running.
    at_rest: Waiters,
}

/// The age of the oldest event on disk, which the monitor asks the writer for.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// When the monitor sent a question that the writer hasn't answered, by the inbox's clock and in real time.
    pub(super) sent: Option<(u64, Instant)>,
    /// Tasks that wait for the answer.
    pub(super) answered: Waiters,
    /// The id of the oldest event, and when the event was received, by the system clock.
    pub(super) oldest: Option<(u64, SystemTime)>,
    /// The highest id of a replayed event, and when an event was last replayed, by the system clock.
    pub(super) replayed: Option<(u64, SystemTime)>,
}

/// If the writer hasn't answered for this time of the inbox's clock, 30 s, the disk hangs.
const DISK_TIMEOUT: u64 = 30_000;

/// The minimum real time without an answer. A test may advance the inbox's clock by more than [`DISK_TIMEOUT`] in an instant.
const REAL_TIMEOUT: Duration = Duration::from_secs(1);

impl Probe {
    /// If the disk hangs, returns since when, by the inbox's clock.
    pub(super) fn hangs_since(&self, now: u64) -> Option<u64> {
        let (sent, real) = self.sent?;
        let hangs = now.saturating_sub(sent) >= DISK_TIMEOUT && real.elapsed() >= REAL_TIMEOUT;
        hangs.then_some(sent)
    }

    /// Records that events were replayed at `at`.
    pub(super) fn replayed(&mut self, ids: impl Iterator<Item = u64>, at: SystemTime) {
        let before = self.replayed.map(|(id, _)| id);
        if let Some(highest) = ids.chain(before).max() {
            self.replayed = Some((highest, at));
        }
    }

    /// Returns since when the oldest event has been in the inbox. A replayed event keeps its id and its time, but is new.
    pub(super) fn oldest_since(&self) -> Option<SystemTime> {
        let (id, received_at) = self.oldest?;
        let replayed = self.replayed.filter(|(replayed, _)| id <= *replayed);
        Some(replayed.map_or(received_at, |(_, at)| received_at.max(at)))
    }
}

impl SharedState {
    /// Returns the state of an inbox that isn't open yet.
    pub(super) fn new(settings: &Settings, executor: &JobExecutor) -> Self {
        let ids = SeenIds::new(0, Duration::ZERO);
        let concurrency = executor.settings.inbox_concurrency();
        Self {
            state: Mutex::new(State {
                admissions: Admissions::new(settings.max_events, ids),
                window: Window::new(settings.max_in_memory, WorkerPool::new(concurrency)),
                stats: Stats::default(),
                in_flight: 0,
                retrying: 0,
                failing: false,
                health: Health::default(),
                writer_ended: None,
                fullness: Fullness::default(),
                probe: Probe::default(),
                idle: Waiters::default(),
                at_rest: Waiters::default(),
            }),
            finished: AtomicUsize::new(0),
            batch_len: AtomicUsize::new(1),
            clock: Arc::new(Clock::new(Arc::clone(&executor.runtime))),
            fingerprints: Fingerprints::default(),
            metrics: executor.metrics.clone(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.finished.load(Ordering::Relaxed) > 0 {
            let finished = self.finished.swap(0, Ordering::AcqRel);
            state.window.finish(finished);
        }
        state
    }

    /// Changes the state, and wakes the tasks that wait for the result.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        self.update_and_count(|state, _| change(state))
    }

    /// Changes the state as [`update`](Self::update) does. Records the counts of the change before it wakes the tasks.
    pub(super) fn update_and_count<'a, T>(
        &'a self,
        change: impl FnOnce(&mut State, &mut PendingCounts<'a>) -> T,
    ) -> T {
        let mut counts = PendingCounts::new(&self.metrics);
        let mut state = self.lock();
        let changed = change(&mut state, &mut counts);
        let idle = (state.in_flight == 0).then(|| {
            state.probe.oldest = None;
            state.idle.take()
        });
        let at_rest = (state.window.running() == 0).then(|| state.at_rest.take());
        drop(state);
        // The recorder is the user's code, so it runs without the lock.
        counts.record();
        idle.into_iter().chain(at_rest).for_each(Waiters::wake);
        changed
    }
}

impl State {
    /// Counts the events that earlier processes left.
    pub(super) fn recover(&mut self, events: u64, counts: &mut PendingCounts<'_>) {
        self.stats.recovered += events;
        counts.recovered(events);
        self.in_flight += events;
    }

    /// Sets the counts that the writer knows: the store's totals, and the number of events whose attempt isn't due.
    pub(super) fn set_totals(
        &mut self,
        totals: Totals,
        retrying: u64,
        counts: &mut PendingCounts<'_>,
    ) {
        counts.dead_letters_dropped(totals.dropped - self.stats.dead_letters_dropped);
        self.retrying = retrying;
        self.stats.bytes = totals.events.bytes;
        self.stats.dead_letters = totals.dead_letters.events;
        self.stats.dead_letters_dropped = totals.dropped;
    }

    /// Decides whether the inbox accepts an event with a body of `size` bytes, and counts a refusal.
    pub(super) fn admit(
        &mut self,
        id: Fingerprint,
        size: u64,
        now: u64,
    ) -> Result<Admission, AcceptError> {
        let admitted = self.admissions.admit(id, size, self.held(), now);
        if let Err(error) = &admitted {
            self.stats.refused += 1;
            if error.kind() == AcceptErrorKind::Full {
                self.fullness.refused(now, self.stats.accepted);
            }
        }
        admitted
    }

    /// Returns whether the inbox has no space for a small event.
    pub(super) fn is_full(&self) -> bool {
        !self.admissions.has_space(1, self.held())
    }

    /// Returns the events that the inbox holds: the stored events, and the events whose commit is pending.
    pub(super) fn held(&self) -> Volume {
        let pending = self.admissions.pending;
        Volume {
            events: self.in_flight + pending.events,
            bytes: self.stats.bytes + pending.bytes,
        }
    }

    /// Ends the commit of an event, and puts it into the window if it may run.
    pub(super) fn end_accept(
        &mut self,
        accept: Accept,
        committed: bool,
        schedule: &mut Schedule,
        counts: &mut PendingCounts<'_>,
    ) -> Reply {
        let Accept { job, id, answer } = accept;
        let label = counts.metrics.label(job.event.event_type());
        let number = job.number;
        self.admissions
            .end(number, id, job.size() as u64, committed);
        if !committed {
            self.stats.refused += 1;
            counts.event(label, Counted::Refused);
            return Reply {
                answer,
                result: Err(AcceptError::new(AcceptErrorKind::Unavailable)),
                runs: false,
                unused: Some(job),
            };
        }
        self.stats.accepted += 1;
        counts.event(label, Counted::Accepted);
        self.in_flight += 1;
        let has_space = self.window.free().is_free() && self.admissions.draining_since.is_none();
        let runs = schedule.stored(number, job.key.clone(), has_space);
        let mut unused = Some(job);
        if runs && let Some(job) = unused.take() {
            self.window.push(job);
        }
        Reply {
            answer,
            result: Ok(Accepted::New),
            runs,
            unused,
        }
    }

    /// Answers a copy of an event whose commit has ended.
    pub(super) fn end_copy(
        &mut self,
        copy: CopyPending,
        now: u64,
        counts: &mut PendingCounts<'_>,
    ) -> Reply {
        let label = counts.metrics.counted_label(&copy.counted_type);
        let result = if self.admissions.has_stored(copy.id, now) {
            self.stats.duplicates += 1;
            counts.event(label, Counted::Duplicate);
            Ok(Accepted::Duplicate)
        } else {
            self.stats.refused += 1;
            counts.event(label, Counted::Refused);
            Err(AcceptError::new(AcceptErrorKind::Unavailable).retry_after(Duration::from_secs(1)))
        };
        Reply {
            answer: copy.answer,
            result,
            runs: false,
            unused: None,
        }
    }

    /// Counts an event whose result is on disk, and schedules its next attempt or the events that wait for it.
    ///
    /// `missing` is the number of ended events whose rows another process had deleted. The recount counts these events.
    pub(super) fn written(
        &mut self,
        complete: &mut Complete,
        schedule: &mut Schedule,
        dead_letters_block: bool,
        missing: &mut u64,
        counts: &mut PendingCounts<'_>,
    ) {
        self.window.remove(complete.number, complete.size);
        let (number, mut key) = (complete.number, complete.key.as_ref());
        let (outcome, label) = match &complete.step {
            Step::Retry { due_at, .. } => {
                let due_at = *due_at;
                let park = complete.park.take();
                if park.as_ref().is_none_or(|park| park.due_at.is_some()) {
                    self.stats.retried += 1;
                    counts.retried();
                }
                return match park {
                    Some(park) => schedule.park(number, park),
                    None => schedule.retry(number, due_at),
                };
            }
            Step::Wait => {
                let park = complete.park.take();
                return park
                    .into_iter()
                    .for_each(|park| schedule.park(number, park));
            }
            Step::End(outcome, counted_type, _) => {
                (*outcome, counts.metrics.counted_label(counted_type))
            }
            Step::DeadLetter(letter, _) => {
                key = key.filter(|_| !dead_letters_block);
                let label = match letter.event() {
                    Ok(event) => counts.metrics.label(event.event_type()),
                    Err(_) => Metrics::unknown(),
                };
                (EventOutcome::Dead, label)
            }
        };
        schedule.end(number, key);
        if *missing > 0 {
            *missing -= 1;
            return;
        }
        counts.event(label, outcome.counted());
        self.stats.end(outcome);
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Counts events that another process added to the store or deleted from it. A deleted event counts as dead, even if
    /// it is running.
    pub(super) fn recount(&mut self, before: Totals, now: Totals, counts: &mut PendingCounts<'_>) {
        let (before, next_id, now) = (before.events.events, now.next_id, now.events.events);
        self.recover(now.saturating_sub(before), counts);
        let deleted = before.saturating_sub(now);
        self.in_flight = self.in_flight.saturating_sub(deleted);
        self.stats.dead += deleted;
        counts.events(Metrics::unknown(), Counted::Dead, deleted);
        self.admissions.skip_to(next_id);
    }

    pub(super) fn may_start(&self) -> bool {
        self.admissions.draining_since.is_none() && !self.failing && self.window.may_start()
    }

    pub(super) fn reserve_slot(&mut self) -> Option<WorkerSlot> {
        if !self.may_start() {
            return None;
        }
        let ready = self.window.ready.len();
        self.window.worker_pool.reserve_slot(ready)
    }

    /// Returns a receiver that is ready once no event is running, or `None` if none is running now.
    pub(super) fn at_rest(&mut self) -> Option<oneshot::Receiver<()>> {
        (self.window.running() > 0).then(|| self.at_rest.wait())
    }

    /// Returns a receiver that is ready once no event is in flight, or `None` if none is in flight now.
    pub(super) fn idle(&mut self) -> Option<oneshot::Receiver<()>> {
        (self.in_flight > 0).then(|| self.idle.wait())
    }

    pub(super) fn stats(&self) -> Stats {
        // Another process may have deleted running events.
        let running = self.in_flight.min(self.window.running() as u64);
        let inactive = self.in_flight - running;
        let retrying = self.retrying.min(inactive);
        Stats {
            waiting: inactive - retrying,
            running,
            retrying,
            ..self.stats
        }
    }
}
