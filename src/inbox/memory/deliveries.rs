use std::sync::Arc;

use super::inner::Inner;
use super::retrying::retry;
use crate::delivery::{EventOutcome, Job, JobExecutor, JobSource, Next, WorkerSlot};
use crate::outcome::AttemptState;

impl JobSource for Inner {
    fn executor(&self) -> &JobExecutor {
        &self.executor
    }

    fn reserve_slot(&self) -> Option<WorkerSlot> {
        self.queue().reserve_slot()
    }

    fn was_dropped(&self, reserve_slot: WorkerSlot) -> bool {
        self.queue().worker_pool.was_dropped(reserve_slot)
    }

    fn retire(&self, begun: bool) {
        self.queue().worker_pool.retire(begun);
    }

    fn next(&self) -> Option<Box<Job>> {
        self.queue().next()
    }

    fn batch_len(&self) -> usize {
        self.queue().batch_len()
    }

    fn attempt_finished(self: Arc<Self>, job: Box<Job>, next: Next) {
        match next {
            Next::End(event_outcome) => self.end(&job, event_outcome),
            Next::Retry(delay) => retry(&self, job, delay),
        }
    }

    fn dropped(self: Arc<Self>, mut job: Box<Job>, attempt_state: &Arc<AttemptState>) {
        if let Next::End(event_outcome) = self.executor.fail(&mut job, attempt_state) {
            self.end(&job, event_outcome);
        }
    }
}

impl Inner {
    /// Counts the end of an event in delivery. The worker that brought it goes on to the next of its
    /// key.
    fn end(self: &Arc<Self>, job: &Job, event_outcome: EventOutcome) {
        if event_outcome == EventOutcome::Dead {
            self.push_dead_letter(job);
        }
        self.change(|queue| queue.end(job, event_outcome));
    }
}
