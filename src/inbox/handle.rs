use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;

use super::health::{Health, HealthLimits};
use super::monitor::{Monitor, Monitored, evaluate};
use super::{DeadLetterStore, DeadLetters, EventLog, EventStore, InboxInfo, Shutdown};
use crate::delivery::{Attempt, DeadLetter, Stats};
use crate::router::EventRouter;
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry;

/// Counts, drains and awaits the events of an inbox, and shuts a server down.
///
/// [`WebhookLayer::handle`](crate::WebhookLayer::handle) and every inbox return a handle. A handle
/// is cheap to clone.
///
/// # Examples
///
/// ```no_run
/// use axum::Router;
/// use botisimo_webhooks::{Event, EventRouter, WebhookLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router);
/// let handle = webhooks.handle();
/// let app = Router::new().layer(webhooks);
///
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
/// let ended = handle
///     .shutdown_on_signal()
///     .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
///     .await?;
/// println!("{} events remain", ended.remaining);
/// println!("{}", handle.stats());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    control: Arc<dyn InboxControl>,
}

/// The operations of an inbox that [`Handle`] uses.
pub(crate) trait InboxControl: Send + Sync + 'static {
    /// Returns the kind and the place of the inbox.
    fn info(&self) -> InboxInfo;

    fn stats(&self) -> Stats;

    fn runtime(&self) -> Arc<dyn Runtime>;

    /// Starts to drain at the first poll.
    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained>;

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()>;

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>);

    fn on_dead_letter(&self, hook: Arc<dyn Fn(&DeadLetter) + Send + Sync>) {
        drop(hook);
    }

    fn dead_letters(self: Arc<Self>) -> Option<Arc<dyn DeadLetterStore>> {
        None
    }

    fn events(self: Arc<Self>) -> Arc<dyn EventStore>;

    /// Returns the router that the inbox was built over, if no layer wraps it.
    fn router(&self) -> Option<EventRouter> {
        None
    }

    /// Returns the inbox with its monitor.
    fn monitored(self: Arc<Self>) -> Arc<dyn Monitored>;
}

/// The result of [`Handle::drain`] and [`Shutdown::serve`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// The number of accepted events that hadn't ended when the drain or the shutdown returned.
    ///
    /// A [`MemoryInbox`](crate::MemoryInbox) keeps running these events until the process exits. A
    /// durable inbox delivers these events after a restart.
    pub remaining: u64,
}

impl Drained {
    pub(crate) fn new(remaining: u64) -> Self {
        Self { remaining }
    }
}

impl Handle {
    pub(crate) fn shared(control: Arc<dyn InboxControl>) -> Self {
        Self { control }
    }

