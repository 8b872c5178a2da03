use std::fmt;
use std::sync::Arc;

use super::Outcome;

/// The name under which a service counts that calls no router.
pub(crate) const SERVICE: &str = "service";

/// What became of an event in one attempt: each route that it reached, with its outcome.
///
/// It is what [`EventRouter`](crate::EventRouter) answers, what an inbox's hook sees, and what the
/// mock kit lets a test ask.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Report {
    routes: Vec<RouteReport>,
    unhandled: bool,
    /// Whether no router was called, so that the service stands for one route.
    routerless: bool,
}

/// One route of a [`Report`].
#[derive(Clone, Debug)]
pub struct RouteReport {
    pub(super) route: Arc<str>,
    pub(super) outcome: Outcome,
}

impl Report {
    /// Returns a report of no routes, for a service of the user's own that has none to report.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn of(routes: Vec<RouteReport>, unhandled: bool) -> Self {
        Self {
            routes,
            unhandled,
            routerless: false,
        }
    }

    /// Returns that of a service that called no router.
    pub(super) fn of_service(outcome: Outcome) -> Self {
        let route = Arc::from(SERVICE);
        Self {
            routes: vec![RouteReport { route, outcome }],
            unhandled: false,
            routerless: true,
        }
    }

    /// Returns whether no router was called.
    pub(crate) fn is_routerless(&self) -> bool {
        self.routerless
    }

    /// Returns that of routes whose next attempt will never come.
    pub(crate) fn dropped(routes: impl Iterator<Item = Arc<str>>) -> Self {
        let dropped = |route| RouteReport {
            route,
            outcome: Outcome::Dropped,
        };
        Self::of(routes.map(dropped).collect(), false)
    }

    /// Returns the routes that ran, in the order of their registration.
    #[must_use]
    pub fn routes(&self) -> &[RouteReport] {
        &self.routes
    }

    /// Returns the outcome of the route of this name, or `None` if it didn't run.
    #[must_use]
    pub fn get(&self, route: &str) -> Option<&Outcome> {
        self.routes
            .iter()
            .find(|each| &*each.route == route)
            .map(RouteReport::outcome)
    }

    /// Returns the routes that didn't do their work.
    pub fn failures(&self) -> impl Iterator<Item = &RouteReport> {
        self.routes.iter().filter(|each| !each.outcome.is_handled())
    }

    /// Returns whether every route that ran did its work; also true where none ran.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Returns whether no route but those of [`on_any`](crate::EventRouter::on_any) matched.
    #[must_use]
    pub fn is_unhandled(&self) -> bool {
        self.unhandled
    }
}

impl RouteReport {
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.route)
    }

    /// Returns the route's name.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Returns what became of it.
    #[must_use]
    pub fn outcome(&self) -> &Outcome {
        &self.outcome
    }
}

/// Writes `route handled, other failed: connection refused`, or `no route`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.routes.is_empty() {
            return f.write_str("no route");
        }
        for (i, each) in self.routes.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{each}")?;
        }
        Ok(())
    }
}

impl fmt::Display for RouteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.route, self.outcome)
    }
}
