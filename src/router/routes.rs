use std::collections::HashMap;
use std::sync::Arc;

use super::future::{RouterFuture, Run, Runs};
use super::handler::Handler;
use super::once_per::OncePer;
use super::route::{Matcher, Route};
use super::run_options::RunOptions;
use super::run_timeout::RunTimeout;
use super::table::{Found, Index, Table};
use crate::catch_panic::catch_panic;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, EventType};
use crate::outcome::{AttemptState, Outcome, Permission, RouteOptions, RunPermit, SkipReason};
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
    /// Whether a route may have to wait before it runs.
    pub(super) have_limits: bool,
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
        self.have_limits |= route.has_limits();
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
        let Some(last) = self.routes.last_mut() else {
            return false;
        };
        set(last.route.options_mut());
        self.have_limits |= last.route.has_limits();
        true
    }

    /// Sets the key by which the last route runs once, or returns `false` if there is none.
    pub(super) fn set_last_once_per(&mut self, once_per: OncePer) -> bool {
        let Some(last) = self.routes.last_mut() else {
            return false;
        };
        last.route.once_per = Some(Arc::new(once_per));
        // The route also needs a clock, as every route with options does.
        last.route.options_mut();
        self.have_limits = true;
        true
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
        if self.have_limits || attempt_state.is_selective() {
            let wanted = selected.filter(|each| attempt_state.wants(&each.route.name));
            let decided =
                wanted.filter_map(|each| Some((each, each.decide(event, &attempt_state)?)));
            let (routes, decisions): (Vec<_>, Vec<_>) = decided.unzip();
            start(
                attempt_state,
                routes.into_iter(),
                decisions.into_iter(),
                matched,
                event,
            )
        } else {
            let state = Arc::clone(&attempt_state);
            let decisions = selected.clone().map(|each| each.skips(event, &state));
            let decisions = decisions.map(|skip| skip.map_or(Ok(None), Err));
            start(attempt_state, selected, decisions, matched, event)
        }
    }
}

/// Whether a route runs, and the permit of a route with limits.
type RunDecision = Result<Option<RunPermit>, SkipReason>;

impl Registered {
    fn name_and_options(&self) -> (&Arc<str>, Option<&Arc<RouteOptions>>) {
        (&self.route.name, self.route.options.as_ref())
    }

    /// Returns what the options add to a run, if anything.
    #[inline]
    fn run_options(
        &self,
        permit: Option<RunPermit>,
        attempt_state: &Arc<AttemptState>,
    ) -> Option<Box<RunOptions>> {
        let options = self.route.options.as_ref()?;
        let clock = || attempt_state.clock().clone();
        let timeout = options.timeout;
        let timeout = timeout.map(|timeout| RunTimeout::new(timeout, clock()));
        if timeout.is_none() && permit.is_none() {
            return None;
        }
        let attempt_state = Arc::clone(attempt_state);
        Some(Box::new(RunOptions::new(timeout, permit, attempt_state)))
    }

    /// Returns why the route doesn't run in this attempt, if an option decides so.
    #[inline]
    fn skips(&self, event: &Event, attempt_state: &AttemptState) -> Option<SkipReason> {
        let options = self.route.options.as_ref()?;
        options.skips(|| event.age(attempt_state.clock().now()))
    }

    /// Decides whether the route runs. Returns `None` if the route waits for its limits.
    fn decide(&self, event: &Event, attempt_state: &AttemptState) -> Option<RunDecision> {
        if let Some(reason) = self.skips(event, attempt_state) {
            return Some(Err(reason));
        }
        let route = &self.route;
        let (Some(number), Some(options), true, false) = (
            attempt_state.limited_event(),
            route.options.as_ref(),
            route.has_limits(),
            attempt_state.is_expired(),
        ) else {
            return Some(Ok(None));
        };
        let once_per = route.once_per.as_ref();
        let key = once_per.and_then(|once_per| once_per.key(&route.name, event, number));
        match attempt_state.decide(&route.name, options, key)? {
            Permission::Run(permit) => Some(Ok(Some(permit))),
            Permission::Skip(reason) => Some(Err(reason)),
            Permission::Postpone => None,
        }
    }
}

fn start<'a>(
    attempt_state: Arc<AttemptState>,
    routes: impl Iterator<Item = &'a Registered> + Clone,
    decisions: impl Iterator<Item = RunDecision>,
    matched: bool,
    event: &Event,
) -> RouterFuture {
    let run = attempt_state.start(routes.clone().map(Registered::name_and_options), matched);
    let expired = attempt_state.is_expired();
    let runs = routes.zip(decisions).enumerate();
    let runs = runs.filter_map(|(index, (each, decision))| {
        let span = RouteSpan::open(&each.route.name);
        let started = match decision {
            _ if expired => Err(Outcome::TimedOut),
            Err(reason) => Err(Outcome::Skipped(reason)),
            Ok(permit) => span
                .in_scope(|| catch_panic(|| each.handler.run(event.for_route(&each.route.name))))
                .map(|future| (future, permit))
                .map_err(Outcome::Panicked),
        };
        started
            .map(|(future, permit)| {
                let options = each.run_options(permit, &attempt_state);
                Run::new(index, span, future, options)
            })
            .map_err(|outcome| attempt_state.record(run, index, outcome))
            .ok()
    });
    let runs = Runs::start(runs);
    RouterFuture::new(attempt_state, run, runs)
}
