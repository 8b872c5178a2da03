use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::inner::MemoryInner;
use crate::delivery::{
    AttemptRecord, AttemptResult, DeadLetter, EventOutcome, Job, JobExecutor, JobSource, Next,
    WorkerSlot, spawn_workers,
};
use crate::outcome::AttemptState;
use crate::telemetry::{Counted, ParentSpan};

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

    fn attempt_ended(self: Arc<Self>, job: Box<Job>, next: Next, attempt: AttemptResult) {
        match next {
            Next::End(outcome) => self.finish(job, outcome, attempt),
            Next::Retry(delay) => {
                // `Progress` has already counted the next attempt.
                let number = job.progress.attempts() - 1;
                let attempt = attempt.record(number, self.executor.time_of_day());
                self.retry(job, delay, attempt);
            }
            Next::Wait(wait) => {
                let number = job.progress.attempts() - 1;
                let record = || attempt.record(number, self.executor.time_of_day());
                let attempt = wait.has_run.then(record);
                self.park(job, wait.retry, attempt);
            }
        }
    }

    fn attempt_dropped(
        self: Arc<Self>,
        mut job: Box<Job>,
        attempt_state: &Arc<AttemptState>,
        duration: Duration,
    ) {
        let (outcome, report) = self.executor.fail(&mut job, attempt_state);
        self.finish(job, outcome, AttemptResult { report, duration });
    }
}

impl MemoryInner {
    /// Ends an event after its attempt. The worker continues with the next event of the key.
    fn finish(self: &Arc<Self>, mut job: Box<Job>, outcome: EventOutcome, attempt: AttemptResult) {
        let now = self.executor.time_of_day();
        if outcome == EventOutcome::Dead {
            let attempt = attempt.record(job.progress.attempts(), now);
            self.push_dead_letter(&job, Some(attempt), now);
            let label = self.executor.metrics.label(job.event.event_type());
            return self.change_and_count(
                |queue| queue.finish_dead(&job),
                |metrics, ()| metrics.event(label, Counted::Dead),
            );
        }
        // Closing a span runs the user's subscriber, so the span closes before the lock is taken.
        job.parent_span = ParentSpan::none();
        let label = self.executor.metrics.label(job.event.event_type());
        self.change_and_count(
            |queue| queue.finish(job, outcome, attempt, now),
            |metrics, ()| metrics.event(label, outcome.counted()),
        );
    }

    /// Stores the dead letter of an event and calls the hooks. The caller counts the event as dead afterwards.
    pub(super) fn push_dead_letter(
        self: &Arc<Self>,
        job: &Job,
        attempt: Option<AttemptRecord>,
        now: SystemTime,
    ) {
        let letter = DeadLetter::new(job.number, job.event.clone(), &job.progress, now);
        let letter = self.queue().add_history(letter, attempt);
        let (copy, key, since) = (letter.clone(), job.key.clone(), self.clock.now());
        self.change_and_count(
            |queue| queue.push_dead_letter(copy, key, since),
            |metrics, dropped| metrics.dead_letters_dropped(*dropped),
        );
        spawn_workers(self);
        self.executor.dead_lettered(&letter);
    }
}
