use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::unmatched::{LIMIT, Unmatched};
use super::{
    Attempt, DeadLetter, DeliverySettings, ErasedService, EventOutcome, Job, Next, Progress,
    Replay, RouteFailures, RouteResult, Wait, run_attempt,
};
use crate::catch_panic::catch_panic;
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::outcome::{
    AttemptEnd, AttemptState, LimitedAttempt, Outcome, Report, RetryPolicy, RouteLimits,
    RouteOptions, SERVICE, SkipReason,
};
use crate::router::{EventRouter, Route};
use crate::runtime::{Runtime, SystemClock};
use crate::telemetry::{
    self, AttemptId, AttemptSpan, DeadLetterInfo, FailedAttempt, FailureText, Metrics, ParentSpan,
};

/// The maximum number of patterns in a warning.
const MAX_PATTERNS: usize = 10;

/// The longest delay of a retry if layers hide the router.
const MAX_HIDDEN_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Runs attempts at jobs and decides whether a retry follows.
pub(crate) struct JobExecutor {
    service: ErasedService,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) settings: DeliverySettings,
    pub(crate) metrics: Metrics,
    unmatched: Unmatched,
    pub(crate) route_failures: RouteFailures,
    /// Whether a route may have options, which need a clock.
    has_options: bool,
    /// Absent if no route has limits.
    limits: Option<Arc<RouteLimits>>,
    /// The number of routes that skipped an event.
    skipped: AtomicU64,
}

impl JobExecutor {
    pub(crate) fn new(
        service: ErasedService,
        runtime: Arc<dyn Runtime>,
        settings: DeliverySettings,
    ) -> Self {
        let metrics = match service.router() {
            Some(router) => router.metrics(),
            None => Metrics::new([Arc::from(SERVICE)].into_iter(), std::iter::empty()),
        };
        // Layers may hide a router with options.
        let has_options = service.router().is_none_or(EventRouter::has_options);
        let has_limits = service.router().is_none_or(EventRouter::has_limits);
        Self {
            service,
            runtime,
            settings,
            metrics,
            unmatched: Unmatched::default(),
            route_failures: RouteFailures::default(),
            has_options,
            limits: has_limits.then(Arc::default),
            skipped: AtomicU64::new(0),
        }
    }

    /// Returns the user's router, if no layer wraps it.
    pub(crate) fn router(&self) -> Option<&EventRouter> {
        self.service.router()
    }

    /// Returns the clock of the routes' options. If no route has options, the clock needs no runtime.
    pub(crate) fn clock(&self) -> SystemClock {
        match self.has_options {
            true => SystemClock::of(&self.runtime),
            false => SystemClock::default(),
        }
    }

    /// Returns the limits of the routes, if a route may have limits.
    pub(crate) fn limits(&self) -> Option<&Arc<RouteLimits>> {
        self.limits.as_ref()
    }

    /// Returns the state of the next attempt at a job.
    pub(crate) fn attempt_state(&self, job: &mut Job) -> AttemptState {
        let state = job.progress.attempt_state(self.clock());
        let Some(limits) = &self.limits else {
            return state;
        };
        let tickets = job.progress.take_tickets();
        let limited = LimitedAttempt::new(Arc::clone(limits), job.number, tickets);
        state.with_limits(limited)
    }

    /// Returns the longest value over the retry policies of the inbox and of the routes.
    pub(crate) fn longest(&self, value: impl Fn(&RetryPolicy) -> Duration) -> Duration {
        let default = &self.settings.retry;
        let routes = self.router().into_iter().flat_map(EventRouter::routes);
        let routes = routes.map(|route| value(&route.policy(default)));
        routes.fold(value(default), Duration::max)
    }

    /// Returns the longest delay that a retry may have.
    pub(crate) fn longest_retry_delay(&self) -> Duration {
        let longest = self.longest(RetryPolicy::longest_delay);
        match self.router() {
            Some(_) => longest,
            // A layer hides the policies of the routes.
            None => longest.max(MAX_HIDDEN_DELAY),
        }
    }

    /// Returns the number of routes that skipped an event.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Returns the parent of the spans of the event's attempts. Called in the request's span.
    pub(crate) fn parent_span(&self, event: &Event) -> ParentSpan {
        ParentSpan::current(&self.settings.adopt_traceparent, event.traceparent())
    }

    /// Opens the span of the next attempt at a job.
    pub(crate) fn attempt_span(&self, job: &Job) -> AttemptSpan {
        let id = AttemptId {
            event_id: job.event.id(),
            event_type: job.event.event_type().as_str(),
            traceparent: job.event.traceparent(),
            attempt: job.progress.attempts(),
        };
        job.parent_span
            .attempt(&id, &self.settings.adopt_traceparent)
    }

