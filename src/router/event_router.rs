use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use super::future::{RouterFuture, Run, Runs};
use super::handler::{Handler, Typed};
use super::pattern::Pattern;
use super::route::{Route, Takes};
use super::table::{Found, Index, Table};
use crate::catch_panic::catch_panic;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, EventType, Payload};
use crate::outcome::{AttemptState, IntoOutcome, Outcome, Report};
use crate::telemetry;

/// Runs the closures that are registered for an event.
///
/// A handler is an async function or closure that takes an [`Event`] or an `Event<T>`, and returns
/// `()` or a `Result<(), E>`; see [`IntoOutcome`]. Each run gets a clone of what the closure
/// captured, so `move |event| async move { db… }` is fine.
///
/// # Which handlers run
///
/// A name is split at its dots into segments, which are compared whole: `stream` has nothing to do
/// with `stream_report.created`. An empty segment is a segment like every other.
///
/// | registered with | takes |
/// |---|---|
/// | `on("a.b")` | the event type `a.b` |
/// | `on("a.b.*")` | what is below `a.b`: that and one or more further segments |
/// | `on_prefix("a.b")` | both, `a.b` and what is below it |
/// | `on_any` | every event |
/// | `fallback` | what no other takes, `on_any` aside |
///
/// All handlers that take an event run, at the same time. None can hurt another, whatever it does:
/// an error, a panic, a payload that doesn't fit is that route's own [`Outcome`] in the [`Report`].
/// Two things can't be caught: a handler that blocks its thread holds up whatever else runs there
/// (use `spawn_blocking`), and with `panic = "abort"` a panic ends the process, as does a second
/// panic while the first one unwinds.
///
/// Finding the handlers takes the same time among ten as among ten thousand.
///
/// # As a service
///
/// It is a tower [`Service`] of events, always ready, that never fails. Layers of tower fit around
/// it: a timeout, a concurrency limit, tracing. [`MemoryInbox::new`](crate::MemoryInbox) takes the
/// result. A service that calls several routers needs names that differ among them all: a route is
/// known by its name.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{Event, EventRouter, HandlerError};
///
/// #[derive(serde::Deserialize)]
/// struct Stream { title: String }
///
/// let router = EventRouter::new()
///     // Is it `….started`, `….started.twitch`, or both? The specification doesn't say.
///     // A prefix takes whichever comes, and runs twice if both do.
///     .on_prefix("connection.stream.started", |event: Event<Stream>| async move {
///         if event.data().title.is_empty() {
///             return Err(HandlerError::permanent("a stream without a title"));
///         }
///         Ok(())
///     })
///     .on("account.*", |event: Event| async move { println!("{}", event.event_type()) })
///     .on_any(|event: Event| async move { println!("{event:?}") })
///     .fallback(|event: Event| async move { println!("who waits for {}?", event.id()) });
///
/// println!("{router}");
/// assert_eq!(router.matching_routes("connection.stream.started.twitch").len(), 2);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EventRouter {
    inner: Arc<Inner>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// In the order of registration; an index in the table is a place in here.
    routes: Vec<Registered>,
    names: HashSet<Arc<str>>,
    table: Table,
    fallback: Option<Index>,
}

#[derive(Clone, Debug)]
struct Registered {
    route: Route,
    handler: Arc<dyn Handler>,
}

