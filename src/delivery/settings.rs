use std::sync::Arc;
use std::time::Duration;

use super::{Attempt, DeadLetter, Hooks, OrderBy};
use crate::event::Event;
use crate::outcome::RetryPolicy;
use crate::telemetry::AdoptTraceparent;

/// The settings of delivery: how an inbox or a worker runs the handlers of accepted events.
///
/// The builders of [`MemoryInbox`](crate::MemoryInbox), `SqliteInbox` and `JetStreamWorker` take these settings through their
/// method `delivery`.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{DeliverySettings, EventRouter, MemoryInbox, RetryPolicy};
///
/// let delivery = DeliverySettings::new()
///     .concurrency(8)
///     .attempt_timeout(Duration::from_secs(5))
///     .retry(RetryPolicy::new().max_attempts(8))
///     .on_attempt(|attempt| println!("{attempt}"));
/// let inbox = MemoryInbox::builder().delivery(delivery).build(EventRouter::new());
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct DeliverySettings {
    /// Absent if the inbox's default applies.
    concurrency: Option<usize>,
    pub(crate) attempt_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) order: OrderBy,
    pub(crate) block_key_on_dead_letter: bool,
    pub(crate) on_attempt: Hooks<Attempt>,
    pub(crate) on_dead_letter: Hooks<DeadLetter>,
    pub(crate) redact_errors: bool,
    pub(crate) log_handled_at_info: bool,
    pub(crate) adopt_traceparent: AdoptTraceparent,
}

impl DeliverySettings {
    /// Returns the defaults: 64 events at once, 30 s for each attempt, 5 attempts, no ordering key, and no hooks.
    pub fn new() -> Self {
        Self {
            concurrency: None,
            attempt_timeout: Duration::from_secs(30),
            retry: RetryPolicy::new(),
            order: OrderBy::default(),
            block_key_on_dead_letter: false,
            on_attempt: Hooks::new("on_attempt"),
            on_dead_letter: Hooks::new("on_dead_letter"),
            redact_errors: false,
            log_handled_at_info: false,
            adopt_traceparent: AdoptTraceparent::default(),
        }
    }

