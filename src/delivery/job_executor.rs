use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{
    Attempt, DeadLetter, DeliverySettings, ErasedService, EventOutcome, Job, Next, run_attempt,
};
use crate::catch_panic::catch_panic;
use crate::error::Error;
use crate::event::Event;
use crate::outcome::{AttemptEnd, AttemptState, Outcome, Report};
use crate::router::EventRouter;
use crate::runtime::Runtime;
use crate::telemetry::{self, AttemptInfo};

/// Runs attempts at jobs and decides whether a retry follows.
pub(crate) struct JobExecutor {
    service: ErasedService,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) settings: DeliverySettings,
}

impl JobExecutor {
    pub(crate) fn new(
        service: ErasedService,
        runtime: Arc<dyn Runtime>,
        settings: DeliverySettings,
    ) -> Self {
        Self {
            service,
            runtime,
            settings,
        }
    }

    /// Returns the user's router, if no layer wraps it.
    pub(crate) fn router(&self) -> Option<&EventRouter> {
        self.service.router()
    }

    /// Makes one attempt at an event.
    pub(crate) async fn attempt(&self, event: Event, attempt_state: &Arc<AttemptState>) -> Report {
        let timeout = self.settings.attempt_timeout;
        run_attempt(&self.service, event, attempt_state, &*self.runtime, timeout).await
    }

    /// Finishes an attempt and returns the next step. Updates the job's progress, and reports the attempt to the log and the
    /// hooks.
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

    /// Finishes an attempt that the runtime dropped. Finished routes keep their outcome, and the event ends.
    pub(crate) fn fail(&self, job: &mut Job, attempt_state: &Arc<AttemptState>) -> EventOutcome {
        let report = attempt_state.close(&AttemptEnd::Lost(Outcome::Dropped));
        let outcome = job.progress.fail(&report);
        self.notify(job, attempt_state, report, Next::End(outcome));
        outcome
    }

    /// Ends an event as dead because the runtime dropped the task that delayed its next attempt.
    pub(crate) fn abandon(&self, job: &mut Job) {
        let attempt_state = job.progress.attempt_state();
        let report = job.progress.abandon();
        self.notify(job, &attempt_state, report, Next::End(EventOutcome::Dead));
    }

    /// Reports a stored dead letter to the log and the hooks.
    pub(crate) fn dead_lettered(&self, letter: &DeadLetter) {
        let event = letter.event().ok();
        let event_type = event.map(|event| event.event_type().as_str());
        telemetry::event_dead_lettered(letter.message_id(), event_type, letter.attempts());
        self.settings.on_dead_letter.notify(letter);
    }

    /// Returns the runtime's system time, or the standard library's if the runtime panics.
    pub(crate) fn time_of_day(&self) -> SystemTime {
        catch_panic(|| self.runtime.system_time()).unwrap_or_else(|_| SystemTime::now())
    }

    /// Reports a finished attempt to the log and the hooks. Panics of a subscriber or a hook are caught, so the caller
    /// always counts the attempt.
    fn notify(&self, job: &Job, attempt_state: &Arc<AttemptState>, report: Report, next: Next) {
        let event = job.event.clone();
        let event = event.with_attempt_state(Arc::clone(attempt_state));
        let attempt = Attempt::new(event, report, next);
        self.log(&attempt);
        self.settings.on_attempt.notify(&attempt);
    }

    fn log(&self, attempt: &Attempt) {
        let event = attempt.event();
        let info = AttemptInfo {
            event_id: event.id(),
            event_type: event.event_type().as_str(),
            attempt: event.attempt(),
            retry_in: attempt.retry_in(),
        };
        for route in attempt.report().routes() {
            let outcome = route.outcome();
            // The message of a handler's error or panic may quote a payload. This crate's own error messages never
            // quote a payload.
            let is_safe = match outcome {
                Outcome::Mismatched(_) => true,
                Outcome::Failed(error) => error.get_ref().is::<Error>(),
                _ => false,
            };
            let name = outcome.as_str();
            let failure: Option<&dyn fmt::Display> = match outcome {
                Outcome::Handled => None,
                _ if is_safe || !self.settings.redact_errors => Some(outcome),
                _ => Some(&name),
            };
            telemetry::route_finished(&info, route.route(), name, failure);
        }
        telemetry::attempt_finished(&info);
        if let Some(outcome) = attempt.event_outcome() {
            telemetry::event_finished(&info, outcome.as_str());
        }
    }
}
