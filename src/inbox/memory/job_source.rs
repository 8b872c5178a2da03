use std::sync::Arc;

use super::inner::MemoryInner;
use crate::delivery::{DeadLetter, EventOutcome, Job, JobExecutor, JobSource, Next, WorkerSlot};
use crate::outcome::AttemptState;

impl JobSource for MemoryInner {
    fn executor(&self) -> &JobExecutor {
        &self.executor
    }

    fn reserve_slot(&self) -> Option<WorkerSlot> {
        self.queue().reserve_slot()
    }

    fn was_dropped(&self, slot: WorkerSlot) -> bool {
        self.queue().worker_pool.was_dropped(slot)
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
            Next::End(outcome) => self.finish(&job, outcome),
            Next::Retry(delay) => self.retry(job, delay),
        }
    }

    fn dropped(self: Arc<Self>, mut job: Box<Job>, attempt_state: &Arc<AttemptState>) {
        let outcome = self.executor.fail(&mut job, attempt_state);
        self.finish(&job, outcome);
    }
}

impl MemoryInner {
    /// Ends an event after its attempt. The worker continues with the next event of the key.
    fn finish(self: &Arc<Self>, job: &Job, outcome: EventOutcome) {
        if outcome == EventOutcome::Dead {
            self.push_dead_letter(job);
        }
        self.change(|queue| queue.finish(job, outcome));
    }

    /// Stores the dead letter of an event and calls the hooks. The caller counts the event as dead afterwards.
    pub(super) fn push_dead_letter(self: &Arc<Self>, job: &Job) {
        let (event, dead_lettered_at) = (job.event.clone(), self.executor.time_of_day());
        let letter = DeadLetter::new(job.number, event, &job.progress, dead_lettered_at);
        let (copy, key, since) = (letter.clone(), job.key.clone(), self.clock.now());
        self.change_and_spawn(|queue| queue.push_dead_letter(copy, key, since));
        self.executor.dead_lettered(&letter);
    }
}
