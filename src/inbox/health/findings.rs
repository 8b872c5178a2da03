use std::time::{Duration, Instant, SystemTime};

use super::{Health, HealthLimits, HealthProblem, HealthProblemKind};
use crate::delivery::JobExecutor;
use crate::outcome::RetryPolicy;

/// A part that can have problems: an inbox, a receiver or a worker.
pub(crate) trait HealthSource: Send + Sync + 'static {
    /// Adds the current problems. No user code runs, and no lock is held for long.
    fn find(&self, findings: &mut Findings);
}

/// The problems that an evaluation has found so far.
pub(crate) struct Findings {
    /// The time by the runtime's monotonic clock.
    pub(crate) now: Instant,
    pub(crate) limits: HealthLimits,
    system_time: SystemTime,
    problems: Vec<HealthProblem>,
}

/// A series of requests or runs is forgotten if it doesn't continue within a day. Otherwise, a few wrong requests would be
/// reported until the next event, perhaps for months.
const FORGET: Duration = Duration::from_secs(24 * 60 * 60);

/// The default limit for the age of an event. The delays of its retries don't count.
const DEFAULT_AGE: Duration = Duration::from_secs(15 * 60);

impl Findings {
    pub(crate) fn new(now: Instant, system_time: SystemTime, limits: HealthLimits) -> Self {
        Self {
            now,
            limits,
            system_time,
            problems: Vec::new(),
        }
    }

    /// Returns the time since `start`.
    pub(crate) fn since(&self, start: Instant) -> Duration {
        self.now.saturating_duration_since(start)
    }

    /// Returns whether a series that last continued at `last` is forgotten.
    pub(crate) fn is_forgotten(&self, last: Instant) -> bool {
        self.since(last) >= FORGET
    }

    /// Adds a problem that has lasted for this time, and returns it.
    pub(crate) fn add(&mut self, kind: HealthProblemKind, lasted: Duration) -> &mut HealthProblem {
        let since = self.system_time.checked_sub(lasted);
        let problem = HealthProblem::new(kind, since.unwrap_or(self.system_time));
        let index = self.problems.len();
        self.problems.push(problem);
        &mut self.problems[index]
    }

    /// Adds a problem if the oldest event in flight is too old.
    pub(crate) fn oldest_event(&mut self, age: Duration, executor: &JobExecutor) {
        let limit = self.limits.max_event_age.unwrap_or_else(|| {
            let retries = executor.longest(RetryPolicy::total_delay);
            DEFAULT_AGE.saturating_add(retries)
        });
        if age >= limit {
            let lasted = age.saturating_sub(limit);
            let problem = self.add(HealthProblemKind::EventsDelayed, lasted);
            problem.because(format!("the limit is {limit:?}"));
        }
    }

    /// Adds a problem for each route whose last runs all failed.
    pub(crate) fn routes(&mut self, executor: &JobExecutor) {
        for (route, streak) in executor.route_failures.list() {
            let lasted = streak.last.saturating_duration_since(streak.since);
            let is_reached = self.limits.route_failures.is_reached(streak.runs, lasted);
            if !is_reached || self.is_forgotten(streak.last) {
                continue;
            }
            let (kind, cause) = if streak.is_hanging {
                let cause = "every run timed out".to_owned();
                (HealthProblemKind::RouteStalled, cause)
            } else {
                let cause = format!("the first run {}", streak.outcome);
                (HealthProblemKind::RouteFailing, cause)
            };
            let lasted = self.since(streak.since);
            self.add(kind, lasted).route_named(route).because(cause);
        }
    }

    /// Returns whether a problem of this kind was found.
    pub(crate) fn has(&self, kind: HealthProblemKind) -> bool {
        self.problems.iter().any(|problem| problem.kind() == kind)
    }

    pub(crate) fn into_health(self) -> Health {
        Health::new(self.problems)
    }
}