    /// Sets how many events run at once. The default is 64. Most handlers wait for a database or an API, and few
    /// databases and APIs serve more than 64 requests at once. 0 counts as 1.
    ///
    /// [`EventRouter::concurrency`](crate::EventRouter::concurrency) also limits the runs of one route.
    ///
    /// A `JetStreamWorker` runs this many events of each route at once. Its default is 16.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.concurrency = Some(events.max(1));
        self
    }

    /// Sets how long all routes of an event may run in one attempt. The default is 30 s. Routes that are still
    /// running at the timeout are dropped and count as [timed out](crate::Outcome::TimedOut).
    /// [`EventRouter::timeout`](crate::EventRouter::timeout) overrides the timeout for one route.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// Sets when failed routes are retried. The default is [`RetryPolicy::new`]. [`EventRouter::retry`](crate::EventRouter::retry)
    /// and [`EventRouter::max_attempts`](crate::EventRouter::max_attempts) override the policy for one route.
    ///
    /// An event that is waiting for a retry counts against the limits of the inbox, not against the concurrency
    /// limit.
    ///
    /// On JetStream, each delivery counts as an attempt, even if its worker crashed or returned the event because of a
    /// drain. A worker attempts an event at least once before it becomes a dead letter, unless the event was delivered
    /// five more times than the policy allows and never finished. A recreated consumer counts attempts from 1 again.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = policy;
        self
    }

    /// Runs events of one key one after another, in the order of acceptance. Events of different keys, and events for
    /// which `key` returns `None`, run in parallel. By default no event has a key.
    ///
    /// The inbox calls the closure once, when it accepts the event. Return a short key, for example an account's id.
    /// While an event waits for its next attempt, the next event of its key waits too. If an event is dead-lettered, the
    /// next event of its key runs, unless [`block_key_on_dead_letter`](Self::block_key_on_dead_letter) is set. If the
    /// closure panics, the event has no key, and the inbox logs the panic.
    ///
    /// The sender doesn't guarantee an order. The first accepted event may have happened second: compare
    /// [`Event::timestamp`].
    ///
    /// A `JetStreamWorker` doesn't support ordering keys, and refuses to start with one.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{DeliverySettings, Event};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Account { account: String }
    ///
    /// let delivery = DeliverySettings::new()
    ///     .ordering_key(|event: &Event| event.decode::<Account>().ok().map(|data| data.account));
    /// ```
    pub fn ordering_key<K: AsRef<[u8]>>(
        mut self,
        key: impl Fn(&Event) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        self.order = OrderBy::new(key);
        self
    }

    /// Blocks the ordering key of a dead-lettered event until its letter is [replayed](crate::DeadLetters::replay) or
    /// [deleted](crate::DeadLetters::delete). By default the next event of the key runs. Events without a key aren't
    /// affected.
    ///
    /// Blocked events count against the limits of the inbox: watch [`on_dead_letter`](Self::on_dead_letter). If the
    /// inbox drops a dead letter because it has too many, the letter's key is no longer blocked.
    ///
    /// Blocked events haven't ended, so [`wait_idle`](crate::Handle::wait_idle) waits for them. On a memory inbox, a
    /// [`drain`](crate::Handle::drain) waits for them until its timeout.
    pub fn block_key_on_dead_letter(mut self) -> Self {
        self.block_key_on_dead_letter = true;
        self
    }

    /// Adds a hook that runs after each attempt, before the inbox counts the attempt.
    ///
    /// The hook runs in the worker's task, so it must not block. If the hook panics, the inbox logs the panic, and nothing
    /// else happens. [`Handle::on_attempt`](crate::Handle::on_attempt) adds a hook to an inbox that is already running.
    pub fn on_attempt(self, hook: impl Fn(&Attempt) + Send + Sync + 'static) -> Self {
        self.on_attempt.add(Arc::new(hook));
        self
    }

    /// Adds a hook that runs for each dead-lettered event, after the inbox has stored the letter and before the inbox
    /// counts the event.
    ///
    /// The hook runs in the worker's task or on a thread of the inbox, so it must not block. If the hook panics, the inbox
    /// logs the panic, and nothing else happens. [`Handle::on_dead_letter`](crate::Handle::on_dead_letter) adds a hook to
    /// an inbox that is already running.
    pub fn on_dead_letter(self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        self.on_dead_letter.add(Arc::new(hook));
        self
    }

    /// Logs each handled event at the level `info`. By default, the inbox logs handled events at `debug`.
    pub fn log_handled_at_info(mut self) -> Self {
        self.log_handled_at_info = true;
        self
    }

    /// Sets a closure that adds the span of an attempt to the trace of the event's
    /// [`traceparent`](Event::traceparent). By default, the span's parent is the request's span in the same process.
    ///
    /// The inbox calls the closure for each attempt at an event that has a `traceparent`, before it enters the span. The
    /// span has no other parent, so the trace continues in the same way after a restart, and the request's span ends with
    /// the request. If the closure panics, the inbox logs the panic and runs the attempt.
    ///
    /// The [guide](crate::guide::operating) has an example with OpenTelemetry.
    #[cfg(feature = "tracing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tracing")))]
    pub fn adopt_traceparent(
        mut self,
        adopt: impl Fn(&tracing::Span, &str) + Send + Sync + 'static,
    ) -> Self {
        self.adopt_traceparent = AdoptTraceparent::new(adopt);
        self
    }

    /// Omits the messages of handlers' errors and panics from the log. By default, the inbox logs each message with the
    /// messages of its sources, on one line of at most 1 KiB.
    ///
    /// If the message of an error may quote a payload or a secret, set this. Then the inbox logs only the route and the
    /// outcome's name. The inbox always logs its own error messages, which never quote a payload or a secret.
    pub fn redact_handler_errors(mut self) -> Self {
        self.redact_errors = true;
        self
    }

    /// Returns the concurrency of an inbox.
    pub(crate) fn inbox_concurrency(&self) -> usize {
        self.concurrency.unwrap_or(64)
    }

    /// Returns the concurrency of each route of a `JetStreamWorker`.
    pub(crate) fn route_concurrency(&self) -> usize {
        self.concurrency.unwrap_or(16)
    }
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self::new()
    }
}
