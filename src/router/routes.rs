use std::collections::HashMap;
use std::sync::Arc;

use super::future::{RouterFuture, Run, Runs};
use super::handler::Handler;
use super::route::{Matcher, Route};
use super::run_timeout::RunTimeout;
use super::table::{Found, Index, Table};
use crate::catch_panic::catch_panic;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, EventType};
use crate::outcome::{AttemptState, Outcome, RouteOptions, SkipReason};
use crate::telemetry::RouteSpan;

/// The routes of a router, and the table that finds them.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    /// The routes in the order of registration. The table refers to a route by its index.
    routes: Vec<Registered>,
    /// The number of routes of each name.
    names: HashMap<Arc<str>, usize>,
    /// The number of routes that repeat the name of an earlier route.
    clashes: usize,
    table: Table,
    fallback: Option<Index>,
}

#[derive(Clone, Debug)]
struct Registered {
    route: Route,
    handler: Arc<dyn Handler>,
}

impl Routes {
    /// Adds a route. The name of the new route may equal another route's name until the router is
    /// used.
    pub(super) fn push(&mut self, route: Route, handler: Arc<dyn Handler>) -> Result<(), Error> {
        let index = Index::try_from(self.routes.len()).map_err(|_| {
            Error::new(
                ErrorKind::Route,
                "a router has at most 4,294,967,296 routes",
            )
        })?;
        match &route.matcher {
            Matcher::Pattern(pattern) => self.table.insert(pattern, index),
            Matcher::Any => self.table.insert_observer(index),
            Matcher::Fallback => self.set_fallback(&route, index)?,
        }
        self.add_name(Arc::clone(&route.name));
        self.routes.push(Registered { route, handler });
        Ok(())
    }

    fn set_fallback(&mut self, route: &Route, index: Index) -> Result<(), Error> {
        match self.fallback.replace(index) {
            None => Ok(()),
            Some(first) => {
                let (first, second) = (self.routes[first as usize].route.location, route.location);
                let text = format!("a router has at most one fallback: see {first} and {second}");
                Err(Error::new(ErrorKind::Route, text))
            }
        }
    }

    /// Adds the routes of another router.
    pub(super) fn extend(&mut self, other: &Self) -> Result<(), Error> {
        for Registered { route, handler } in &other.routes {
            self.push(route.clone(), Arc::clone(handler))?;
        }
        Ok(())
    }

    /// Renames the last route, or returns `false` if there is none.
    pub(super) fn rename_last(&mut self, name: Arc<str>) -> bool {
        let Some(last) = self.routes.last_mut() else {
            return false;
        };
        let old = std::mem::replace(&mut last.route.name, Arc::clone(&name));
        self.remove_name(&old);
        self.add_name(name);
        true
    }

    /// Changes the options of the last route, or returns `false` if there is none.
    pub(super) fn set_last_option(&mut self, set: impl FnOnce(&mut RouteOptions)) -> bool {
        let last = self.routes.last_mut();
        last.map(|last| set(last.route.options_mut())).is_some()
    }

    /// Returns whether a route has options.
    pub(super) fn have_options(&self) -> bool {
        self.iter().any(|route| route.options.is_some())
    }

    fn add_name(&mut self, name: Arc<str>) {
        let count = self.names.entry(name).or_default();
        *count += 1;
        self.clashes += usize::from(*count > 1);
    }

    fn remove_name(&mut self, name: &str) {
        if let Some(count) = self.names.get_mut(name) {
            *count -= 1;
            self.clashes -= usize::from(*count > 0);
        }
    }

