use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;

use super::{
    LimitedAttempt, Outcome, Permission, Postponed, Report, RouteOptions, RouteReport, RunKey,
    RunPermit, UsedKey,
};
use crate::runtime::{SystemClock, to_millis};
use crate::sync::{Mutex, MutexGuard};
use crate::telemetry::Stopwatch;
use crate::waiters::Waiters;

/// The outcomes of one attempt's routes, recorded when each route finishes.
///
/// The event carries this state through the user's layers around the router. If a layer loses the [`Report`] through an
/// error, a panic or a dropped future, the state survives.
#[derive(Debug)]
pub(crate) struct AttemptState {
    attempt: NonZeroU32,
    /// The routes that finished in earlier attempts and don't run again.
    finished: Vec<Arc<str>>,
    /// The only route that may run, if each route has its own consumer or a replay names the route.
    only: Option<Arc<str>>,
    /// Measures how long the attempt runs.
    stopwatch: Stopwatch,
    /// The clock of the routes' options.
    clock: SystemClock,
    /// Absent if no route of the inbox has limits.
    limited: Option<Box<Mutex<LimitedAttempt>>>,
    /// Absent if the inbox leases no events.
    #[cfg(feature = "postgres")]
    lease: Option<super::Lease>,
    /// A lock suffices: each route writes once, and no task waits while it holds the lock.
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// The routes of all router runs, in order. Reports share this list, so it is built once.
    routes: Arc<[RouteReport]>,
    /// The number of times that a router started its routes.
    runs: u32,
    /// Whether a route other than an observer matched.
    matched: bool,
    /// Whether the attempt has reached its timeout.
    expired: bool,
    /// The routers that are waiting for the attempt's timeout.
    deadline: Waiters,
}

/// How the call to the service ended. The end decides the outcome of the unfinished routes.
pub(crate) enum AttemptEnd {
    /// The service returned a report.
    Returned,
    /// The service returned an error, panicked, timed out or was dropped.
    Lost(Outcome),
}

/// One run of a router. The routes of the run are at `start..end` in the attempt's state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RouterRun {
    start: usize,
    end: usize,
}

impl AttemptState {
    pub(crate) fn new(attempt: NonZeroU32, finished: Vec<Arc<str>>) -> Self {
        Self {
            attempt,
            finished,
            only: None,
            stopwatch: Stopwatch::start(),
            clock: SystemClock::default(),
            limited: None,
            #[cfg(feature = "postgres")]
            lease: None,
            recorded: Mutex::default(),
        }
    }

    /// Returns the state of an attempt at one route.
    pub(crate) fn only(attempt: NonZeroU32, route: Arc<str>) -> Self {
        Self::new(attempt, Vec::new()).limited_to(Some(route))
    }

    /// Sets the only route that may run.
    pub(crate) fn limited_to(self, only: Option<Arc<str>>) -> Self {
        Self { only, ..self }
    }

    /// Sets the clock of the routes' options. By default, they use the clock of the standard library.
    pub(crate) fn with_clock(self, clock: SystemClock) -> Self {
        Self { clock, ..self }
    }

    /// Sets the state that the routes with limits need.
    pub(crate) fn with_limits(self, limited: LimitedAttempt) -> Self {
        let limited = Some(Box::new(Mutex::new(limited)));
        Self { limited, ..self }
    }

    /// Sets the lease of the event.
    #[cfg(feature = "postgres")]
    pub(crate) fn with_lease(self, lease: Option<super::Lease>) -> Self {
        Self { lease, ..self }
    }

    /// Returns the lease of the event, if the inbox leases events.
    #[cfg(feature = "postgres")]
    pub(crate) fn lease(&self) -> Option<&super::Lease> {
        self.lease.as_ref()
    }

    /// Returns the state of a first attempt, for a router that is called without an inbox.
    pub(crate) fn first() -> Self {
        Self::new(NonZeroU32::MIN, Vec::new())
    }

