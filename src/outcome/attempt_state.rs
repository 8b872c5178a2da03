use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, PoisonError};

use futures_channel::oneshot;

use super::{Outcome, Report, RouteReport};
use crate::sync::{Mutex, MutexGuard};
use crate::waiters::Waiters;

/// What the routes of one attempt did, written as it happens.
///
/// It goes with the event through whatever layers the user put around the router, and stays behind
/// when one of them loses the [`Report`]: by an error of its own, a panic, or a future that is
/// dropped.
#[derive(Debug)]
pub(crate) struct AttemptState {
    attempt: NonZeroU32,
    /// The routes that need no run, because they finished in earlier attempts.
    finished: Vec<Arc<str>>,
    /// The one route that may run, where each has a consumer of its own.
    only: Option<Arc<str>>,
    /// A lock and not atomics: a route writes once, and nothing waits under the lock.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One line a route, pending while there is no outcome. A router that is called again appends
    /// its lines.
    lines: Vec<RouteState>,
    /// How often a router entered its routes.
    entries: u32,
    /// Whether a route other than an observer matched.
    matched: bool,
    /// Whether the attempt's time is over.
    expired: bool,
    /// The routers that wait for the end of the attempt's time.
    waiting: Waiters,
}

#[derive(Debug)]
struct RouteState {
    route: Arc<str>,
    outcome: Option<Outcome>,
}

/// How the service's call ended, for the routes that it left unfinished.
pub(crate) enum AttemptEnd {
    /// It returned a report.
    Returned,
    /// It returned an error, or panicked, or ran out of time, or was dropped.
    Lost(Outcome),
}

/// A router's lines in the attempt_state: the first is at `base`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    base: usize,
}

impl AttemptState {
    pub(crate) fn new(attempt: NonZeroU32, finished: Vec<Arc<str>>) -> Self {
        Self {
            attempt,
            finished,
            only: None,
            state: Mutex::default(),
        }
    }

    /// Returns that of an attempt at one route.
    #[cfg(feature = "jetstream")]
    pub(crate) fn only(attempt: NonZeroU32, route: Arc<str>) -> Self {
        Self {
            only: Some(route),
            ..Self::new(attempt, Vec::new())
        }
    }

    /// Returns that of an event outside a delivery.
    pub(crate) fn first() -> Self {
        Self::new(NonZeroU32::MIN, Vec::new())
    }

    /// The number of the attempt, from 1.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.get()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether `route` needs to run: not if it finished in an earlier attempt, nor if it
    /// was handled earlier in this one, which happens where a layer around the router calls it
    /// again.
    pub(crate) fn wants(&self, route: &str) -> bool {
        let handled = |line: &RouteState| line.outcome.as_ref().is_some_and(Outcome::is_handled);
        self.only.as_deref().is_none_or(|only| only == route)
            && !self.finished.iter().any(|finished| **finished == *route)
            && !self
                .state()
                .lines
                .iter()
                .any(|line| &*line.route == route && handled(line))
    }

    /// Returns whether the attempt's time is over: a router that is called only now runs nothing.
    pub(crate) fn is_expired(&self) -> bool {
        self.state().expired
    }

    /// Returns whether there may be routes that need no run.
    pub(crate) fn is_selective(&self) -> bool {
        self.only.is_some() || !self.finished.is_empty() || self.state().entries > 0
    }

    /// Writes a line for each route that is about to run. `matched` says whether one of the event's
    /// routes is more than an observer.
    pub(crate) fn enter<'a>(
        &self,
        routes: impl Iterator<Item = &'a Arc<str>>,
        matched: bool,
    ) -> Entry {
        let mut state = self.state();
        state.entries += 1;
        state.matched |= matched;
        let base = state.lines.len();
        state.lines.reserve_exact(routes.size_hint().0);
        state.lines.extend(routes.map(|route| RouteState {
            route: Arc::clone(route),
            outcome: None,
        }));
        Entry { base }
    }

    /// Writes the outcome of the route that is the `index`th of `entry`.
    pub(crate) fn record(&self, entry: Entry, index: usize, outcome: Outcome) {
        self.state().lines[entry.base + index].outcome = Some(outcome);
    }

    /// Returns the receiver of the signal that the attempt's time is over, or `None` if it is over.
    pub(crate) fn deadline(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.state();
        if state.expired {
            return None;
        }
        Some(state.waiting.wait())
    }

    /// Ends the attempt's time: the routers drop what still runs.
    pub(crate) fn expire(&self) {
        let waiting = {
            let mut state = self.state();
            state.expired = true;
            state.waiting.take()
        };
        waiting.wake();
    }

    /// Returns what the routes of `entry` did.
    pub(crate) fn report(&self, entry: Entry) -> Report {
        let state = self.state();
        let lines = state.lines[entry.base..].iter();
        let routes = lines.filter_map(|line| {
            Some(RouteReport {
                route: Arc::clone(&line.route),
                outcome: line.outcome.clone()?,
            })
        });
        Report::of(routes.collect(), !state.matched)
    }

    /// Ends the attempt and returns what all routes did; those that didn't finish get the outcome
    /// that `end` says.
    pub(crate) fn close(&self, end: &AttemptEnd) -> Report {
        let state = self.state();
        let unfinished = match end {
            AttemptEnd::Returned => Outcome::Dropped,
            AttemptEnd::Lost(outcome) => outcome.clone(),
        };
        if state.entries == 0 {
            return Report::of_service(match end {
                AttemptEnd::Returned => Outcome::Handled,
                AttemptEnd::Lost(_) => unfinished,
            });
        }
        // Copied, not taken: a router on a task of its own may write here after this.
        let routes = state.lines.iter().map(|line| {
            let outcome = line.outcome.clone().unwrap_or_else(|| unfinished.clone());
            RouteReport {
                route: Arc::clone(&line.route),
                outcome,
            }
        });
        let mut routes: Vec<_> = routes.collect();
        if state.entries > 1 {
            routes = latest(routes);
        }
        Report::of(routes, !state.matched)
    }
}

/// Keeps one line of each route: the one that was handled, else the last.
fn latest(routes: Vec<RouteReport>) -> Vec<RouteReport> {
    let mut places: HashMap<Arc<str>, usize> = HashMap::new();
    let mut kept: Vec<RouteReport> = Vec::new();
    for each in routes {
        match places.get(&each.route) {
            Some(&place) if kept[place].outcome.is_handled() => {}
            Some(&place) => kept[place] = each,
            None => {
                places.insert(Arc::clone(&each.route), kept.len());
                kept.push(each);
            }
        }
    }
    kept
}
