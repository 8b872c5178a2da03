use std::time::Duration;

use futures_channel::oneshot;

use super::dead_letter_queue::DeadLetterQueue;
use crate::delivery::{
    DeadLetter, EventOutcome, Fingerprint, Job, KeyedQueue, OrderKey, Progress, SeenIds, Stats,
    WorkerPool, WorkerSlot,
};
use crate::inbox::{AcceptError, AcceptErrorKind};
use crate::telemetry::ParentSpan;
use crate::waiters::Waiters;

/// How much an inbox holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// What was accepted and hasn't ended, and the counts of it all.
pub(super) struct Queue {
    limits: QueueLimits,
    keyed_queue: KeyedQueue,
    pub(super) worker_pool: WorkerPool,
    /// Jobs between two attempts.
    retrying: usize,
    /// Bytes of the bodies of all jobs, wherever they are.
    bytes: usize,
    draining: bool,
    /// The ids of all jobs, and of those that have ended, as far as their bounds allow: under one
    /// lock with the jobs, so that no id is here without its event.
    ids: SeenIds,
    /// The ids of jobs that may yet be withdrawn, because their worker isn't spawned.
    unconfirmed: Vec<Fingerprint>,
    /// Whether ids are forgotten before their window is over, because there are so many.
    forgetful: bool,
    /// The count of all jobs so far, which numbers them.
    admitted: u64,
    pub(super) dead: DeadLetterQueue,
    /// All but the counts above.
    stats: Stats,
    /// Who waits until nothing is in flight.
    idle: Waiters,
    /// The jobs between two attempts, to be told that the queue is drained.
    hurry: Waiters,
}

/// What becomes of an event that isn't refused.
pub(super) enum Admission {
    /// It is new. `forgot` says that for the first time an id was forgotten before its window was
    /// over.
    New { number: u64, forgot: bool },
    /// It is a copy of one that was taken.
    Copy,
}

impl Queue {
    pub(super) fn new(
        limits: QueueLimits,
        worker_pool: WorkerPool,
        ids: SeenIds,
        dead: DeadLetterQueue,
    ) -> Self {
        Self {
            limits,
            keyed_queue: KeyedQueue::default(),
            worker_pool,
            retrying: 0,
            bytes: 0,
            draining: false,
            ids,
            unconfirmed: Vec::new(),
            forgetful: false,
            admitted: 0,
            dead,
            stats: Stats::default(),
            idle: Waiters::default(),
            hurry: Waiters::default(),
        }
    }

    /// Decides about an event with a body of `size` bytes, and counts it. What is admitted is
    /// pushed under the same lock.
    pub(super) fn admit(
        &mut self,
        size: usize,
        id: Fingerprint,
        now: u64,
    ) -> Result<Admission, AcceptError> {
        // Before the bounds: a copy takes no room, and its sender may forget it also while this is
        // full or drained.
        if self.ids.contains(id, now) {
            if self.unconfirmed.contains(&id) {
                // Whoever sent the first copy may yet be refused: nobody is told that it is taken.
                self.stats.refused += 1;
                return Err(AcceptError::unavailable().retry_after(Duration::from_secs(1)));
            }
            self.stats.duplicates += 1;
            return Ok(Admission::Copy);
        }
        if let Err(refused) = self.room(size) {
            self.stats.refused += 1;
            return Err(refused);
        }
        self.admitted += 1;
        let number = self.admitted;
        let forgot =
            !self.ids.insert(id, number, now) && !std::mem::replace(&mut self.forgetful, true);
        self.stats.accepted += 1;
        self.bytes += size;
        Ok(Admission::New { number, forgot })
    }

    /// Returns why one more event of `size` bytes has no room, if it hasn't.
    fn room(&self, size: usize) -> Result<(), AcceptError> {
        let count = self.in_flight();
        if self.draining {
            return Err(AcceptError::draining());
        }
        // One event is always taken: to refuse an event for ever would get the endpoint disabled.
        if count > 0 && (count >= self.limits.events || self.bytes + size > self.limits.bytes) {
            return Err(AcceptError::full());
        }
        Ok(())
    }

    /// Puts an admitted event in keyed_queue. Returns the worker that is to be spawned for it and then
    /// confirmed, if it needs one.
    pub(super) fn push(&mut self, job: Box<Job>, id: Fingerprint) -> Option<WorkerSlot> {
        self.keyed_queue.push(job);
        let reserve_slot = self.reserve_slot()?;
        self.unconfirmed.push(id);
        Some(reserve_slot)
    }

    /// Ends the time in which a job can be withdrawn, and does so unless its worker was spawned or
    /// another one has it.
    pub(super) fn confirm(
        &mut self,
        id: Fingerprint,
        number: u64,
        reserve_slot: WorkerSlot,
        spawned: bool,
    ) -> Option<Box<Job>> {
        self.unconfirmed.retain(|unconfirmed| *unconfirmed != id);
        if spawned && !self.worker_pool.was_dropped(reserve_slot) {
            return None;
        }
        let job = self.keyed_queue.remove(number)?;
        self.ids.remove(id);
        self.bytes -= job.size();
        self.stats.accepted -= 1;
        self.stats.refused += 1;
        Some(job)
    }