impl EventRouter {
    /// Returns a router without routes, for which every event is unhandled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a handler for one event type, `a.b`, or for all below one, `a.b.*`.
    ///
    /// The event type may be a text or an [`EventType`]. A pattern that no documented event type
    /// matches is a typo or an event type newer than this crate: it works, and is warned of and
    /// marked in the route table.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{Event, EventRouter, EventType, HandlerResult};
    ///
    /// async fn refresh(event: Event) -> HandlerResult {
    ///     let _ = event.raw_data();
    ///     Ok(())
    /// }
    ///
    /// let router = EventRouter::new()
    ///     .on("account.updated", refresh).named("refresh")
    ///     .on("account.updated", |_: Event| async {})
    ///     .on(EventType::PollCreated, refresh);
    /// # let _ = router;
    /// ```
    ///
    /// # Panics
    ///
    /// If the pattern is malformed, as [`Pattern::new`] says, or if two routes have the same name.
    ///
    /// ```should_panic
    /// # use botisimo_webhooks::{Event, EventRouter};
    /// let _ = EventRouter::new().on("account.*.twitch", |_: Event| async {});
    /// ```
    #[track_caller]
    pub fn on<P, T, H, Fut>(self, pattern: P, handler: H) -> Self
    where
        P: TryInto<Pattern, Error: Into<Error>>,
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        or_panic(self.try_on(pattern, handler))
    }

    /// Registers a handler for one event type and for all below it: `on_prefix("a.b")` takes `a.b`,
    /// `a.b.c` and `a.b.c.d`.
    ///
    /// This is what most handlers of streams want: the specification doesn't say whether the start
    /// of a stream sends `connection.stream.started`, `connection.stream.started.twitch` or
    /// both. If both are sent, the handler runs for each.
    ///
    /// # Panics
    ///
    /// If the prefix is malformed, as [`Pattern::prefix`] says, or if two routes have the same
    /// name.
    #[track_caller]
    pub fn on_prefix<T, H, Fut>(self, prefix: impl AsRef<str>, handler: H) -> Self
    where
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        or_panic(Pattern::prefix(prefix.as_ref()).and_then(|pattern| self.try_on(pattern, handler)))
    }

    /// Registers a handler, like [`on`](EventRouter::on), for patterns that aren't known when the
    /// program is written.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pattern`] if the pattern is malformed, [`ErrorKind::Route`] if two routes have
    /// the same name. The router is gone then; keep a clone if it is needed.
    pub fn try_on<P, T, H, Fut>(self, pattern: P, handler: H) -> Result<Self, Error>
    where
        P: TryInto<Pattern, Error: Into<Error>>,
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        let pattern = pattern.try_into().map_err(Into::into)?;
        self.add(Takes::Pattern(pattern), Typed::new(handler))
    }

    /// Registers a handler that observes every event, named `*`.
    ///
    /// It doesn't count as a match: [`fallback`](EventRouter::fallback) runs all the same, and the
    /// event still counts as unhandled if no other route takes it.
    ///
    /// # Panics
    ///
    /// If two routes have the same name.
    #[track_caller]
    pub fn on_any<T, H, Fut>(self, handler: H) -> Self
    where
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        or_panic(self.add(Takes::Any, Typed::new(handler)))
    }

    /// Registers the handler, named `fallback`, of the events that no other route takes; those of
    /// [`on_any`](EventRouter::on_any) aside.
    ///
    /// # Panics
    ///
    /// If the router has a fallback, or another route of that name.
    #[track_caller]
    pub fn fallback<T, H, Fut>(self, handler: H) -> Self
    where
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        or_panic(self.add(Takes::Rest, Typed::new(handler)))
    }

    /// Renames the route that was added last. Without it a route's name is its pattern, so a second
    /// route of the same pattern needs a name: name the first one, then add the second.
    ///
    /// A name stands in reports and logs, and it is what a durable inbox remembers a route by.
    ///
    /// # Panics
    ///
    /// If the router has no route, or another one of that name.
    #[track_caller]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        let Some(last) = inner.routes.last_mut() else {
            panic!("`named` renames the route added last: add one first")
        };
        let name = name.into();
        inner.names.remove(&last.route.name);
        last.route.name = Arc::clone(&name);
        or_panic(inner.claim(&name));
        self
    }

    /// Adds the routes of another router after those of this one.
    ///
    /// # Panics
    ///
    /// If both have a route of the same name, or both a fallback.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value)] // a builder's other half is used up, like the first
    pub fn merge(mut self, other: Self) -> Self {
        let inner = Arc::make_mut(&mut self.inner);
        for registered in &other.inner.routes {
            or_panic(inner.push(registered.clone()));
        }
        self
    }

    /// Returns all routes, in the order of their registration.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.inner.routes.iter().map(|registered| &registered.route)
    }

    /// Returns the routes that an event of this type runs, in the order of their registration.
    ///
    /// # Examples
    ///
    /// ```
    /// # use botisimo_webhooks::{Event, EventRouter};
    /// # async fn handler(_: Event) {}
    /// let router = EventRouter::new().on("account.*", handler).on_any(handler).fallback(handler);
    ///
    /// let names: Vec<_> = router.matching_routes("account.updated").iter().map(|route| route.name()).collect();
    /// assert_eq!(names, ["account.*", "*"]);
    /// let names: Vec<_> = router.matching_routes("account").iter().map(|route| route.name()).collect();
    /// assert_eq!(names, ["*", "fallback"]);
    /// ```
    #[must_use]
    pub fn matching_routes(&self, event_type: impl Into<EventType>) -> Vec<&Route> {
        let inner = &self.inner;
        inner.table.find(&event_type.into(), |found| {
            inner.taken(found).map(|each| &each.route).collect()
        })
    }

    /// Returns whether a route takes an event of this type; those of
    /// [`on_any`](EventRouter::on_any) aside.
    #[must_use]
    pub fn matches(&self, event_type: &EventType) -> bool {
        self.inner.fallback.is_some() || self.inner.table.find(event_type, |found| found.matched)
    }

    fn add(mut self, takes: Takes, handler: impl Handler + 'static) -> Result<Self, Error> {
        let name = Arc::from(takes.to_string());
        let route = Route { name, takes };
        if route.is_suspect() {
            telemetry::undocumented_pattern(&route.name);
        }
        Arc::make_mut(&mut self.inner).push(Registered {
            route,
            handler: Arc::new(handler),
        })?;
        Ok(self)
    }
}

