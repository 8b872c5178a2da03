use std::time::Duration;

use futures_channel::oneshot;

use super::graveyard::Graveyard;
use crate::delivery::{
    Crew, DeadLetter, Duplicates, Fingerprint, Hire, Job, Line, OrderKey, Progress, Stats, Verdict,
};
use crate::inbox::{Refused, RefusedKind};
use crate::telemetry::Origin;
use crate::waiters::Waiters;

/// How much an inbox holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// What was accepted and hasn't ended, and the counts of it all.
pub(super) struct Queue {
    limits: Limits,
    line: Line,
    pub(super) crew: Crew,
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
    pub(super) dead: Graveyard,
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
    pub(super) fn new(limits: Limits, crew: Crew, ids: Duplicates, dead: Graveyard) -> Self {
        Self {
            limits,
            line: Line::default(),
            crew,
            retrying: 0,
            bytes: 0,
            draining: false,
            ids,
            tentative: Vec::new(),
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
    fn room(&self, size: usize) -> Result<(), Refused> {
        let count = self.in_flight();
        if self.draining {
            return Err(Refused::draining());
        }
        // One event is always taken: to refuse an event for ever would get the endpoint disabled.
        if count > 0 && (count >= self.limits.events || self.bytes + size > self.limits.bytes) {
            return Err(Refused::full());
        }
        Ok(())
    }

    /// Puts an admitted event in line. Returns the worker that is to be spawned for it and then
    /// confirmed, if it needs one.
    pub(super) fn push(&mut self, job: Box<Job>, id: Fingerprint) -> Option<Hire> {
        self.line.push(job);
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
    ) -> Option<Box<Job>> {
        self.tentative.retain(|tentative| *tentative != id);
        if spawned && !self.crew.was_dropped(hire) {
            return None;
        }
        let job = self.line.remove(number)?;
        self.ids.remove(id);
        self.bytes -= job.size();
        self.stats.accepted -= 1;
        self.stats.refused += 1;
        Some(job)
    }

    /// Returns a worker that is to be spawned, if one more is needed, and counts it.
    pub(super) fn hire(&mut self) -> Option<Hire> {
        self.crew.hire(self.line.ready())
    }

    /// Gives a worker its next job. If there is none, its place is free.
    pub(super) fn next(&mut self) -> Option<Box<Job>> {
        let job = self.line.pop();
        self.crew.took(job.is_some());
        job
    }

    /// See [`Crew::turn`].
    pub(super) fn turn(&self) -> usize {
        self.crew.turn(self.line.ready())
    }

    /// Counts the end of a job in delivery.
    pub(super) fn end(&mut self, job: &Job, verdict: Verdict) {
        self.crew.done();
        self.leave(job, verdict);
    }

    /// Counts the end of a job between two attempts.
    pub(super) fn give_up(&mut self, job: &Job) {
        self.retrying -= 1;
        self.leave(job, Verdict::Dead);
    }

    fn leave(&mut self, job: &Job, verdict: Verdict) {
        self.bytes -= job.size();
        self.stats.end(verdict);
        // Else the key is its letter's.
        if verdict != Verdict::Dead || !self.dead.holds() {
            self.line.release(job.key.as_ref());
        }
    }

    /// Keeps the letter of a job that is given up and not counted yet, and lets pass what those held
    /// back that have to go for it.
    pub(super) fn bury(&mut self, letter: DeadLetter, key: Option<OrderKey>) {
        let passing = self.dead.bury(letter, key);
        passing.iter().for_each(|key| self.line.release(Some(key)));
    }

    /// Counts a job from its worker to the wait for its next attempt. Returns what is received when
    /// the wait is to be cut short, or `None` if there is to be none.
    pub(super) fn retry(&mut self) -> Option<oneshot::Receiver<()>> {
        self.crew.done();
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
        self.line.push_first(job);
    }

    /// Puts a dead letter in line; false if there is none of this id.
    pub(super) fn replay(&mut self, id: u64) -> Result<bool, Refused> {
        let Some(letter) = self.dead.get(id) else {
            return Ok(false);
        };
        let (size, event) = (letter.body().len(), letter.event().cloned());
        let Ok(event) = event else { return Ok(false) };
        let progress = Progress::replayed(letter.routes());
        if let Err(refused) = self.room(size) {
            // The room may be taken by those that it holds back: nothing else would ever make any.
            let full = refused.kind() == RefusedKind::Full;
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
            origin: Origin::none(),
            progress,
            key,
        });
        if held {
            // Its key is its own, and those behind it still are.
            self.line.push_first(job);
        } else {
            self.line.push(job);
        }
        Ok(true)
    }

    /// Deletes a dead letter; false if there is none of this id.
    pub(super) fn delete(&mut self, id: u64) -> bool {
        if self.dead.get(id).is_none() {
            return false;
        }
        if let (Some(key), true) = self.dead.take(id) {
            self.line.release(Some(&key));
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
        self.line.waiting() + self.crew.busy() + self.retrying
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            waiting: self.line.waiting() as u64,
            running: self.crew.busy() as u64,
            retrying: self.retrying as u64,
            bytes: self.bytes as u64,
            dead_letters: self.dead.len() as u64,
            dead_letters_dropped: self.dead.dropped(),
            ..self.stats
        }
    }

    /// Returns who is to be told that nothing is in flight, if nothing is.
    pub(super) fn settle(&mut self) -> Option<Waiters> {
        (self.in_flight() == 0).then(|| self.idle.take())
    }
}
