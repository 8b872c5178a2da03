use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Attempt, DeadLetter, ErasedService, EventOutcome, Job, Next, Settings, run_attempt};
use crate::catch_panic::catch_panic;
use crate::error::Error;
use crate::event::Event;
use crate::outcome::{AttemptEnd, AttemptState, Outcome, Report};
use crate::runtime::Runtime;
use crate::telemetry::{self, AttemptInfo};

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
            // The text of a handler's error or panic may quote a payload. This crate's own errors never do.
            let is_text_safe = match outcome {
                Outcome::Mismatched(_) => true,
                Outcome::Failed(error) => error.get_ref().is::<Error>(),
                _ => false,
            };
            let name = outcome.as_str();
            let failure: Option<&dyn fmt::Display> = match outcome {
                Outcome::Handled => None,
                _ if is_text_safe || self.settings.log_errors => Some(outcome),
                _ => Some(&name),
            };
            telemetry::route_finished(&info, route.route(), name, failure);
        }
        telemetry::attempt_finished(&info);
        if let Some(outcome) = attempt.event_outcome() {
            telemetry::event_finished(&info, outcome.as_str());
        }
    }

    /// Reports a dead letter that the inbox has stored to the log and the hooks.
    pub(crate) fn dead_lettered(&self, letter: &DeadLetter) {
        let event = letter.event().ok();
        let event_type = event.map(|event| event.event_type().as_str());
        telemetry::event_dead_lettered(letter.message_id(), event_type, letter.attempts());
        self.settings.on_dead_letter.notify(letter);
    }

    /// Makes one attempt.
    pub(crate) async fn attempt(&self, event: Event, attempt_state: &Arc<AttemptState>) -> Report {
        let timeout = self.settings.attempt_timeout;
        run_attempt(&self.service, event, attempt_state, &*self.runtime, timeout).await
    }
}