    /// Makes one attempt at an event.
    pub(crate) async fn attempt(&self, event: Event, attempt_state: &Arc<AttemptState>) -> Report {
        let is_first = attempt_state.attempt() == 1;
        if attempt_state.stopwatch().is_on() && is_first && !attempt_state.has_waited() {
            let now = || self.runtime.system_time();
            self.metrics.first_attempt(event.received_at(), now);
        }
        let timeout = self.settings.attempt_timeout;
        run_attempt(&self.service, event, attempt_state, &*self.runtime, timeout).await
    }

    /// Finishes an attempt that ran for `duration`, and returns the next step. Updates the job's progress, and reports the attempt to the log and the
    /// hooks.
    pub(crate) fn finish_attempt(
        &self,
        job: &mut Job,
        attempt_state: &Arc<AttemptState>,
        report: Report,
        duration: Duration,
    ) -> Next {
        let policy = &self.settings.retry;
        let (clock, postponed) = (self.clock(), attempt_state.take_postponed());
        let (progress, event) = (&mut job.progress, &job.event);
        progress.add_used_keys(attempt_state.take_used());
        let next = progress.advance(&report, postponed, policy, event, &clock, duration);
        if !matches!(next, Next::Wait(Wait { has_run: false, .. })) {
            self.notify(job, attempt_state, report, next);
        }
        next
    }

    /// Finishes an attempt that the runtime dropped. Finished routes keep their outcome, and the event ends.
    pub(crate) fn fail(
        &self,
        job: &mut Job,
        attempt_state: &Arc<AttemptState>,
    ) -> (EventOutcome, Report) {
        let report = attempt_state.close(&AttemptEnd::Lost(Outcome::Dropped));
        let span = self.attempt_span(job);
        let postponed = attempt_state.take_postponed();
        let outcome = job.progress.fail(&report, postponed);
        span.in_scope(|| {
            self.notify(job, attempt_state, report.clone(), Next::End(outcome));
        });
        (outcome, report)
    }

    /// Ends an event as dead because the runtime dropped the task that delayed its next attempt.
    pub(crate) fn abandon(&self, job: &mut Job) {
        let attempt_state = Arc::new(job.progress.attempt_state(SystemClock::default()));
        let span = self.attempt_span(job);
        let report = job.progress.abandon();
        span.in_scope(|| self.notify(job, &attempt_state, report, Next::End(EventOutcome::Dead)));
    }

    /// Reports a stored dead letter to the log and the hooks.
    pub(crate) fn dead_lettered(&self, letter: &DeadLetter) {
        let event = letter.event().ok();
        let event_type = event.map(|event| event.event_type().as_str());
        let failed = letter.routes().iter().filter(|route| route.is_failure());
        let failed: Vec<_> = failed.map(RouteResult::route).collect();
        telemetry::event_dead_lettered(&DeadLetterInfo {
            event_id: letter.message_id(),
            event_type,
            attempts: letter.attempts(),
            dead_letter: letter.id(),
            routes: &failed.join(", "),
            cause: letter.cause(),
        });
        self.settings.on_dead_letter.notify(letter);
    }

    /// Returns the runtime's monotonic time, or the standard library's if the runtime panics.
    pub(crate) fn now(&self) -> Instant {
        catch_panic(|| self.runtime.now()).unwrap_or_else(|_| Instant::now())
    }

    /// Checks that the route exists, if a replay names a route.
    ///
    /// # Errors
    ///
    /// Fails if the router has no route of this name. If layers hide the router from the inbox, no name fails.
    pub(crate) fn check_replay(&self, routes: &Replay) -> Result<(), Error> {
        if let (Replay::Only(name), Some(router)) = (routes, self.router())
            && router.routes().all(|route| route.name() != name)
        {
            let text = format!("no route is named {name:?}: `EventRouter::routes` lists the names");
            return Err(Error::new(ErrorKind::Route, text));
        }
        Ok(())
    }

    /// Returns whether a replay of the event may run a route.
    pub(crate) fn can_replay(&self, event: &Event, routes: &Replay) -> bool {
        let (Replay::Only(name), Some(router)) = (routes, self.router()) else {
            return true;
        };
        let matching = router.matching_routes(event.event_type().clone());
        matching.iter().any(|route| route.name() == name)
    }

    /// Returns the runtime's system time, or the standard library's if the runtime panics.
    pub(crate) fn time_of_day(&self) -> SystemTime {
        catch_panic(|| self.runtime.system_time()).unwrap_or_else(|_| SystemTime::now())
    }

