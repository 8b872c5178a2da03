use std::collections::VecDeque;

use futures_channel::oneshot;

use crate::delivery::{Stats, Verdict};
use crate::event::Event;
use crate::inbox::Refused;
use crate::telemetry::Origin;

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
    stillborn: u64,
    /// Workers that have a job.
    running: usize,
    /// Bytes of the bodies of all jobs, waiting and running.
    bytes: usize,
    draining: bool,
    /// The count of all jobs so far, which numbers them.
    admitted: u64,
    /// All but the three counts above.
    stats: Stats,
    /// Who waits until nothing is in flight.
    idle: Vec<oneshot::Sender<()>>,
}

/// An accepted event.
pub(super) struct Job {
    number: u64,
    pub(super) event: Event,
    pub(super) origin: Origin,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            workers: 0,
            stillborn: 0,
            running: 0,
            bytes: 0,
            draining: false,
            admitted: 0,
            stats: Stats::default(),
            idle: Vec::new(),
        }
    }

    /// Takes an event, and returns the job's number.
    pub(super) fn admit(&mut self, event: Event, origin: Origin) -> Result<u64, Refused> {
        let size = event.body().len();
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
        self.admitted += 1;
        self.stats.accepted += 1;
        self.bytes += size;
        self.waiting.push_back(Job {
            number: self.admitted,
            event,
            origin,
        });
        Ok(self.admitted)
    }

    /// Takes a job back, if no worker has taken it.
    pub(super) fn withdraw(&mut self, number: u64) -> bool {
        let Some(place) = self.waiting.iter().position(|job| job.number == number) else {
            return false;
        };
        if let Some(job) = self.waiting.remove(place) {
            self.bytes -= job.event.body().len();
            self.stats.accepted -= 1;
            self.stats.refused += 1;
            self.tell_idle();
        }
        true
    }

    /// Returns whether one more worker is to be spawned, and counts it.
    pub(super) fn hire(&mut self) -> bool {
        let about_to_take = self.workers - self.running;
        let needed = self.workers < self.limits.running && self.waiting.len() > about_to_take;
        self.workers += usize::from(needed);
        needed
    }

    /// Gives a worker its next job.
    pub(super) fn next(&mut self) -> Option<Job> {
        let job = self.waiting.pop_front()?;
        self.running += 1;
        Some(job)
    }

    /// Counts the end of a job.
    pub(super) fn end(&mut self, size: usize, verdict: Verdict) {
        self.running -= 1;
        self.bytes -= size;
        self.stats.end(verdict);
        self.tell_idle();
    }

    /// Counts the end of a worker.
    pub(super) fn retire(&mut self, begun: bool) {
        self.workers -= 1;
        self.stillborn += u64::from(!begun);
    }

    pub(super) fn stillborn(&self) -> u64 {
        self.stillborn
    }

    pub(super) fn drain(&mut self) {
        self.draining = true;
    }

    /// Returns what is received once nothing is in flight, or `None` if nothing is.
    pub(super) fn idle(&mut self) -> Option<oneshot::Receiver<()>> {
        if self.in_flight() == 0 {
            return None;
        }
        self.idle.retain(|waiting| !waiting.is_canceled());
        let (sender, receiver) = oneshot::channel();
        self.idle.push(sender);
        Some(receiver)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.waiting.len() + self.running
    }

    pub(super) fn stats(&self) -> Stats {
        let (waiting, running, bytes) = (
            self.waiting.len() as u64,
            self.running as u64,
            self.bytes as u64,
        );
        Stats {
            waiting,
            running,
            bytes,
            ..self.stats
        }
    }

    fn tell_idle(&mut self) {
        if self.in_flight() == 0 {
            for waiting in self.idle.drain(..) {
                // Who is gone needn't be told.
                let _ = waiting.send(());
            }
        }
    }
}
