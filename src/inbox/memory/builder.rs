use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_service::Service;

use super::MemoryInbox;
use super::queue::{Limits, Queue};
use super::shared::Shared;
use crate::delivery::{Delivery, Duplicates, Fingerprints, Hooks, RetryPolicy};
use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::Report;
use crate::runtime::Runtime;

/// Sets up a [`MemoryInbox`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryInboxBuilder {
    limits: Limits,
    max_ids: usize,
    duplicate_window: Duration,
    attempt_timeout: Duration,
    retry: RetryPolicy,
    hooks: Hooks<Delivery>,
    log_errors: bool,
}

impl MemoryInboxBuilder {
    pub(super) fn new() -> Self {
        Self {
            limits: Limits {
                running: 64,
                events: 10_000,
                bytes: 64 << 20,
            },
            max_ids: 100_000,
            duplicate_window: Duration::from_secs(24 * 60 * 60),
            attempt_timeout: Duration::from_secs(30),
            retry: RetryPolicy::new(),
            hooks: Hooks::new("on_delivery"),
            log_errors: false,
        }
    }

    /// Sets how many events are in delivery at once. The default is 64: handlers mostly wait for a
    /// database or an API, which seldom serve more at once. 0 counts as 1.
    pub fn max_running(mut self, events: usize) -> Self {
        self.limits.running = events.max(1);
        self
    }

    /// Sets how many events are held at once, both those in delivery and those that wait. The
    /// default is 10,000, some seconds of a busy sender. With `max_running(n)` and
    /// `max_events(n + q)`, n run and q wait; the next is refused.
    pub fn max_events(mut self, events: usize) -> Self {
        self.limits.events = events;
        self
    }

    /// Sets how many bytes the bodies of all held events may have. The default is 64 MiB.
    ///
    /// An event that is larger than this is taken all the same if nothing else is held: to refuse
    /// it for ever would get the endpoint disabled.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Sets for how long the `messageId` of an accepted event is remembered: a copy that comes
    /// within this time is answered 200 and not run again. The default is 24 h. With zero
    /// nothing is remembered.
    ///
    /// The sender tries an event again when it saw no 2xx, also where there was one that got lost
    /// on the way.
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.duplicate_window = window;
        self
    }

    /// Sets how many ids are remembered at most. The default is 100,000, at some 70 bytes each.
    /// Past it the oldest are forgotten before their time, which is warned of once.
    pub fn max_remembered_ids(mut self, ids: usize) -> Self {
        self.max_ids = ids;
        self
    }

    /// Sets how long all routes of an event may take in one attempt. The default is 30 s. Those
    /// that still run then are dropped as [timed out](crate::Outcome::TimedOut).
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets when routes that failed are tried again. The default is [`RetryPolicy::new`].
    ///
    /// An event between two attempts holds no place among those in delivery, but one among those
    /// held.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Adds a hook that is told of every attempt at an event that ends, before it is counted. See
    /// [`Handle::on_delivery`](crate::Handle::on_delivery).
    pub fn on_delivery(self, hook: impl Fn(&Delivery) + Send + Sync + 'static) -> Self {
        self.hooks.add(hook);
        self
    }

    /// Writes the texts of handlers' errors and panics to the log. By default only the route and
    /// the kind of failure are logged: the texts are the user's own and may hold what doesn't
    /// belong into a log.
    pub fn log_handler_errors(mut self) -> Self {
        self.log_errors = true;
        self
    }

    /// Returns the inbox, on tokio.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub fn build<S>(self, service: S) -> MemoryInbox
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        self.build_on(crate::runtime::TokioRuntime::new(), service)
    }

    /// Returns the inbox, on another runtime.
    pub fn build_on<S>(self, runtime: impl Runtime, service: S) -> MemoryInbox
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        MemoryInbox::start(Shared {
            queue: Mutex::new(Queue::new(
                self.limits,
                Duplicates::new(self.max_ids, self.duplicate_window),
            )),
            fingerprints: Fingerprints::default(),
            service: Mutex::new(service),
            runtime: Arc::new(runtime),
            attempt_timeout: self.attempt_timeout,
            retry: self.retry,
            hooks: self.hooks,
            log_errors: self.log_errors,
        })
    }
}