    /// Reports a finished attempt to the log and the hooks. Panics of a subscriber or a hook are caught, so the caller
    /// always counts the attempt.
    fn notify(&self, job: &Job, attempt_state: &Arc<AttemptState>, report: Report, next: Next) {
        let now = || catch_panic(|| self.runtime.now()).ok();
        self.route_failures.record(&report, now);
        let event = job.event.clone();
        let event = event.with_attempt_state(Arc::clone(attempt_state));
        let attempt = Attempt::new(event, report, next);
        self.log(&attempt, &job.progress);
        self.settings.on_attempt.notify(&attempt);
    }

    fn log(&self, attempt: &Attempt, progress: &Progress) {
        // If a route waits for its limits, the delays of the other routes count from now.
        let next_in = match attempt.event_outcome() {
            Some(_) => None,
            None if progress.is_waiting_for_limits() => Some(Duration::ZERO),
            None => attempt.retry_in(),
        };
        let (event, report) = (attempt.event(), attempt.report());
        for route in report.routes() {
            let outcome = route.outcome();
            if let Outcome::Skipped(reason) = outcome {
                self.count_skip(route.route(), reason);
                continue;
            }
            self.metrics
                .route(route.route(), outcome.as_str(), route.stopwatch());
            if outcome.is_handled() {
                telemetry::route_handled(route.route());
            } else {
                let policy = RouteOptions::policy(
                    route.options().map(|options| &**options),
                    &self.settings.retry,
                );
                let skip = route.options().and_then(|_| progress.skip(route.route()));
                telemetry::attempt_failed(&FailedAttempt {
                    route: route.route(),
                    outcome: outcome.as_str(),
                    error: self.failure_text(outcome),
                    max_attempts: policy.attempts(),
                    retry_in: next_in
                        .zip(progress.delay_of(route.route()))
                        .map(|(next, delay)| next.saturating_add(delay)),
                });
                if let Some(reason) = skip {
                    self.count_skip(route.route(), &reason);
                }
            }
        }
        match attempt.event_outcome() {
            Some(EventOutcome::Handled) => {
                telemetry::event_handled(self.settings.log_handled_at_info);
                let now = || self.runtime.system_time();
                self.metrics.handled(|| event.timestamp(), now);
            }
            Some(EventOutcome::Unhandled) => telemetry::event_unhandled(),
            // Either the inbox stores a dead letter, or another attempt follows.
            Some(EventOutcome::Dead) | None => {}
        }
        if event.attempt() == 1 && self.unmatched.count(!report.is_unhandled()) {
            self.warn_of_patterns(attempt);
        }
    }

    /// Counts and logs a route that skipped an event.
    fn count_skip(&self, route: &str, reason: &SkipReason) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
        self.metrics.skipped(route, reason.as_str());
        telemetry::route_skipped(route, reason.as_str());
    }

    /// Returns the message of an outcome for the log.
    ///
    /// The message of a handler's error or panic may quote a payload. This crate's own messages never quote a payload.
    fn failure_text<'a>(&self, outcome: &'a Outcome) -> Option<FailureText<'a>> {
        let is_redacted = self.settings.redact_errors;
        match outcome {
            Outcome::Mismatched(error) => Some(FailureText::Error(error)),
            Outcome::Failed(error) if !is_redacted || error.get_ref().is::<Error>() => {
                Some(FailureText::Error(error.get_ref()))
            }
            Outcome::Panicked(message) if !is_redacted => Some(FailureText::Panic(message)),
            _ => None,
        }
    }

    /// Warns that many events in a row have matched no pattern.
    fn warn_of_patterns(&self, attempt: &Attempt) {
        let Some(router) = self.router() else {
            // A layer hides the router. If a route for every event ran, the router may have no patterns.
            if attempt.report().routes().is_empty() {
                let last_type = attempt.event().event_type().as_str();
                telemetry::routes_never_match(LIMIT, None, last_type);
            }
            return;
        };
        let patterns: Vec<_> = router.routes().filter_map(Route::pattern).collect();
        if patterns.is_empty() {
            return;
        }
        let named = patterns.iter().take(MAX_PATTERNS).map(ToString::to_string);
        let mut named = named.collect::<Vec<_>>().join(", ");
        if let Some(more @ 1..) = patterns.len().checked_sub(MAX_PATTERNS) {
            named += &format!(" and {more} more");
        }
        let last_type = attempt.event().event_type().as_str();
        telemetry::routes_never_match(LIMIT, Some(&named), last_type);
    }
}
