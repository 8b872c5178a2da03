use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{EventOutcome, Replay, RetryPolicy, RouteResult};
use crate::event::Event;
use crate::outcome::{AttemptState, Outcome, Report, RouteReport, SERVICE, SkipReason};
use crate::runtime::SystemClock;

/// The progress of an event: the number of its next attempt, and the routes that don't run again.
///
/// Only the names of finished routes are kept. A retry runs the routes that match the event at that time, except the
/// finished routes. If a route was renamed since the last attempt, the route may run twice, but no route is skipped.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    attempt: NonZeroU32,
    /// Absent until a route finishes or fails, so an event that is waiting for its first attempt needs no allocation.
    routes: Option<Box<RouteProgress>>,
}

#[derive(Clone, Debug, Default)]
struct RouteProgress {
    /// The results of the finished routes.
    results: Vec<RouteResult>,
    /// The names of the routes that failed in the last attempt and will be retried.
    waiting: Vec<Arc<str>>,
    /// The only route that may run, if a replay names one.
    only: Option<Arc<str>>,
}

/// Represents waiting routes whose names weren't stored: the routes that match when the event runs again.
const OTHERS: &str = "the remaining routes";

/// The next step after an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Another attempt follows after this delay.
    Retry(Duration),
    /// The event has ended.
    End(EventOutcome),
}

impl Progress {
    /// Returns the progress of an event before its first attempt.
    pub(crate) fn new() -> Self {
        Self {
            attempt: NonZeroU32::MIN,
            routes: None,
        }
    }

    /// Returns the progress of a stored event. `waiting` is true if further routes wait for the attempt.
    pub(crate) fn restored(attempt: NonZeroU32, results: Vec<RouteResult>, waiting: bool) -> Self {
        let others = waiting.then(|| Arc::from(OTHERS));
        let waiting: Vec<_> = others.into_iter().collect();
        let nothing = results.is_empty() && waiting.is_empty();
        Self {
            attempt,
            routes: (!nothing).then(|| {
                Box::new(RouteProgress {
                    results,
                    waiting,
                    only: None,
                })
            }),
        }
    }

    /// Returns the progress with `only` as the only route that may run.
    pub(crate) fn limited_to(mut self, only: Option<Arc<str>>) -> Self {
        if only.is_some() {
            self.routes.get_or_insert_default().only = only;
        }
        self
    }

    /// Returns the progress of a replayed event whose routes ended with these results.
    pub(crate) fn replay(results: &[RouteResult], routes: &Replay) -> Self {
        let stays = |result: &&RouteResult| match routes {
            Replay::Remaining => !result.is_failure(),
            Replay::All => false,
            Replay::Only(route) => *result.route != **route,
        };
        let results = results.iter().filter(stays).cloned().collect();
        let only = match routes {
            Replay::Only(route) => Some(Arc::from(route.as_str())),
            Replay::Remaining | Replay::All => None,
        };
        Self::restored(NonZeroU32::MIN, results, false).limited_to(only)
    }

    /// Returns the state of the next attempt.
    pub(crate) fn attempt_state(&self, clock: SystemClock) -> Arc<AttemptState> {
        let finished = self
            .results()
            .iter()
            .map(|result| Arc::clone(&result.route));
        let only = self.routes.as_ref().and_then(|routes| routes.only.clone());
        let state = AttemptState::new(self.attempt, finished.collect());
        Arc::new(state.limited_to(only).with_clock(clock))
    }