    /// Checks that no two routes have the same name.
    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.clashes == 0 {
            return Ok(());
        }
        let mut seen = HashMap::new();
        for route in self.iter() {
            if let Some(first) = seen.insert(route.name(), route.location) {
                let (name, second) = (route.name(), route.location);
                let text = format!(
                    "two routes are named {name:?}, at {first} and at {second}: rename one of them with `.named(…)` right after it"
                );
                return Err(Error::new(ErrorKind::Route, text));
            }
        }
        Ok(())
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.routes.iter().map(|registered| &registered.route)
    }

    /// Returns the routes that an event of this type runs.
    pub(super) fn matching(&self, event_type: &EventType) -> Vec<&Route> {
        self.table.find(event_type, |found| {
            self.selected(found).map(|each| &each.route).collect()
        })
    }

    /// Returns whether an event of this type matches a route other than an observer.
    pub(super) fn matches(&self, event_type: &EventType) -> bool {
        self.fallback.is_some() || self.table.find(event_type, |found| found.matched)
    }

    /// Adds the fallback to the found routes if no other route matches.
    fn selected(&self, found: &Found) -> impl Iterator<Item = &Registered> + Clone {
        let fallback = self.fallback.filter(|_| !found.matched);
        found
            .routes
            .iter()
            .copied()
            .chain(fallback)
            .map(|index| &self.routes[index as usize])
    }

    /// Starts the handlers of an event.
    ///
    /// # Panics
    ///
    /// Panics if two routes have the same name. If layers hide the router from the inbox, this call
    /// is the first check.
    pub(super) fn run(&self, event: &Event) -> RouterFuture {
        if self.clashes > 0
            && let Err(error) = self.validate()
        {
            panic!("{error}");
        }
        self.table
            .find(event.event_type(), |found| self.run_found(found, event))
    }

    fn run_found(&self, found: &Found, event: &Event) -> RouterFuture {
        let attempt_state = match event.attempt_state() {
            Some(attempt_state) => Arc::clone(attempt_state),
            None => Arc::new(AttemptState::first()),
        };
        let matched = found.matched || self.fallback.is_some();
        let selected = self.selected(found);
        if attempt_state.is_selective() {
            let wanted: Vec<_> = selected
                .filter(|each| attempt_state.wants(&each.route.name))
                .collect();
            start(attempt_state, wanted.into_iter(), matched, event)
        } else {
            start(attempt_state, selected, matched, event)
        }
    }
}

impl Registered {
    fn name_and_options(&self) -> (&Arc<str>, Option<&Arc<RouteOptions>>) {
        (&self.route.name, self.route.options.as_ref())
    }

    /// Returns the route's own timeout, if it has one.
    #[inline]
    fn timeout(&self, attempt_state: &AttemptState) -> Option<Box<RunTimeout>> {
        let timeout = self.route.options.as_ref()?.timeout?;
        let clock = attempt_state.clock().clone();
        Some(Box::new(RunTimeout::new(timeout, clock)))
    }

    /// Returns why the route doesn't run in this attempt, if an option decides so.
    #[inline]
    fn skips(&self, event: &Event, attempt_state: &AttemptState) -> Option<SkipReason> {
        let options = self.route.options.as_ref()?;
        options.skips(|| event.age(attempt_state.clock().now()))
    }
}

fn start<'a>(
    attempt_state: Arc<AttemptState>,
    routes: impl Iterator<Item = &'a Registered> + Clone,
    matched: bool,
    event: &Event,
) -> RouterFuture {
    let run = attempt_state.start(routes.clone().map(Registered::name_and_options), matched);
    let expired = attempt_state.is_expired();
    let runs = routes.enumerate().filter_map(|(index, each)| {
        let span = RouteSpan::open(&each.route.name);
        let started = match each.skips(event, &attempt_state) {
            _ if expired => Err(Outcome::TimedOut),
            Some(reason) => Err(Outcome::Skipped(reason)),
            None => span
                .in_scope(|| catch_panic(|| each.handler.run(event.clone())))
                .map_err(Outcome::Panicked),
        };
        started
            .map(|future| Run::new(index, span, future, each.timeout(&attempt_state)))
            .map_err(|outcome| attempt_state.record(run, index, outcome))
            .ok()
    });
    let runs = Runs::start(runs);
    RouterFuture::new(attempt_state, run, runs)
}
