use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;

use super::admissions::{Admissions, Held};
use super::command::{Accept, CopyPending, Reply};
use super::schedule::Schedule;
use super::store::Totals;
use super::window::Window;
use crate::delivery::{
    Admission, EventOutcome, Fingerprint, Job, Next, Progress, Stats, WorkerSlot,
};
use crate::error::Error;
use crate::inbox::{AcceptError, Accepted};
use crate::waiters::Waiters;

/// The state that the inbox, its workers and its writer share, under one lock.
///
/// A `std` mutex, because no critical section awaits, blocks or runs the user's code.
pub(super) struct Shared {
    state: Mutex<State>,
    /// The number of attempts that ended since the lock was last taken. A worker needs no lock to count here.
    finished: AtomicUsize,
    /// The number of events that a worker runs before it yields. Updated when a worker takes an event.
    batch_len: AtomicUsize,
}

/// The counts of all events, and the events in memory.
///
/// The writer puts events in, workers take them out, and the writer counts each one out once its result is on disk.
pub(super) struct State {
    pub(super) admissions: Admissions,
    pub(super) window: Window,
    /// All counts but `running`.
    pub(super) stats: Stats,
    /// Whether the inbox refuses new events and starts no stored events.
    pub(super) draining: bool,
    /// Whether results can't be written now. If so, no event starts.
    pub(super) failing: bool,
    /// Why the inbox can't store or read events now.
    pub(super) problem: Option<Error>,
    /// Tasks that wait until no event is in flight.
    idle: Waiters,
    /// Tasks that wait until no event is running.
    at_rest: Waiters,
}

impl Shared {
    pub(super) fn new(admissions: Admissions, window: Window) -> Self {
        Self {
            state: Mutex::new(State {
                admissions,
                window,
                stats: Stats::default(),
                draining: false,
                failing: false,
                problem: None,
                idle: Waiters::default(),
                at_rest: Waiters::default(),
            }),
            finished: AtomicUsize::new(0),
            batch_len: AtomicUsize::new(1),
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
        let mut state = self.lock();
        let changed = change(&mut state);
        let idle = (state.in_flight() == 0).then(|| state.idle.take());
        let at_rest = (state.window.running() == 0).then(|| state.at_rest.take());
        drop(state);
        idle.into_iter().chain(at_rest).for_each(Waiters::wake);
        changed
    }

    /// Gives a worker its next event. If there is no event, the worker leaves the pool.
    pub(super) fn next(&self) -> Option<Box<Job>> {
        let mut state = self.lock();
        let job = state.may_start().then(|| state.window.pop()).flatten();
        state.window.worker_pool.took(job.is_some());
        if job.is_some() {
            state.stats.waiting -= 1;
            let ready = state.window.ready();
            let batch_len = state.window.worker_pool.batch_len(ready);
            self.batch_len.store(batch_len, Ordering::Relaxed);
        }
        job
    }

    pub(super) fn batch_len(&self) -> usize {
        self.batch_len.load(Ordering::Relaxed)
    }

    /// Counts an attempt that has ended, before its result is sent to the writer.
    pub(super) fn finish(&self) {
        self.finished.fetch_add(1, Ordering::Release);
    }
}

impl State {
    /// Decides whether the inbox accepts an event with a body of `size` bytes, and counts a refusal.
    pub(super) fn admit(
        &mut self,
        id: Fingerprint,
        size: usize,
        now: u64,
    ) -> Result<Admission, AcceptError> {
        let stored = self.stored_events();
        let admitted = self
            .admissions
            .admit(id, size as u64, stored, self.draining, now);
        self.stats.refused += u64::from(admitted.is_err());
        admitted
    }

    fn stored_events(&self) -> Held {
        Held {
            events: self.in_flight(),
            bytes: self.stats.bytes,
        }
    }

    /// Returns how many events the inbox holds.
    pub(super) fn held(&self) -> Held {
        self.admissions.held(self.stored_events())
    }

    /// Counts an event that was just stored.
    pub(super) fn stored(&mut self, size: u64) {
        self.stats.waiting += 1;
        self.stats.bytes += size;
    }