    /// Adds the report of an attempt at the event, and returns the next step.
    pub(crate) fn advance(
        &mut self,
        report: &Report,
        policy: &RetryPolicy,
        event: &Event,
        clock: &SystemClock,
    ) -> Next {
        if self.routes.is_none() && report.is_success() {
            return Next::End(self.event_outcome(report));
        }
        let last = policy.is_last(self.attempt);
        let mut requested = None;
        let routes = self.routes.get_or_insert_default();
        let mut waiting = std::mem::take(&mut routes.waiting);
        // If a layer didn't call the router, the waiting routes didn't run and are still waiting.
        waiting.retain(|route| report.is_routerless() && report.get(route).is_none());
        for each in report.routes() {
            let outcome = each.outcome();
            if last || !outcome.is_retryable() {
                routes.finish(each, report);
                continue;
            }
            let own_request = match outcome {
                Outcome::Failed(error) => error.delay(),
                _ => None,
            };
            let age_at_retry = || {
                let delay = policy.delay(self.attempt, event.id(), own_request);
                event.age(clock.now()).saturating_add(delay)
            };
            if let Some(reason) = each
                .options()
                .and_then(|options| options.skips(age_at_retry))
            {
                let result = RouteResult::skipped_after(each.name(), &reason, outcome);
                routes.results.push(result);
                continue;
            }
            waiting.push(each.name());
            requested = requested.max(own_request);
        }
        if last {
            // The routes that are still waiting didn't run and have no outcome. They fail with the
            // outcome that kept the router from running.
            let outcome = report.failures().next().map(|each| each.outcome().clone());
            let outcome = outcome.unwrap_or(Outcome::Dropped);
            let failed = waiting
                .drain(..)
                .map(|route| RouteResult::failed(route, &outcome));
            routes.results.extend(failed);
        }
        routes.waiting = waiting;
        if routes.waiting.is_empty() {
            return Next::End(self.event_outcome(report));
        }
        let delay = policy.delay(self.attempt, event.id(), requested);
        self.attempt = self.attempt.saturating_add(1);
        Next::Retry(delay)
    }

    /// Adds the report of the last attempt, regardless of the retry policy.
    pub(crate) fn fail(&mut self, report: &Report) -> EventOutcome {
        let routes = self.routes.get_or_insert_default();
        routes.waiting.clear();
        for each in report.routes() {
            routes.finish(each, report);
        }
        self.event_outcome(report)
    }

    /// Adds the handled routes of an attempt that will be repeated.
    pub(crate) fn interrupt(&mut self, report: &Report) {
        let handled = report.routes().iter();
        let handled = handled.filter(|each| each.outcome().is_handled());
        let routes = self.routes.get_or_insert_default();
        routes
            .results
            .extend(handled.map(|each| RouteResult::done(each.name())));
    }

    /// Ends the event and drops the routes that are waiting for the next attempt.
    pub(crate) fn abandon(&mut self) -> Report {
        let routes = self.routes.get_or_insert_default();
        let report = Report::dropped(std::mem::take(&mut routes.waiting).into_iter());
        self.fail(&report);
        // The attempt that `advance` counted never started.
        self.attempt = NonZeroU32::new(self.attempt.get() - 1).unwrap_or(NonZeroU32::MIN);
        report
    }

    /// Returns the number of the next attempt, or of the last attempt if none follows.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempt.get()
    }

    /// Returns whether routes of a router wait for the next attempt.
    pub(crate) fn is_routed(&self) -> bool {
        let mut waiting = self.routes.iter().flat_map(|routes| &routes.waiting);
        waiting.any(|route| **route != *SERVICE)
    }

    /// Returns the results of the finished routes.
    pub(crate) fn results(&self) -> &[RouteResult] {
        self.routes.as_ref().map_or(&[], |routes| &routes.results)
    }

    /// Returns why a route that failed doesn't run again, if an option of the route decided so.
    pub(crate) fn skip(&self, route: &str) -> Option<SkipReason> {
        let mut results = self.results().iter();
        let skipped = results.any(|result| *result.route == *route && result.is_skipped());
        // Only the age of the event ends a route after its handler ran.
        skipped.then_some(SkipReason::Stale)
    }

    fn event_outcome(&self, report: &Report) -> EventOutcome {
        if self.results().iter().any(RouteResult::is_failure) {
            EventOutcome::Dead
        } else if report.is_unhandled() {
            EventOutcome::Unhandled
        } else {
            EventOutcome::Handled
        }
    }
}

impl RouteProgress {
    /// Adds the result of a route that won't run again.
    fn finish(&mut self, route: &RouteReport, report: &Report) {
        let result = match route.outcome() {
            Outcome::Handled => RouteResult::done(route.name()),
            outcome => RouteResult::failed(route.name(), outcome),
        };
        // A service that calls no router counts as one route. If a layer doesn't call the router, each attempt reports that
        // route again.
        let mut known = self.results.iter_mut().filter(|_| report.is_routerless());
        match known.find(|known| known.route == result.route) {
            None => self.results.push(result),
            Some(known) if result.reason.is_some() => *known = result,
            Some(_) => {}
        }
    }
}
