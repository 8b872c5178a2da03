use std::sync::Arc;
use std::time::SystemTime;

use super::{Attempt, ErasedService, EventOutcome, Job, Next, Settings, run_attempt};
use crate::catch_panic::catch_panic;
use crate::event::Event;
use crate::outcome::{AttemptEnd, AttemptState, Outcome, Report};
use crate::runtime::Runtime;
use crate::telemetry;

/// What it takes to deliver an event.
pub(crate) struct JobExecutor {
    service: ErasedService,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) settings: Settings,
}

impl JobExecutor {
    pub(crate) fn new(
        service: ErasedService,
        runtime: Arc<dyn Runtime>,
        settings: Settings,
    ) -> Self {
        Self {
            service,
            runtime,
            settings,
        }
    }

    /// Takes in that an attempt ended as `report` says: returns what follows, once the log and the
    /// hooks know it.
    pub(crate) fn finish_attempt(
        &self,
        job: &mut Job,
        attempt_state: &Arc<AttemptState>,
        report: Report,
    ) -> Next {
        let policy = &self.settings.retry;
        let next = job.progress.advance(&report, policy, job.event.id());
        self.notify(job, attempt_state, report, next);
        next
    }

    /// Takes in that the runtime dropped an attempt, after which there is none.
    pub(crate) fn fail(&self, job: &mut Job, attempt_state: &Arc<AttemptState>) -> Next {
        // What had finished counts; for the rest there is no later.
        let report = attempt_state.close(&AttemptEnd::Lost(Outcome::Dropped));
        let next = Next::End(job.progress.fail(&report));
        self.notify(job, attempt_state, report, next);
        next
    }

    /// Takes in that the runtime dropped the wait for the next attempt.
    pub(crate) fn abandon(&self, job: &mut Job) {
        let attempt_state = job.progress.attempt_state();
        let report = job.progress.abandon();
        self.notify(job, &attempt_state, report, Next::End(EventOutcome::Dead));
    }

    /// Returns the time of day, also where the runtime can't.
    pub(crate) fn time_of_day(&self) -> SystemTime {
        catch_panic(|| self.runtime.system_time()).unwrap_or_else(|_| SystemTime::now())
    }

    /// Tells the log and the hooks of an attempt that ended. Nothing of theirs can keep the attempt
    /// from being counted.
    fn notify(&self, job: &Job, attempt_state: &Arc<AttemptState>, report: Report, next: Next) {
        let event = job
            .event
            .clone()
            .with_attempt_state(Arc::clone(attempt_state));
        let delivery = Attempt::new(event, report, next);
        let (event, report) = (delivery.event(), delivery.report());
        telemetry::delivered(event, report, delivery.retry_in(), self.settings.log_errors);
        self.settings.on_attempt.notify(&delivery);
    }
    /// Makes one attempt.
    pub(crate) async fn attempt(&self, event: Event, attempt_state: &Arc<AttemptState>) -> Report {
        let timeout = self.settings.attempt_timeout;
        run_attempt(&self.service, event, attempt_state, &*self.runtime, timeout).await
    }
}
