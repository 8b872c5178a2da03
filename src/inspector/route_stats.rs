use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::delivery::Attempt;
use crate::outcome::Outcome;

/// The runs of each route since the inspector was created.
#[derive(Default)]
pub(super) struct RouteStats {
    routes: Mutex<BTreeMap<Arc<str>, Runs>>,
}

/// The runs of one route.
#[derive(Clone)]
pub(super) struct Runs {
    pub(super) handled: u64,
    pub(super) failed: u64,
    pub(super) skipped: u64,
    /// The durations in microseconds, with two significant digits.
    durations: Histogram<u32>,
}

/// The longest duration that the histogram distinguishes, in microseconds: a day.
const MAX_DURATION: u64 = 24 * 60 * 60 * 1_000_000;

impl RouteStats {
    /// Counts the routes of an attempt.
    pub(super) fn record(&self, attempt: &Attempt) {
        let mut routes = self.routes();
        for report in attempt.report().routes() {
            let runs = routes.entry(report.name()).or_default();
            match report.outcome() {
                Outcome::Handled => runs.handled += 1,
                Outcome::Skipped(_) => {
                    runs.skipped += 1;
                    continue;
                }
                _ => runs.failed += 1,
            }
            if let Some(duration) = report.stopwatch().elapsed() {
                let micros = u64::try_from(duration.as_micros()).unwrap_or(MAX_DURATION);
                runs.durations.saturating_record(micros);
            }
        }
    }

    pub(super) fn get(&self, route: &str) -> Runs {
        self.routes().get(route).cloned().unwrap_or_default()
    }

    /// Returns the names of all routes that have run.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.routes().keys().cloned().collect()
    }

    fn routes(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Runs>> {
        // No user code runs under the lock, so the counts are consistent even if the lock is poisoned.
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runs {
    pub(super) fn total(&self) -> u64 {
        self.handled + self.failed
    }

    /// Returns the duration that this share of the runs didn't exceed, or `None` if no run was measured.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        let micros = self.durations.value_at_quantile(share);
        (!self.durations.is_empty()).then(|| Duration::from_micros(micros))
    }
}

impl Default for Runs {
    fn default() -> Self {
        let durations = Histogram::new_with_bounds(1, MAX_DURATION, 2);
        Self {
            handled: 0,
            failed: 0,
            skipped: 0,
            durations: durations.expect("the bounds and the digits are valid"),
        }
    }
}
