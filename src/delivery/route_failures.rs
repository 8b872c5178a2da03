use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::outcome::{Outcome, Report};

/// The routes whose last runs all failed.
///
/// The number of entries is bounded by the number of routes.
#[derive(Debug, Default)]
pub(crate) struct RouteFailures {
    /// The number of entries. While there are no entries, a successful attempt takes no lock.
    len: AtomicUsize,
    entries: Mutex<BTreeMap<Arc<str>, FailureStreak>>,
}

/// The failed runs of a route since the last run that handled its event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailureStreak {
    pub(crate) runs: u64,
    /// When the first of these runs ended.
    pub(crate) since: Instant,
    /// When the last of these runs ended.
    pub(crate) last: Instant,
    /// The name of the first outcome.
    pub(crate) outcome: &'static str,
    /// Whether every run timed out.
    pub(crate) is_hanging: bool,
}

impl RouteFailures {
    /// Records the outcomes of an attempt. Reads the time only if a route fails or failed before.
    pub(crate) fn record(&self, report: &Report, now: impl FnOnce() -> Option<Instant>) {
        // Relaxed: a streak that another thread begins at the same time may survive one success.
        if self.len.load(Ordering::Relaxed) == 0 && report.is_success() {
            return;
        }
        let Some(now) = now() else { return };
        let mut entries = self.entries();
        for route in report.routes() {
            let outcome = route.outcome();
            if outcome.is_handled() {
                entries.remove(route.route());
                continue;
            }
            if !outcome.is_failure() {
                // A route that skips an event doesn't show whether its handler works.
                continue;
            }
            let streak = entries.entry(route.name()).or_insert(FailureStreak {
                runs: 0,
                since: now,
                last: now,
                outcome: outcome.as_str(),
                is_hanging: true,
            });
            streak.runs += 1;
            streak.last = now;
            streak.is_hanging &= matches!(outcome, Outcome::TimedOut);
        }
        self.len.store(entries.len(), Ordering::Relaxed);
    }

    /// Returns the routes whose last runs failed.
    pub(crate) fn list(&self) -> Vec<(Arc<str>, FailureStreak)> {
        let entries = self.entries();
        let each = entries
            .iter()
            .map(|(route, streak)| (Arc::clone(route), *streak));
        each.collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, FailureStreak>> {
        // No user code runs under the lock, so the entries are consistent even if the lock is poisoned.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
