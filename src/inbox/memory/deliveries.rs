use std::sync::Arc;

use super::desk::MemoryDesk;
use super::retrying::retry;
use crate::delivery::{Deliverer, Desk, EventService, Hire, Job, Next, Verdict};
use crate::outcome::Ledger;

impl<S: EventService> Desk for MemoryDesk<S> {
    type Service = S;

    fn deliverer(&self) -> &Deliverer<S> {
        &self.deliverer
    }

    fn hire(&self) -> Option<Hire> {
        self.queue().hire()
    }

    fn was_dropped(&self, hire: Hire) -> bool {
        self.queue().crew.was_dropped(hire)
    }

    fn retire(&self, begun: bool) {
        self.queue().crew.retire(begun);
    }

    fn next(&self) -> Option<Box<Job>> {
        self.queue().next()
    }

    fn turn(&self) -> usize {
        self.queue().turn()
    }

    fn concluded(self: Arc<Self>, job: Box<Job>, next: Next) {
        match next {
            Next::End(verdict) => self.end(&job, verdict),
            Next::Retry(delay) => retry(&self, job, delay),
        }
    }

    fn dropped(self: Arc<Self>, mut job: Box<Job>, ledger: &Arc<Ledger>) {
        if let Next::End(verdict) = self.deliverer.give_up(&mut job, ledger) {
            self.end(&job, verdict);
        }
    }
}

impl<S: EventService> MemoryDesk<S> {
    /// Counts the end of an event in delivery. The worker that brought it goes on to the next of its
    /// key.
    fn end(self: &Arc<Self>, job: &Job, verdict: Verdict) {
        if verdict == Verdict::Dead {
            self.bury(job);
        }
        self.change(|queue| queue.end(job, verdict));
    }
}
