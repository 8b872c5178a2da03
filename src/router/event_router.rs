use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_service::Service;

use super::future::RouterFuture;
use super::handler::{Handler, Typed};
use super::once_per::OncePer;
use super::pattern::Pattern;
use super::route::{Matcher, Route};
use super::routes::Routes;
use crate::error::Error;
use crate::event::{Event, EventType, Payload};
use crate::outcome::{IntoOutcome, Report, RetryPolicy, RouteOptions};
use crate::telemetry::{self, Metrics};

/// Runs the handlers that are registered for an event's type.
///
/// A handler is an async function or closure that takes an [`Event`] or an `Event<T>`, and returns
/// `()` or a `Result<(), E>` (see [`IntoOutcome`]). Each run gets a clone of the closure's captured
/// values, so `move |event| async move { db… }` works.
///
/// # Matching
///
/// The dots of an event type separate segments. Segments are compared whole: `stream` doesn't match
/// `stream_report.created`. Empty segments are compared like any other.
///
/// | registered with | matches |
/// |---|---|
/// | `on("a.b")` | the event type `a.b` |
/// | `on("a.b.*")` | event types below `a.b`, with one or more further segments |
/// | `on_prefix("a.b")` | `a.b` and event types below it |
/// | `on_any` | every event |
/// | `fallback` | every event that matches no route other than `on_any` routes |
///
/// All matching handlers run concurrently. A handler affects only its own route: an error, a panic
/// or a payload that doesn't fit becomes the route's [`Outcome`](crate::Outcome) in the [`Report`].
/// Two cases can't be isolated. A handler that blocks its thread delays other tasks on that thread,
/// so use `spawn_blocking` for blocking work. With `panic = "abort"`, a panic ends the process. A
/// second panic during unwinding always ends the process.
///
/// Finding the routes of an event takes the same time with ten routes as with ten thousand.
///
/// # Names
///
/// The name of a route is its pattern, unless [`named`](EventRouter::named) sets another. Reports and logs contain the
/// name, and a durable inbox stores the name to remember which routes have finished. So names must be unique when the
/// router is used. If two routes have the same name, the constructor of an inbox, a layer or an endpoint panics. A
/// constructor that returns a `Result` returns an error instead. If layers hide the router from the inbox, duplicate
/// names are found only when the router is called, and each call panics.
///
/// # As a service
///
/// The router is a tower [`Service`] of events that is always ready and never fails. Wrap the
/// router in tower layers, for example a timeout or a concurrency limit, and pass the service to
/// [`MemoryInbox::new`](crate::MemoryInbox). If a service calls several routers, route names must
/// be unique across all of them.
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
///     // The specification doesn't say whether `….started`, `….started.twitch` or both are sent.
///     // A prefix matches both. If both are sent, the handler runs twice.
///     .on_prefix("connection.stream.started", |event: Event<Stream>| async move {
///         if event.data().title.is_empty() {
///             return Err(HandlerError::permanent("a stream without a title"));
///         }
///         Ok(())
///     })
///     .on("account.*", |event: Event| async move { println!("{}", event.event_type()) })
///     .on_any(|event: Event| async move { println!("{event:?}") })
///     .fallback(|event: Event| async move { println!("no route for {}", event.id()) });
///
/// println!("{router}");
/// assert_eq!(router.matching_routes("connection.stream.started.twitch").len(), 2);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EventRouter {
    routes: Arc<Routes>,
}