    /// Returns the number of the attempt, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.get()
    }

    /// Returns the clock of the routes' options.
    pub(crate) fn clock(&self) -> &SystemClock {
        &self.clock
    }

    pub(crate) fn stopwatch(&self) -> Stopwatch {
        self.stopwatch
    }

    fn limited(&self) -> Option<MutexGuard<'_, LimitedAttempt>> {
        let limited = self.limited.as_ref()?;
        Some(limited.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the number of the event in its inbox, if the limits of routes apply to the attempt.
    pub(crate) fn limited_event(&self) -> Option<u64> {
        self.limited().map(|limited| limited.event())
    }

    /// Returns whether a route has waited for its limits before this attempt.
    pub(crate) fn has_waited(&self) -> bool {
        self.limited().is_some_and(|limited| limited.has_waited())
    }

    /// Decides whether a route with limits runs now. Returns `None` if no limits apply to the attempt.
    pub(crate) fn decide(
        &self,
        route: &Arc<str>,
        options: &Arc<RouteOptions>,
        key: Option<RunKey>,
    ) -> Option<Permission> {
        let mut limited = self.limited()?;
        Some(limited.decide(route, options, key))
    }

    /// Records that a route with limits has handled the event.
    pub(crate) fn succeed(&self, permit: &mut RunPermit) {
        let now = to_millis(self.clock.now());
        if let Some(mut limited) = self.limited() {
            limited.succeed(permit, now);
        }
    }

    /// Takes the routes that wait for their limits, and that no later call of the router has run.
    pub(crate) fn take_postponed(&self) -> Vec<Postponed> {
        let taken = self.limited().map(|mut limited| limited.take_postponed());
        // Dropping a ticket may wake another event, so the lock is free by now.
        taken.map_or_else(Vec::new, |(postponed, _)| postponed)
    }

    /// Takes the keys that the attempt used.
    pub(crate) fn take_used(&self) -> Vec<UsedKey> {
        let limited = self.limited();
        limited.map_or_else(Vec::new, |mut limited| limited.take_used())
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        // No user code runs under the lock.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether `route` must run. A route doesn't run again if it finished in an earlier attempt, or handled the
    /// event earlier in this attempt. A layer may call the router twice in one attempt.
    pub(crate) fn wants(&self, route: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == route)
            && !self.finished.iter().any(|finished| **finished == *route)
            && !self
                .recorded()
                .routes
                .iter()
                .any(|run| &*run.route == route && run.outcome().is_handled())
    }

    /// Returns whether the attempt has reached its timeout. After the timeout, a router runs no routes.
    pub(crate) fn is_expired(&self) -> bool {
        self.recorded().expired
    }

    /// Returns whether the router may have to skip routes.
    pub(crate) fn is_selective(&self) -> bool {
        self.only.is_some() || !self.finished.is_empty() || self.recorded().runs > 0
    }

    /// Adds the routes that a router is about to run. `matched` is true if one of them isn't an observer.
    pub(crate) fn start<'a>(
        &self,
        routes: impl Iterator<Item = (&'a Arc<str>, Option<&'a Arc<RouteOptions>>)>,
        matched: bool,
    ) -> RouterRun {
        let mut recorded = self.recorded();
        recorded.runs += 1;
        recorded.matched |= matched;
        let start = recorded.routes.len();
        let stopwatch = self.stopwatch.restart();
        let running =
            routes.map(|(route, options)| RouteReport::running(route, options, stopwatch));
        recorded.routes = recorded.routes.iter().cloned().chain(running).collect();
        let end = recorded.routes.len();
        RouterRun { start, end }
    }

    /// Records the outcome of the route at `index` in `run`.
    pub(crate) fn record(&self, run: RouterRun, index: usize, outcome: Outcome) {
        // Reports share the list only after its routes have finished, so `make_mut` clones nothing here.
        let routes = &mut self.recorded().routes;
        let route = &mut Arc::make_mut(routes)[run.start + index];
        route.outcome = Some(outcome);
        route.stopwatch.stop();
    }

    /// Returns a receiver that resolves at the attempt's timeout, or `None` if the attempt has already reached it.
    pub(crate) fn deadline(&self) -> Option<oneshot::Receiver<()>> {
        let mut recorded = self.recorded();
        if recorded.expired {
            return None;
        }
        Some(recorded.deadline.wait())
    }

    /// Signals the attempt's timeout. The routers drop the handlers that are still running and have no timeout of their own.
    pub(crate) fn expire(&self) {
        let deadline = {
            let mut recorded = self.recorded();
            recorded.expired = true;
            recorded.deadline.take()
        };
        deadline.wake();
    }

    /// Returns the longest timeout of the running routes that have their own timeout.
    pub(crate) fn longest_own_timeout(&self) -> Option<Duration> {
        let recorded = self.recorded();
        let running = recorded.routes.iter().filter(|run| run.outcome.is_none());
        let timeouts = running.filter_map(|run| run.options.as_ref()?.timeout);
        timeouts.max()
    }

    /// Returns the outcomes of a finished router run.
    pub(crate) fn report(&self, run: RouterRun) -> Report {
        let recorded = self.recorded();
        let routes = if recorded.runs == 1 {
            Arc::clone(&recorded.routes)
        } else {
            Arc::from(&recorded.routes[run.start..run.end])
        };
        Report::of(routes, !recorded.matched)
    }

    /// Ends the attempt and returns the outcomes of all routes. `end` decides the outcome of the unfinished routes.
    pub(crate) fn close(&self, end: &AttemptEnd) -> Report {
        let recorded = self.recorded();
        if recorded.runs == 0 {
            let outcome = match end {
                AttemptEnd::Returned => Outcome::Handled,
                AttemptEnd::Lost(outcome) => outcome.clone(),
            };
            return Report::of_service(outcome, self.stopwatch);
        }
        // The list is shared, not taken, because a router in another task may still record outcomes.
        let mut routes = Arc::clone(&recorded.routes);
        if routes.iter().any(|route| route.outcome.is_none()) {
            let unfinished = match end {
                AttemptEnd::Returned => Outcome::Dropped,
                AttemptEnd::Lost(outcome) => outcome.clone(),
            };
            for route in Arc::make_mut(&mut routes) {
                route.outcome.get_or_insert_with(|| unfinished.clone());
            }
        }
        if recorded.runs > 1 {
            routes = latest(&routes);
        }
        Report::of(routes, !recorded.matched)
    }
}

/// Keeps one outcome per route: handled if any run handled the event, otherwise the last outcome.
fn latest(routes: &[RouteReport]) -> Arc<[RouteReport]> {
    let mut indices: HashMap<&str, usize> = HashMap::new();
    let mut kept: Vec<RouteReport> = Vec::new();
    for each in routes {
        match indices.get(each.route()) {
            Some(&index) if kept[index].outcome().is_handled() => {}
            Some(&index) => kept[index] = each.clone(),
            None => {
                indices.insert(each.route(), kept.len());
                kept.push(each.clone());
            }
        }
    }
    kept.into()
}