    /// Returns a worker that is to be spawned, if one more is needed, and counts it.
    pub(super) fn reserve_slot(&mut self) -> Option<WorkerSlot> {
        self.worker_pool.reserve_slot(self.keyed_queue.ready())
    }

    /// Gives a worker its next job. If there is none, its place is free.
    pub(super) fn next(&mut self) -> Option<Box<Job>> {
        let job = self.keyed_queue.pop();
        self.worker_pool.took(job.is_some());
        job
    }

    /// See [`WorkerPool::batch_len`].
    pub(super) fn batch_len(&self) -> usize {
        self.worker_pool.batch_len(self.keyed_queue.ready())
    }

    /// Counts the end of a job in delivery.
    pub(super) fn end(&mut self, job: &Job, event_outcome: EventOutcome) {
        self.worker_pool.done();
        self.leave(job, event_outcome);
    }

    /// Counts the end of a job between two attempts.
    pub(super) fn fail(&mut self, job: &Job) {
        self.retrying -= 1;
        self.leave(job, EventOutcome::Dead);
    }

    fn leave(&mut self, job: &Job, event_outcome: EventOutcome) {
        self.bytes -= job.size();
        self.stats.end(event_outcome);
        // Else the key is its letter's.
        if event_outcome != EventOutcome::Dead || !self.dead.holds() {
            self.keyed_queue.release(job.key.as_ref());
        }
    }

    /// Keeps the letter of a job that is given up and not counted yet, and lets pass what those held
    /// back that have to go for it.
    pub(super) fn push_dead_letter(&mut self, letter: DeadLetter, key: Option<OrderKey>) {
        let passing = self.dead.push(letter, key);
        passing
            .iter()
            .for_each(|key| self.keyed_queue.release(Some(key)));
    }

    /// Counts a job from its worker to the wait for its next attempt. Returns what is received when
    /// the wait is to be cut short, or `None` if there is to be none.
    pub(super) fn retry(&mut self) -> Option<oneshot::Receiver<()>> {
        self.worker_pool.done();
        self.retrying += 1;
        self.stats.retried += 1;
        if self.draining {
            return None;
        }
        Some(self.hurry.wait())
    }

    /// Puts a job in line for its next attempt.
    pub(super) fn requeue(&mut self, job: Box<Job>) {
        self.retrying -= 1;
        self.keyed_queue.push_first(job);
    }

    /// Puts a dead letter in keyed_queue; false if there is none of this id.
    pub(super) fn replay(&mut self, id: u64) -> Result<bool, AcceptError> {
        let Some(letter) = self.dead.get(id) else {
            return Ok(false);
        };
        let (size, event) = (letter.body().len(), letter.event().cloned());
        let Ok(event) = event else { return Ok(false) };
        let progress = Progress::replayed(letter.routes());
        if let Err(refused) = self.room(size) {
            // The room may be taken by those that it holds back: nothing else would ever make any.
            let full = refused.kind() == AcceptErrorKind::Full;
            if !full || !self.dead.is_holding(id) {
                return Err(refused);
            }
        }
        self.bytes += size;
        self.stats.replayed += 1;
        let (key, held) = self.dead.take(id);
        let job = Box::new(Job {
            number: id,
            event,
            parent_span: ParentSpan::none(),
            progress,
            key,
        });
        if held {
            // Its key is its own, and those behind it still are.
            self.keyed_queue.push_first(job);
        } else {
            self.keyed_queue.push(job);
        }
        Ok(true)
    }

    /// Deletes a dead letter; false if there is none of this id.
    pub(super) fn delete(&mut self, id: u64) -> bool {
        if self.dead.get(id).is_none() {
            return false;
        }
        if let (Some(key), true) = self.dead.take(id) {
            self.keyed_queue.release(Some(&key));
        }
        true
    }

    /// Refuses new events from now on, and returns which jobs' waits are to be cut short.
    pub(super) fn drain(&mut self) -> Waiters {
        self.draining = true;
        self.hurry.take()
    }

    /// Returns what is received once nothing is in flight, or `None` if nothing is.
    pub(super) fn idle(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.in_flight() == 0 {
            return None;
        }
        Some(self.idle.wait())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.keyed_queue.waiting() + self.worker_pool.busy() + self.retrying
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            waiting: self.keyed_queue.waiting() as u64,
            running: self.worker_pool.busy() as u64,
            retrying: self.retrying as u64,
            bytes: self.bytes as u64,
            dead_letters: self.dead.len() as u64,
            dead_letters_dropped: self.dead.dropped(),
            ..self.stats
        }
    }

    /// Returns who is to be told that nothing is in flight, if nothing is.
    pub(super) fn take_idle_waiters(&mut self) -> Option<Waiters> {
        (self.in_flight() == 0).then(|| self.idle.take())
    }
}