impl EventRouter {
    /// Returns a router without routes, which leaves every event unhandled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a handler for one event type (`a.b`) or for the event types below it (`a.b.*`).
    ///
    /// The pattern is a string or an [`EventType`]. A pattern that matches no documented event type
    /// is a typo, or newer than this crate. The route still works, but the router logs a warning and
    /// the route table marks the route. If a documented event type is similar, the warning and the
    /// table suggest it.
    ///
    /// # Panics
    ///
    /// Panics if the pattern is malformed. To get an error instead, for example for a pattern from a configuration, pass
    /// the result of [`Pattern::new`].
    ///
    /// ```should_panic
    /// # use botisimo_webhooks::{Event, EventRouter};
    /// let _ = EventRouter::new().on("account.*.twitch", |_: Event| async {});
    /// ```
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
    ///     .on(EventType::PollCreated, refresh)
    ///     .on("account.updated", refresh)
    ///     // A second route with the same pattern needs a name.
    ///     .on("account.updated", |_: Event| async {}).named("audit");
    /// # let _ = router;
    /// ```
    #[track_caller]
    pub fn on<P, T, H, Fut>(self, pattern: P, handler: H) -> Self
    where
        P: TryInto<Pattern, Error: Into<Error>>,
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        let pattern = or_panic(pattern.try_into().map_err(Into::into));
        self.add(Matcher::Pattern(pattern), Typed::new(handler))
    }

    /// Registers a handler for one event type and the event types below it.
    ///
    /// `on_prefix("a.b")` matches `a.b`, `a.b.c` and `a.b.c.d`. Most handlers of streams need a
    /// prefix: the specification doesn't say whether the start of a stream sends
    /// `connection.stream.started`, `connection.stream.started.twitch` or both. If both are sent, the
    /// handler runs twice.
    ///
    /// # Panics
    ///
    /// Panics if the prefix is malformed (see [`Pattern::prefix`]).
    #[track_caller]
    pub fn on_prefix<T, H, Fut>(self, prefix: impl AsRef<str>, handler: H) -> Self
    where
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        let pattern = or_panic(Pattern::prefix(prefix.as_ref()));
        self.add(Matcher::Pattern(pattern), Typed::new(handler))
    }

    /// Registers a handler that observes every event. The handler's route is named `*`.
    ///
    /// The route doesn't count as a match. If an event matches no other route, the
    /// [`fallback`](EventRouter::fallback) still runs. Without a fallback, the event counts as
    /// unhandled.
    #[track_caller]
    pub fn on_any<T, H, Fut>(self, handler: H) -> Self
    where
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        self.add(Matcher::Any, Typed::new(handler))
    }

    /// Registers the handler for events that match no route other than
    /// [`on_any`](EventRouter::on_any) routes. The handler's route is named `fallback`.
    ///
    /// # Panics
    ///
    /// Panics if the router already has a fallback.
    #[track_caller]
    pub fn fallback<T, H, Fut>(self, handler: H) -> Self
    where
        T: Payload + 'static,
        H: FnOnce(Event<T>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output: IntoOutcome> + Send + 'static,
    {
        self.add(Matcher::Fallback, Typed::new(handler))
    }

    /// Renames the last added route.
    ///
    /// See [Names](EventRouter#names). For a durable inbox, a renamed route is a new route. If an
    /// event is retried after the renaming, the route runs again.
    ///
    /// # Panics
    ///
    /// Panics if the router has no route.
    #[track_caller]
    pub fn named(mut self, name: impl Into<Arc<str>>) -> Self {
        let renamed = Arc::make_mut(&mut self.routes).rename_last(name.into());
        assert_route(renamed, "named");
        self
    }

    /// Skips events that are older than `age` when an attempt of the last added route starts.
    ///
    /// A skipped route doesn't run and ends as [`Outcome::Skipped`](crate::Outcome::Skipped) with the reason
    /// [`Stale`](crate::SkipReason::Stale). The skip isn't a failure: the inbox neither retries the route nor stores a
    /// dead letter for it. Other routes of the event aren't affected.
    ///
    /// The limit also bounds retries. If the next attempt would start too late, the route ends as stale after the failed
    /// attempt. Its [`RouteResult`](crate::RouteResult) keeps the handler's last error. The inbox checks a replay too: to run a
    /// stale event again, remove the option or raise the limit.
    ///
    /// The age is the difference between the runtime's system time and [`Event::timestamp`], in milliseconds. An event of
    /// exactly this age still runs. The sender's clock may differ from this machine's clock:
    ///
    /// - If the sender's clock is behind by a minute, an event counts as a minute older.
    /// - If the sender's clock is ahead, so that the timestamp is after [`Event::received_at`], the age counts from the
    ///   receipt.
    ///
    /// By default, a route runs events of any age.
    ///
    /// # Panics
    ///
    /// Panics if the router has no route.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use botisimo_webhooks::{Event, EventRouter};
    ///
    /// let router = EventRouter::new()
    ///     .on_prefix("connection.stream.started", |_: Event| async { /* post to the chat */ })
    ///     .named("announce")
    ///     .fresh_within(Duration::from_secs(600))
    ///     // This route gets every event.
    ///     .on_any(|_: Event| async { /* write to the archive */ });
    /// # let _ = router;
    /// ```
    #[track_caller]
    pub fn fresh_within(self, age: Duration) -> Self {
        self.set_option("fresh_within", |options| options.fresh_within = Some(age))
    }

    /// Sets the number of attempts of the last added route. 0 counts as 1.
    ///
    /// The delays follow the route's [`retry`](EventRouter::retry) policy, or the policy of the inbox. By default, the
    /// policy sets the number of attempts.
    ///
    /// # Panics
    ///
    /// Panics if the router has no route.
    ///
    /// # Examples
    ///
    /// ```
    /// # use botisimo_webhooks::{Event, EventRouter};
    /// # async fn post(_: Event) {}
    /// # async fn store(_: Event) {}
    /// let router = EventRouter::new()
    ///     // A chat message that may have been posted isn't posted again.
    ///     .on("poll.created", post).named("post").max_attempts(1)
    ///     .on_any(store);
    /// # let _ = router;
    /// ```
    #[track_caller]
    pub fn max_attempts(self, attempts: u32) -> Self {
        self.set_option("max_attempts", |options| {
            options.max_attempts = Some(attempts);
        })
    }

    /// Sets when failures of the last added route are retried. By default, the policy of
    /// [`DeliverySettings::retry`](crate::DeliverySettings::retry) applies.
    ///
    /// Each route with options has its own delays and its own number of attempts. An attempt at an event runs the routes
    /// that are due. If another route of the event is retried earlier, the route doesn't run early. A route that has used up
    /// its attempts has failed, and the other routes are still retried. Once every route has ended, the event becomes a dead
    /// letter.
    ///
    /// [`Event::attempt`] counts the attempts at the event, so it may be above the route's number of attempts. On JetStream, each
    /// route counts its own attempts.
    ///
    /// A delay counts from the end of the attempt. Time that the event waits for a worker is added, so a route may run later,
    /// but never earlier. During a [`drain`](crate::Handle::drain), a memory inbox makes the remaining attempts without delay.
    ///
    /// # Panics
    ///
    /// Panics if the router has no route.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use botisimo_webhooks::{Event, EventRouter, RetryPolicy};
    ///
    /// # async fn call_api(_: Event) {}
    /// # async fn store(_: Event) {}
    /// let many = RetryPolicy::new().max_attempts(40).max_delay(Duration::from_secs(3600));
    /// let router = EventRouter::new()
    ///     .on("account.updated", call_api).named("crm").retry(many)
    ///     .on("account.updated", store);
    /// # let _ = router;
    /// ```
    #[track_caller]
    pub fn retry(self, policy: RetryPolicy) -> Self {
        self.set_option("retry", |options| options.retry = Some(policy))
    }

    /// Sets how long the handler of the last added route may run in one attempt. By default,
    /// [`attempt_timeout`](crate::DeliverySettings::attempt_timeout) applies.
    ///
    /// The timeout may be shorter or longer than `attempt_timeout`. If the handler is still running at the timeout, it is
    /// dropped, and the route's outcome is [timed out](crate::Outcome::TimedOut). Other routes aren't affected, but an attempt
    /// ends only when all its routes have ended, and the event occupies its worker until then.
    ///
    /// A router that is called without an inbox has no timers, so the timeout doesn't apply.
    ///
    /// # Panics
    ///
    /// Panics if the router has no route.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use botisimo_webhooks::{Event, EventRouter};
    ///
    /// # async fn encode(_: Event) {}
    /// # async fn store(_: Event) {}
    /// let router = EventRouter::new()
    ///     .on("video.created", encode).named("encode").timeout(Duration::from_secs(600))
    ///     .on("video.created", store).timeout(Duration::from_secs(2));
    /// # let _ = router;
    /// ```
    #[track_caller]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.set_option("timeout", |options| options.timeout = Some(timeout))
    }

    /// Limits how many handlers of the last added route run at once in this inbox. 0 counts as 1.
    ///
    /// If the limit is reached, further events wait for this route in the order of their attempts. A waiting event occupies
    /// no worker, so the event's other routes and other events aren't delayed. The wait counts neither as an attempt nor as
    /// part of a timeout, but a waiting event counts against the limits of the inbox.
    ///
    /// The limit of the inbox, [`DeliverySettings::concurrency`](crate::DeliverySettings::concurrency), counts events and
    /// applies too. By default, only the limit of the inbox applies. On JetStream, the limit replaces the worker's
    /// concurrency for this route, and each worker has its own limit.
    ///
    /// A router that is called without an inbox doesn't apply the limit.
    ///
    /// # Panics
    ///
    /// Panics if the router has no route.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{Event, EventRouter};
    ///
    /// # async fn call_api(_: Event) {}
    /// # async fn store(_: Event) {}
    /// let router = EventRouter::new()
    ///     // The API allows two requests at once.
    ///     .on("account.updated", call_api).named("crm").concurrency(2)
    ///     .on("account.updated", store);
    /// # let _ = router;
    /// ```
    #[track_caller]
    pub fn concurrency(self, handlers: usize) -> Self {
        self.set_option("concurrency", |options| {
            options.concurrency = Some(handlers.max(1));
        })
    }

    /// Runs the last added route once for all events with the same key that the inbox accepts within `window`.
    ///
    /// Once the route has handled an event, it skips the other events with the event's key: their
    /// [`received_at`](Event::received_at) differs from the handled event's by at most `window`, before or after it, in
    /// milliseconds. A skipped route ends as [`Outcome::Skipped`](crate::Outcome::Skipped) with the reason
    /// [`Duplicate`](crate::SkipReason::Duplicate). The type of the event doesn't matter, so events of different types may
    /// share a key. Other routes of the event aren't affected.
    ///
    /// Only a handled event uses up the key. While the handler runs for one event, the other events with the key wait,
    /// without occupying a worker. If the handler fails, the next of these events runs.
    ///
    /// If `key` returns `None`, the route runs for the event. If `key` panics or returns more than 255 bytes, the log has a
    /// warning, and the route runs for the event too.
    ///
    /// A `MemoryInbox` remembers the keys in memory. A `SqliteInbox` stores a key in the transaction that stores the route's
    /// result, so the key survives a crash. If a process crashes after the handler has finished and before this transaction, the
    /// event runs again. If a route has this option, opening a `JetStreamWorker` or a `PostgresInbox` fails.
    ///
    /// A route remembers at most 100,000 keys. A key is forgotten once `window` has passed and no unfinished event can share
    /// it. If an operator replays an event after that, the route may run for it. Replaying the handled event itself runs the
    /// route again.
    ///
    /// A router that is called without an inbox doesn't apply the option.
    ///
    /// # Panics
    ///
    /// Panics if the router has no route.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use botisimo_webhooks::{Event, EventRouter};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Stream { account: String, stream: String }
    ///
    /// async fn announce(_: Event) { /* post to the chat */ }
    ///
    /// let router = EventRouter::new()
    ///     // Matches `connection.stream.started` and `connection.stream.started.twitch`.
    ///     .on_prefix("connection.stream.started", announce)
    ///     .named("announce")
    ///     .once_per(Duration::from_secs(24 * 60 * 60), |event| {
    ///         let Stream { account, stream } = event.decode().ok()?;
    ///         Some(format!("{account} {stream}"))
    ///     });
    /// # let _ = router;
    /// ```
    #[track_caller]
    pub fn once_per<K: AsRef<[u8]>>(
        mut self,
        window: Duration,
        key: impl Fn(&Event) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        let once_per = OncePer::new(window, key);
        let was_set = Arc::make_mut(&mut self.routes).set_last_once_per(once_per);
        assert_route(was_set, "once_per");
        self
    }

    #[track_caller]
    fn set_option(mut self, option: &str, set: impl FnOnce(&mut RouteOptions)) -> Self {
        let was_set = Arc::make_mut(&mut self.routes).set_last_option(set);
        assert_route(was_set, option);
        self
    }

    /// Returns whether a route may have to wait before it runs.
    pub(crate) fn has_limits(&self) -> bool {
        self.routes.have_limits
    }

    /// Returns whether a route has options.
    pub(crate) fn has_options(&self) -> bool {
        self.routes.have_options()
    }

    /// Adds the routes of another router after the routes of this one.
    ///
    /// # Panics
    ///
    /// Panics if both routers have a fallback.
    #[track_caller]
    #[allow(clippy::needless_pass_by_value)] // a builder consumes both halves
    pub fn merge(mut self, other: Self) -> Self {
        or_panic(Arc::make_mut(&mut self.routes).extend(&other.routes));
        self
    }

    /// Checks that no two routes have the same name.
    ///
    /// Constructors that take the router also make this check. Call `validate` to get an error
    /// instead of a panic.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Route`](crate::ErrorKind::Route) if two routes have the same name. The
    /// error message contains the file and the line of both registrations.
    pub fn validate(&self) -> Result<(), Error> {
        self.routes.validate()
    }

    /// Returns all routes, in the order of registration.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.routes.iter()
    }

    /// Returns the routes that an event of this type runs, in the order of registration.
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
        self.routes.matching(&event_type.into())
    }

    /// Returns whether an event of this type matches a route other than
    /// [`on_any`](EventRouter::on_any) routes.
    #[must_use]
    pub fn matches(&self, event_type: &EventType) -> bool {
        self.routes.matches(event_type)
    }

    /// Returns the metrics of an inbox over this router. The labels are the routes' names and the event types that the routes
    /// match exactly.
    pub(crate) fn metrics(&self) -> Metrics {
        let exact = self.routes().filter_map(Route::pattern);
        let exact = exact.filter(|pattern| !pattern.takes_below());
        let exact = exact.filter(|pattern| !pattern.is_documented());
        Metrics::new(
            self.routes().map(Route::shared_name),
            exact.map(Pattern::name),
        )
    }

    #[track_caller]
    fn add(mut self, matcher: Matcher, handler: impl Handler + 'static) -> Self {
        let route = Route::new(matcher);
        if let Some(pattern) = route.undocumented_pattern() {
            let suggestion = pattern.suggestion();
            telemetry::undocumented_pattern(&pattern.to_string(), suggestion.as_deref());
        }
        or_panic(Arc::make_mut(&mut self.routes).push(route, Arc::new(handler)));
        self
    }
}

impl Service<Event> for EventRouter {
    type Response = Report;
    type Error = Infallible;
    type Future = RouterFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: Event) -> RouterFuture {
        self.routes.run(&event)
    }
}

/// Writes the route table, one route per line.
impl fmt::Display for EventRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, route) in self.routes().enumerate() {
            let newline = if i == 0 { "" } else { "\n" };
            write!(f, "{newline}{route}")?;
            if let Some(pattern) = route.undocumented_pattern() {
                f.write_str("  (no documented event type")?;
                if let Some(suggestion) = pattern.suggestion() {
                    write!(f, ": did you mean `{suggestion}`?")?;
                }
                f.write_str(")")?;
            }
        }
        Ok(())
    }
}

/// Panics with the error, at the caller's line.
#[track_caller]
fn or_panic<T>(result: Result<T, Error>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

/// Panics if a method that changes the last route was called before the first route.
#[track_caller]
fn assert_route(exists: bool, method: &str) {
    assert!(
        exists,
        "`{method}` needs a route: call it after `on`, `on_prefix`, `on_any` or `fallback`"
    );
}
