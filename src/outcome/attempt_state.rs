use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};

use futures_channel::oneshot;

use super::{Outcome, Report, RouteReport};
use crate::sync::{Mutex, MutexGuard};
use crate::waiters::Waiters;

/// The outcomes of the routes of one attempt, recorded as they happen.
///
/// The event carries this state through the layers that the user put around the router. So the state survives if a layer
/// loses the [`Report`] by an error of its own, a panic or a dropped future.
#[derive(Debug)]
pub(crate) struct AttemptState {
    attempt: NonZeroU32,
    /// The routes that finished in earlier attempts and don't run again.
    finished: Vec<Arc<str>>,
    /// The one route that may run, where each route has a consumer of its own.
    only: Option<Arc<str>>,
    /// A lock and not atomics: a route writes once, and nothing waits under the lock.
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    /// The routes of all router runs, in order. Reports share them, so that they are built once.
    routes: Arc<[RouteReport]>,
    /// The number of times that a router started its routes.
    runs: u32,
    /// Whether a route other than an observer matched.
    matched: bool,
    /// Whether the attempt's time is over.
    expired: bool,
    /// The routers that wait for the end of the attempt's time.
    deadline: Waiters,
}

/// How the call of the service ended. Decides the outcome of the routes that it left unfinished.
pub(crate) enum AttemptEnd {
    /// The service returned a report.
    Returned,
    /// The service returned an error, panicked, ran out of time or was dropped.
    Lost(Outcome),
}

/// One run of a router: its routes lie between `start` and `end` in the attempt's state.
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
            recorded: Mutex::default(),
        }
    }

    /// Returns the state of an attempt at one route.
    pub(crate) fn only(attempt: NonZeroU32, route: Arc<str>) -> Self {
        Self {
            only: Some(route),
            ..Self::new(attempt, Vec::new())
        }
    }

    /// Returns the state of a first attempt, for a router that no inbox calls.
    pub(crate) fn first() -> Self {
        Self::new(NonZeroU32::MIN, Vec::new())
    }

    /// Returns the number of the attempt, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.get()
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        // No user code runs under the lock.
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether `route` has to run. It hasn't if it finished in an earlier attempt, or was handled earlier in this one:
    /// a layer around the router may call the router again.
    pub(crate) fn wants(&self, route: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == route)
            && !self.finished.iter().any(|finished| **finished == *route)
            && !self
                .recorded()
                .routes
                .iter()
                .any(|run| &*run.route == route && run.outcome().is_handled())
    }

    /// Returns whether the attempt's time is over. A router that is called after that runs nothing.
    pub(crate) fn is_expired(&self) -> bool {
        self.recorded().expired
    }

    /// Returns whether there may be routes that don't have to run.
    pub(crate) fn is_selective(&self) -> bool {
        self.only.is_some() || !self.finished.is_empty() || self.recorded().runs > 0
    }

    /// Adds the routes that a router is about to run. `matched` says whether one of them is more than an observer.
    pub(crate) fn start<'a>(
        &self,
        routes: impl Iterator<Item = &'a Arc<str>>,
        matched: bool,
    ) -> RouterRun {
        let mut recorded = self.recorded();
        recorded.runs += 1;
        recorded.matched |= matched;
        let start = recorded.routes.len();
        let running = routes.map(RouteReport::running);
        recorded.routes = recorded.routes.iter().cloned().chain(running).collect();
        let end = recorded.routes.len();
        RouterRun { start, end }
    }

    /// Records the outcome of the route that is at `index` in `run`.
    pub(crate) fn record(&self, run: RouterRun, index: usize, outcome: Outcome) {
        // A report shares the routes only once they have finished, so that nothing is cloned here.
        let routes = &mut self.recorded().routes;
        Arc::make_mut(routes)[run.start + index].outcome = Some(outcome);
    }

    /// Returns a receiver that resolves when the attempt's time is over, or `None` if the time is over.
    pub(crate) fn deadline(&self) -> Option<oneshot::Receiver<()>> {
        let mut recorded = self.recorded();
        if recorded.expired {
            return None;
        }
        Some(recorded.deadline.wait())
    }

    /// Ends the attempt's time: the routers drop the handlers that still run.
    pub(crate) fn expire(&self) {
        let deadline = {
            let mut recorded = self.recorded();
            recorded.expired = true;
            recorded.deadline.take()
        };
        deadline.wake();
    }

    /// Returns the outcomes of a router run that has finished.
    pub(crate) fn report(&self, run: RouterRun) -> Report {
        let recorded = self.recorded();
        let routes = if recorded.runs == 1 {
            Arc::clone(&recorded.routes)
        } else {
            Arc::from(&recorded.routes[run.start..run.end])
        };
        Report::of(routes, !recorded.matched)
    }

    /// Ends the attempt and returns the outcomes of all routes. `end` decides the outcome of the routes that didn't finish.
    pub(crate) fn close(&self, end: &AttemptEnd) -> Report {
        let recorded = self.recorded();
        if recorded.runs == 0 {
            return Report::of_service(match end {
                AttemptEnd::Returned => Outcome::Handled,
                AttemptEnd::Lost(outcome) => outcome.clone(),
            });
        }
        // Shared, not taken: a router on a task of its own may still record outcomes.
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

/// Keeps one outcome of each route: handled if the route was handled in any run, else the last outcome.
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