    /// Ends the commit of an event, and puts it into the window if it may run.
    pub(super) fn end_accept(
        &mut self,
        accept: Accept,
        committed: bool,
        schedule: &mut Schedule,
    ) -> Reply {
        let size = accept.event.body().len() as u64;
        let (number, answer) = (accept.number, accept.answer);
        self.admissions.end(number, accept.id, size, committed);
        let mut reply = Reply {
            answer,
            result: Ok(Accepted::New),
            runs: false,
            parent_span: None,
        };
        if !committed {
            self.stats.refused += 1;
            reply.result = Err(AcceptError::unavailable());
            reply.parent_span = Some(accept.parent_span);
            return reply;
        }
        self.stats.accepted += 1;
        self.stored(size);
        let room = self.window.capacity().has_room() && !self.draining;
        reply.runs = schedule.stored(number, accept.key.clone(), room);
        if reply.runs {
            self.window.push(Box::new(Job {
                number,
                event: accept.event,
                parent_span: accept.parent_span,
                progress: Progress::new(),
                key: accept.key,
            }));
        } else {
            reply.parent_span = Some(accept.parent_span);
        }
        reply
    }

    /// Answers a copy of an event whose commit has ended.
    pub(super) fn end_copy(&mut self, copy: CopyPending, now: u64) -> Reply {
        let result = if self.admissions.has_stored(copy.id, now) {
            self.stats.duplicates += 1;
            Ok(Accepted::Duplicate)
        } else {
            self.stats.refused += 1;
            Err(AcceptError::unavailable().retry_after(Duration::from_secs(1)))
        };
        Reply {
            answer: copy.answer,
            result,
            runs: false,
            parent_span: None,
        }
    }

    /// Counts an event whose result is on disk.
    pub(super) fn written(&mut self, job: &Job, next: Next) {
        self.window.remove(job.size());
        match next {
            Next::Retry(_) => {
                self.stats.retrying += 1;
                self.stats.retried += 1;
            }
            Next::End(outcome) => {
                self.stats.bytes = self.stats.bytes.saturating_sub(job.size() as u64);
                self.stats.end(outcome);
            }
        }
    }

    /// Moves events whose attempt isn't due from `waiting` to `retrying`.
    pub(super) fn delay(&mut self, events: u64) {
        self.stats.waiting = self.stats.waiting.saturating_sub(events);
        self.stats.retrying += events;
    }

    /// Moves events whose attempt is due from `retrying` to `waiting`.
    pub(super) fn due(&mut self, events: u64) {
        self.stats.retrying = self.stats.retrying.saturating_sub(events);
        self.stats.waiting += events;
    }

    /// Counts an event that became a dead letter without running. The event's stored body had `size` bytes.
    pub(super) fn died_waiting(&mut self, size: usize) {
        self.stats.waiting = self.stats.waiting.saturating_sub(1);
        self.stats.bytes = self.stats.bytes.saturating_sub(size as u64);
        self.stats.end(EventOutcome::Dead);
    }

    /// Counts events that another process added to the store or deleted from it.
    pub(super) fn recount(&mut self, before: Totals, now: Totals) {
        let added = now.events.saturating_sub(before.events);
        self.stats.recovered += added;
        self.stats.waiting += added;
        let deleted = before.events.saturating_sub(now.events);
        let waited = deleted.min(self.stats.waiting);
        let retried = (deleted - waited).min(self.stats.retrying);
        self.stats.waiting -= waited;
        self.stats.retrying -= retried;
        self.stats.dead += waited + retried;
        let bytes = self.stats.bytes.saturating_add(now.event_bytes);
        self.stats.bytes = bytes.saturating_sub(before.event_bytes);
        self.stats.dead_letters = now.dead_letters;
        self.admissions.skip_to(now.next_id);
    }

    fn may_start(&self) -> bool {
        !self.draining && !self.failing && self.window.may_start()
    }

    pub(super) fn reserve_slot(&mut self) -> Option<WorkerSlot> {
        self.may_start().then(|| self.window.reserve_slot())?
    }

    /// Returns a receiver that is ready once no event is running, or `None` if none is running now.
    pub(super) fn at_rest(&mut self) -> Option<oneshot::Receiver<()>> {
        (self.window.running() > 0).then(|| self.at_rest.wait())
    }

    /// Returns a receiver that is ready once no event is in flight, or `None` if none is in flight now.
    pub(super) fn idle(&mut self) -> Option<oneshot::Receiver<()>> {
        (self.in_flight() > 0).then(|| self.idle.wait())
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.stats().in_flight()
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            running: self.window.running() as u64,
            ..self.stats
        }
    }
}
