use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::delivery::{Duplicates, Fingerprint, Progress, Stats, Verdict};
use crate::event::Event;
use crate::inbox::Refused;
use crate::telemetry::Origin;
use crate::waiters::Waiters;

/// How much an inbox holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) running: usize,
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// What was accepted and hasn't ended, and the counts of it all.
pub(super) struct Queue {
    limits: Limits,
    waiting: VecDeque<Job>,
    /// Workers that were spawned and haven't ended; one of them may be about to take its first
    /// job.
    workers: usize,
    /// Workers so far that were dropped before they began: their runtime had shut down.
    dropped: u64,
    /// Workers that have a job.
    running: usize,
    /// Jobs between two attempts.
    retrying: usize,
    /// Bytes of the bodies of all jobs, wherever they are.
    bytes: usize,
    draining: bool,
    /// The ids of all jobs, and of those that have ended, as far as their bounds allow: under one
    /// lock with the jobs, so that no id is here without its event.
    ids: Duplicates,
    /// The ids of jobs that may yet be withdrawn, because their worker isn't spawned.
    tentative: Vec<Fingerprint>,
    /// Whether ids are forgotten before their window is over, because there are so many.
    forgetful: bool,
    /// The count of all jobs so far, which numbers them.
    admitted: u64,
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

/// A worker that is to be spawned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hire {
    /// How many had been dropped before.
    dropped: u64,
}

/// An accepted event.
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) id: Fingerprint,
    pub(super) event: Event,
    pub(super) origin: Origin,
    pub(super) progress: Progress,
}

impl Queue {
    pub(super) fn new(limits: Limits, ids: Duplicates) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            workers: 0,
            dropped: 0,
            running: 0,
            retrying: 0,
            bytes: 0,
            draining: false,
            ids,
            tentative: Vec::new(),
            forgetful: false,
            admitted: 0,
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
        now: Instant,
    ) -> Result<Admission, Refused> {
        // Before the bounds: a copy takes no room, and its sender may forget it also while this is
        // full or drained.
        if self.ids.contains(id, now) {
            if self.tentative.contains(&id) {
                // Whoever sent the first copy may yet be refused: nobody is told that it is taken.
                self.stats.refused += 1;
                return Err(Refused::unavailable().retry_after(Duration::from_secs(1)));
            }
            self.stats.duplicates += 1;
            return Ok(Admission::Copy);
        }
        let count = self.in_flight();
        // One event is always taken: to refuse an event for ever would get the endpoint disabled.
        let full =
            count > 0 && (count >= self.limits.events || self.bytes + size > self.limits.bytes);
        if self.draining || full {
            self.stats.refused += 1;
            return Err(if self.draining {
                Refused::draining()
            } else {
                Refused::full()
            });
        }
        let forgot = !self.ids.insert(id, now) && !std::mem::replace(&mut self.forgetful, true);
        self.admitted += 1;
        self.stats.accepted += 1;
        self.bytes += size;
        Ok(Admission::New {
            number: self.admitted,
            forgot,
        })
    }

    /// Puts an admitted event in line. Returns the worker that is to be spawned for it and then
    /// confirmed, if it needs one.
    pub(super) fn push(&mut self, job: Job) -> Option<Hire> {
        let id = job.id;
        self.waiting.push_back(job);
        let hire = self.hire()?;
        self.tentative.push(id);
        Some(hire)
    }

    /// Ends the time in which a job can be withdrawn, and does so unless its worker was spawned or
    /// another one has it.
    pub(super) fn confirm(
        &mut self,
        id: Fingerprint,
        number: u64,
        hire: Hire,
        spawned: bool,
    ) -> Option<Job> {
        self.tentative.retain(|tentative| *tentative != id);
        if spawned && !self.was_dropped(hire) {
            return None;
        }
        let place = self.waiting.iter().position(|job| job.number == number)?;
        let job = self.waiting.remove(place)?;
        self.ids.remove(job.id);
        self.bytes -= job.event.body().len();
        self.stats.accepted -= 1;
        self.stats.refused += 1;
        Some(job)
    }

    /// Returns a worker that is to be spawned, if one more is needed, and counts it.
    pub(super) fn hire(&mut self) -> Option<Hire> {
        let about_to_take = self.workers.saturating_sub(self.running);
        if self.workers >= self.limits.running || self.waiting.len() <= about_to_take {
            return None;
        }
        self.workers += 1;
        Some(Hire {
            dropped: self.dropped,
        })
    }

    /// Returns whether the runtime has dropped a worker since this one was hired.
    pub(super) fn was_dropped(&self, hire: Hire) -> bool {
        self.dropped > hire.dropped
    }

    /// Gives a worker its next job. If there is none, its place is free.
    pub(super) fn next(&mut self) -> Option<Job> {
        let job = self.waiting.pop_front();
        match job {
            Some(_) => self.running += 1,
            None => self.workers -= 1,
        }
        job
    }

    /// Counts the end of a job.
    pub(super) fn end(&mut self, size: usize, verdict: Verdict) {
        self.running -= 1;
        self.bytes -= size;
        self.stats.end(verdict);
    }

    /// Counts a job from its worker to the wait for its next attempt. Returns what is received when
    /// the wait is to be cut short, or `None` if there is to be none.
    pub(super) fn retry(&mut self) -> Option<oneshot::Receiver<()>> {
        self.running -= 1;
        self.retrying += 1;
        self.stats.retried += 1;
        if self.draining {
            return None;
        }
        Some(self.hurry.wait())
    }

    /// Puts a job in line for its next attempt.
    pub(super) fn requeue(&mut self, job: Job) {
        self.retrying -= 1;
        self.waiting.push_back(job);
    }

    /// Counts the end of a job between two attempts.
    pub(super) fn give_up(&mut self, size: usize, verdict: Verdict) {
        self.retrying -= 1;
        self.running += 1;
        self.end(size, verdict);
    }

    /// Counts the end of a worker that was dropped, before it had begun or after.
    pub(super) fn retire(&mut self, begun: bool) {
        self.workers -= 1;
        self.dropped += u64::from(!begun);
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
        self.waiting.len() + self.running + self.retrying
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            waiting: self.waiting.len() as u64,
            running: self.running as u64,
            retrying: self.retrying as u64,
            bytes: self.bytes as u64,
            ..self.stats
        }
    }

    /// Returns who is to be told that nothing is in flight, if nothing is.
    pub(super) fn settle(&mut self) -> Option<Waiters> {
        (self.in_flight() == 0).then(|| self.idle.take())
    }
}