    /// Returns the current counts.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.control.stats()
    }

    /// Returns what is wrong now, with the inbox and with all receivers over it.
    ///
    /// The problems come from counts and times in memory, so this method neither reads the disk nor calls a server. The
    /// [guide](crate::guide::operating) lists the kinds of problems, their limits, and what to do.
    ///
    /// While a problem lasts, the inbox also logs it every minute.
    ///
    /// # Examples
    ///
    /// ```
    /// # use botisimo_webhooks::Handle;
    /// fn check(handle: &Handle) {
    ///     for problem in handle.health().problems() {
    ///         eprintln!("since {:?}: {problem}", problem.since());
    ///     }
    /// }
    /// ```
    pub fn health(&self) -> Health {
        evaluate(&*self.monitored())
    }

    /// Adds a hook that runs each time a problem begins or ends, and each time the cause of a problem changes.
    ///
    /// The hook receives the new health, at most 5 s after the change. The hook runs in a task of the inbox, so it must not
    /// block. If the hook panics, the inbox logs the panic, and nothing else happens.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{EventRouter, HealthProblemKind, WebhookLayer};
    ///
    /// let webhooks = WebhookLayer::new("/webhooks/botisimo", EventRouter::new());
    /// webhooks.handle().on_health_change(|health| {
    ///     let mut problems = health.problems().iter();
    ///     if problems.any(|problem| problem.kind() != HealthProblemKind::Draining) {
    ///         eprintln!("{health}"); // or page someone
    ///     }
    /// });
    /// ```
    pub fn on_health_change(&self, hook: impl Fn(&Health) + Send + Sync + 'static) {
        let monitored = self.monitored();
        monitored.monitor().add_hook(Arc::new(hook));
        start(&monitored);
    }

    /// Sets the limits above which the inbox reports a problem. The default is [`HealthLimits::new`].
    ///
    /// The limits apply to the inbox and to all receivers over it, from now on.
    pub fn set_health_limits(&self, limits: HealthLimits) {
        let monitored = self.monitored();
        monitored.monitor().set_limits(limits);
        start(&monitored);
    }

    /// Refuses new events with 503, and waits until the accepted events have ended, for at most
    /// `within`.
    ///
    /// A durable inbox such as `SqliteInbox` starts no further events, waits for the running
    /// events, and delivers the others after a restart. [`Drained::remaining`] includes the events
    /// that are left for the restart.
    ///
    /// A drain doesn't wait for tasks that a handler spawned. If such a task must finish, await the task in the
    /// handler: see [handlers](crate::guide::handlers).
    ///
    /// A drain cancels nothing and is idempotent: a second call, or a call from another task, waits
    /// for the same events. While the inbox drains, the receiver still answers copies of accepted
    /// events with 200. With `JetStreamInbox` the receiver answers copies with 503, because only
    /// the server can recognize a copy.
    ///
    /// # Shutdown
    ///
    /// [`shutdown_on_signal`](Handle::shutdown_on_signal) drains at the right time. If you call `drain` yourself, the server
    /// must still be running. The sender retries an event after a 503, but not after a refused connection.
    ///
    /// A drain doesn't shut the server down. The graceful shutdowns of axum, hyper and tonic wait for open connections
    /// without a limit, so give them a separate timeout.
    ///
    /// # Cancel safety
    ///
    /// Once the future has been polled, the inbox refuses new events even if the future is dropped.
    pub fn drain(&self, within: Duration) -> impl Future<Output = Drained> + Send + use<> {
        let control = Arc::clone(&self.control);
        async move {
            let in_flight = control.stats().in_flight();
            // `join` polls the drain first, so the inbox refuses events before the log says so.
            let started = async { telemetry::draining(in_flight) };
            let (drained, ()) = join(control.drain(within), started).await;
            telemetry::drained(drained.remaining);
            drained
        }
    }

    /// Drains without log lines, for a handle that logs the drain.
    pub(crate) fn drain_silently(&self, within: Duration) -> BoxFuture<Drained> {
        Arc::clone(&self.control).drain(within)
    }

    pub(crate) fn info(&self) -> InboxInfo {
        self.control.info()
    }

    /// Returns a [`Shutdown`], which serves until SIGTERM or Ctrl-C, and then drains before the server closes. On
    /// Windows, only Ctrl-C counts.
    ///
    /// This method registers the signal handlers. From then on, the signals no longer end the process immediately. If the
    /// process can't receive signals, [`serve`](Shutdown::serve) returns the error.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn run(listener: tokio::net::TcpListener, app: axum::Router, handle: botisimo_webhooks::Handle)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// handle
    ///     .shutdown_on_signal()
    ///     .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "signal")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signal")))]
    pub fn shutdown_on_signal(&self) -> Shutdown {
        Shutdown::on_signal(self.clone(), self.runtime())
    }

    /// Returns a [`Shutdown`], which serves until `stop` completes, and then drains before the server closes.
    ///
    /// This method registers no signal handlers, and works without tokio.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn run(listener: tokio::net::TcpListener, app: axum::Router, handle: botisimo_webhooks::Handle)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// // … give `stop` to the code that decides when the service ends.
    /// handle
    ///     .shutdown_on(async { drop(stopped.await) })
    ///     .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown_on(&self, stop: impl Future<Output = ()> + Send + 'static) -> Shutdown {
        Shutdown::on(stop, self.clone(), self.runtime())
    }

    /// Waits until every accepted event has ended. Meanwhile, the inbox accepts new events.
    ///
    /// May never resolve after the runtime has shut down; use a timeout.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn wait_idle(&self) -> impl Future<Output = ()> + Send + use<> {
        Arc::clone(&self.control).wait_idle()
    }

    /// Adds a hook that runs after each attempt, before the inbox counts the attempt.
    ///
    /// The hook sees the attempts that end from now on. The hook runs in the worker's task, so it
    /// must not block. If the hook panics, the inbox logs the panic, and nothing else happens.
    pub fn on_attempt(&self, hook: impl Fn(&Attempt) + Send + Sync + 'static) {
        self.control.on_attempt(Arc::new(hook));
    }

    /// Adds a hook that runs for each dead-lettered event, before the inbox counts the event.
    ///
    /// The hook sees the events that are dead-lettered from now on. The hook runs in the worker's
    /// task or on a thread of the inbox, so it must not block. If the hook panics, the inbox logs
    /// the panic, and nothing else happens.
    pub fn on_dead_letter(&self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) {
        self.control.on_dead_letter(Arc::new(hook));
    }

    /// Returns the dead letters, to list, replay or delete them.
    ///
    /// Returns `None` if the inbox keeps no dead letters. With JetStream the workers keep the dead
    /// letters, not `JetStreamInbox`.
    ///
    /// # Examples
    ///
    /// ```
    /// # use botisimo_webhooks::{Error, Handle};
    /// async fn report(handle: &Handle) -> Result<(), Error> {
    ///     if let Some(dead) = handle.dead_letters() {
    ///         for letter in dead.list(None, 10).await? {
    ///             println!("{letter}");
    ///         }
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn dead_letters(&self) -> Option<DeadLetters> {
        Arc::clone(&self.control)
            .dead_letters()
            .map(DeadLetters::new)
    }

    /// Returns the events of the inbox, to list, replay or delete them.
    ///
    /// The [guide](crate::guide::events) lists the events that each inbox keeps.
    ///
    /// # Examples
    ///
    /// ```
    /// # use botisimo_webhooks::{Error, EventFilter, Handle};
    /// async fn report(handle: &Handle) -> Result<(), Error> {
    ///     for record in handle.events().list(&EventFilter::new(), 10).await? {
    ///         println!("{record}");
    ///     }
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn events(&self) -> EventLog {
        EventLog::new(Arc::clone(&self.control).events())
    }

    /// Returns the runtime of the inbox.
    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        self.control.runtime()
    }

    /// Returns the router that the inbox was built over, if no layer wraps it.
    pub(crate) fn router(&self) -> Option<EventRouter> {
        self.control.router()
    }

    /// Returns the inbox with its monitor.
    pub(crate) fn monitored(&self) -> Arc<dyn Monitored> {
        Arc::clone(&self.control).monitored()
    }
}

/// Starts the monitor before the first request, if this thread can spawn.
fn start(monitored: &Arc<dyn Monitored>) {
    #[cfg(feature = "tokio")]
    if tokio::runtime::Handle::try_current().is_err() {
        return;
    }
    Monitor::rouse(monitored);
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("stats", &self.stats())
            .finish()
    }
}