impl Inner {
    fn push(&mut self, registered: Registered) -> Result<(), Error> {
        let index = Index::try_from(self.routes.len()).map_err(|_| {
            Error::new(
                ErrorKind::Route,
                "a router has room for 4,294,967,296 routes",
            )
        })?;
        let route = &registered.route;
        if route.is_fallback() && self.fallback.is_some() {
            return Err(Error::new(
                ErrorKind::Route,
                "a router has one fallback, and this one has it already",
            ));
        }
        self.claim(&route.name)?;
        match &route.takes {
            Takes::Pattern(pattern) => self.table.insert(pattern, index),
            Takes::Any => self.table.insert_observer(index),
            Takes::Rest => self.fallback = Some(index),
        }
        self.routes.push(registered);
        Ok(())
    }

    fn claim(&mut self, name: &Arc<str>) -> Result<(), Error> {
        if self.names.insert(Arc::clone(name)) {
            return Ok(());
        }
        let text = format!(
            "there is a route named {name:?} already: give that one another name, by `.named(…)` right after it"
        );
        Err(Error::new(ErrorKind::Route, text))
    }

    /// Returns the routes that run, out of those that were found.
    fn taken(&self, found: &Found) -> impl Iterator<Item = &Registered> + Clone {
        let fallback = self.fallback.filter(|_| !found.matched);
        found
            .routes
            .iter()
            .copied()
            .chain(fallback)
            .map(|index| &self.routes[index as usize])
    }

    /// Starts the handlers of an event.
    fn run(&self, found: &Found, event: &Event) -> RouterFuture {
        let attempt_state = match event.attempt_state() {
            Some(attempt_state) => Arc::clone(attempt_state),
            None => Arc::new(AttemptState::first()),
        };
        let matched = found.matched || self.fallback.is_some();
        let taken = self.taken(found);
        if attempt_state.is_selective() {
            let wanted: Vec<_> = taken
                .filter(|each| attempt_state.wants(&each.route.name))
                .collect();
            start(attempt_state, wanted.into_iter(), matched, event)
        } else {
            start(attempt_state, taken, matched, event)
        }
    }
}

fn start<'a>(
    attempt_state: Arc<AttemptState>,
    routes: impl Iterator<Item = &'a Registered> + Clone,
    matched: bool,
    event: &Event,
) -> RouterFuture {
    let run = attempt_state.start(routes.clone().map(|each| &each.route.name), matched);
    let expired = attempt_state.is_expired();
    let runs = routes.enumerate().filter_map(|(index, each)| {
        let started = match expired {
            true => Err(Outcome::TimedOut),
            false => catch_panic(|| each.handler.run(event.clone())).map_err(Outcome::Panicked),
        };
        started
            .map(|future| Run::new(index, future))
            .map_err(|outcome| attempt_state.record(run, index, outcome))
            .ok()
    });
    let runs = Runs::start(runs);
    RouterFuture::new(attempt_state, run, runs)
}

impl Service<Event> for EventRouter {
    type Response = Report;
    type Error = Infallible;
    type Future = RouterFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: Event) -> RouterFuture {
        self.inner
            .table
            .find(event.event_type(), |found| self.inner.run(found, &event))
    }
}

/// Writes the route table: a line a route.
impl fmt::Display for EventRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, route) in self.routes().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            let mark = if route.is_suspect() {
                "  (no documented event type)"
            } else {
                ""
            };
            write!(f, "{newline}{route}{mark}")?;
        }
        Ok(())
    }
}

/// The panicking edge over a fallible core: names the line of the user that called it.
#[track_caller]
fn or_panic<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}
