use std::fmt;
use std::sync::Arc;

use super::{Outcome, RouteOptions};
use crate::telemetry::Stopwatch;

/// The name of the single route of a service that calls no router.
pub(crate) const SERVICE: &str = "service";

/// The result of one attempt at an event: each route that ran, with its outcome.
///
/// [`EventRouter`](crate::EventRouter) returns a report, and hooks read it from [`Attempt::report`](crate::Attempt::report).
/// A service that doesn't call an `EventRouter` returns [`Report::default`]. Clones share one list of routes.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Report {
    routes: Arc<[RouteReport]>,
    unhandled: bool,
    /// Whether the service called no router, so that the service counts as one route.
    routerless: bool,
}

/// One route of a [`Report`].
#[derive(Clone)]
pub(crate) struct RouteReport {
    pub(super) route: Arc<str>,
    /// Absent while the route runs.
    pub(super) outcome: Option<Outcome>,
    /// Measures how long the route runs.
    pub(super) stopwatch: Stopwatch,
    pub(super) options: Option<Arc<RouteOptions>>,
}

impl Report {
    pub(super) fn of(routes: Arc<[RouteReport]>, unhandled: bool) -> Self {
        Self {
            routes,
            unhandled,
            routerless: false,
        }
    }

    /// Returns the report of a service that called no router.
    pub(super) fn of_service(outcome: Outcome, stopwatch: Stopwatch) -> Self {
        let service = RouteReport {
            route: Arc::from(SERVICE),
            outcome: Some(outcome),
            stopwatch,
            options: None,
        };
        Self {
            routes: Arc::new([service]),
            unhandled: false,
            routerless: true,
        }
    }

    /// Returns the report of routes whose next attempt won't run.
    pub(crate) fn dropped(routes: impl Iterator<Item = Arc<str>>) -> Self {
        let dropped = routes.map(|route| RouteReport {
            route,
            outcome: Some(Outcome::Dropped),
            stopwatch: Stopwatch::default(),
            options: None,
        });
        Self::of(dropped.collect(), false)
    }

    /// Returns whether the service called no router.
    pub(crate) fn is_routerless(&self) -> bool {
        self.routerless
    }

    /// Returns the name and the outcome of each route that ran, in the order of registration.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Outcome)> {
        let routes = self.routes.iter();
        routes.map(|each| (&*each.route, each.outcome()))
    }

    pub(crate) fn routes(&self) -> &[RouteReport] {
        &self.routes
    }

    /// Returns the outcome of the route with this name, or `None` if the route didn't run.
    #[must_use]
    pub fn get(&self, route: &str) -> Option<&Outcome> {
        self.routes
            .iter()
            .find(|each| &*each.route == route)
            .map(RouteReport::outcome)
    }

    /// Returns the routes that failed.
    pub(crate) fn failures(&self) -> impl Iterator<Item = &RouteReport> {
        self.routes
            .iter()
            .filter(|each| each.outcome().is_failure())
    }

    /// Returns whether every route handled or skipped the event. Also returns true if no route ran.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failures().next().is_none()
    }

    /// Returns whether no route other than [`on_any`](crate::EventRouter::on_any) routes matched.
    #[must_use]
    pub fn is_unhandled(&self) -> bool {
        self.unhandled
    }
}

impl RouteReport {
    /// Returns a route that has started.
    pub(super) fn running(
        route: &Arc<str>,
        options: Option<&Arc<RouteOptions>>,
        stopwatch: Stopwatch,
    ) -> Self {
        Self {
            route: Arc::clone(route),
            outcome: None,
            stopwatch,
            options: options.cloned(),
        }
    }

    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.route)
    }

    pub(crate) fn stopwatch(&self) -> Stopwatch {
        self.stopwatch
    }

    /// Returns the route's options, if it has any.
    pub(crate) fn options(&self) -> Option<&Arc<RouteOptions>> {
        self.options.as_ref()
    }

    /// Returns the route's name.
    pub(crate) fn route(&self) -> &str {
        &self.route
    }

    /// Returns the route's outcome.
    pub(crate) fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().unwrap_or(&Outcome::Dropped)
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
        write!(f, "{} {}", self.route, self.outcome())
    }
}

impl fmt::Debug for RouteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteReport")
            .field("route", &self.route)
            .field("outcome", self.outcome())
            .finish()
    }
}
