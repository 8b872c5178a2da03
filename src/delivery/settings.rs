//! The settings of deliveries: what they are, and the builder's methods, written once for every inbox
//! that delivers by itself.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Attempt, DeadLetter, Hooks, OrderKey, RetryPolicy};
use crate::catch_panic::catch_panic;
use crate::event::Event;
use crate::telemetry;

/// What the user can set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) concurrency: usize,
    pub(crate) attempt_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) order: OrderBy,
    pub(crate) block_key_on_dead_letter: bool,
    pub(crate) on_attempt: Hooks<Attempt>,
    pub(crate) on_dead_letter: Hooks<DeadLetter>,
    pub(crate) log_errors: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 64,
            attempt_timeout: Duration::from_secs(30),
            retry: RetryPolicy::new(),
            order: OrderBy::default(),
            block_key_on_dead_letter: false,
            on_attempt: Hooks::new("on_attempt"),
            on_dead_letter: Hooks::new("on_dead_letter"),
            log_errors: false,
        }
    }
}

/// The user's closure that says what events are put in order by, if there is one.
#[derive(Clone, Default)]
pub(crate) struct OrderBy {
    key: Option<Arc<KeyOf>>,
}

type KeyOf = dyn Fn(&Event) -> Option<OrderKey> + Send + Sync;

impl OrderBy {
    pub(crate) fn new<K: AsRef<[u8]>>(
        key: impl Fn(&Event) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        let key = move |event: &Event| key(event).map(|key| OrderKey::from(key.as_ref()));
        Self {
            key: Some(Arc::new(key)),
        }
    }

    /// Returns the key of an event. If the closure panics it has none: to refuse it would have the
    /// sender try it for days.
    pub(crate) fn key(&self, event: &Event) -> Option<OrderKey> {
        let key = self.key.as_ref()?;
        catch_panic(|| key(event)).unwrap_or_else(|_| {
            telemetry::hook_panicked("ordering_key");
            None
        })
    }
}

impl fmt::Debug for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.key.is_some() { "by key" } else { "none" })
    }
}

/// Defines the settings as methods of a type whose field `delivery` has them.
macro_rules! settings {
    () => {
        /// Sets how many events are in delivery at once. The default is 64: handlers mostly wait
        /// for a database or an API, which seldom serve more at once. 0 counts as 1.
        pub fn concurrency(mut self, events: usize) -> Self {
            self.delivery.concurrency = events.max(1);
            self
        }

        /// Sets how long all routes of an event may take in one attempt. The default is 30 s. Those
        /// that still run then are dropped as [timed out](crate::Outcome::TimedOut).
        pub fn attempt_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.delivery.attempt_timeout = timeout;
            self
        }

        /// Sets when routes that failed are tried again. The default is
        /// [`RetryPolicy::new`](crate::RetryPolicy::new).
        ///
        /// An event between two attempts holds no place among those in delivery, but one among
        /// those held.
        pub fn retry(mut self, policy: crate::delivery::RetryPolicy) -> Self {
            self.delivery.retry = policy;
            self
        }

        /// Puts events in order: those of one key are delivered one after another in the order in
        /// which they were accepted, and different keys in parallel, as are events for which `key`
        /// returns `None`. By default nothing is put in order.
        ///
        /// The key is computed once, when the event is accepted, and should be short: the id of an
        /// account, say. An event that waits for its next attempt holds back the next of its key,
        /// and nobody else; one that is dead lets it pass, unless
        /// [`block_key_on_dead_letter`](Self::block_key_on_dead_letter) says otherwise. A closure that panics gives the
        /// event no key, and that is logged.
        ///
        /// The sender promises no order itself: what was accepted second may have happened first.
        /// [`Event::timestamp`](crate::Event::timestamp) tells.
        ///
        /// # Examples
        ///
        /// ```
        /// use botisimo_webhooks::{Event, EventRouter, MemoryInbox};
        ///
        /// #[derive(serde::Deserialize)]
        /// struct Of { account: String }
        ///
        /// let inbox = MemoryInbox::builder()
        ///     .ordering_key(|event: &Event| event.decode::<Of>().ok().map(|of| of.account))
        ///     .build(EventRouter::new());
        /// ```
        pub fn ordering_key<K: AsRef<[u8]>>(
            mut self,
            key: impl Fn(&crate::event::Event) -> Option<K> + Send + Sync + 'static,
        ) -> Self {
            self.delivery.order = crate::delivery::OrderBy::new(key);
            self
        }

        /// Has an event that is dead hold back the next ones of its key until it is
        /// [replayed](crate::DeadLetters::replay) or [deleted](crate::DeadLetters::delete). By
        /// default it lets them pass. It has no effect on events without a key.
        ///
        /// What is held back counts against the bounds: watch
        /// [`on_dead_letter`](Self::on_dead_letter). A dead letter that is dropped because there
        /// are too many lets the next of its key pass. What is held back hasn't ended:
        /// [`wait_idle`](crate::Handle::wait_idle) waits for it, and so does a
        /// [`drain`](crate::Handle::drain) of the inbox in memory, for its whole time.
        pub fn block_key_on_dead_letter(mut self) -> Self {
            self.delivery.block_key_on_dead_letter = true;
            self
        }

        /// Adds a hook that is told of every attempt at an event that ends, before it is counted.
        /// See [`Handle::on_attempt`](crate::Handle::on_attempt).
        pub fn on_attempt(
            self,
            hook: impl Fn(&crate::delivery::Attempt) + Send + Sync + 'static,
        ) -> Self {
            self.delivery.on_attempt.add(std::sync::Arc::new(hook));
            self
        }

        /// Adds a hook that is told of every event that is given up, once it is kept. See
        /// [`Handle::on_dead_letter`](crate::Handle::on_dead_letter).
        pub fn on_dead_letter(
            self,
            hook: impl Fn(&crate::delivery::DeadLetter) + Send + Sync + 'static,
        ) -> Self {
            self.delivery.on_dead_letter.add(std::sync::Arc::new(hook));
            self
        }

        /// Writes the texts of handlers' errors and panics to the log. By default only the route
        /// and the kind of failure are logged: the texts are the user's own and may hold what
        /// doesn't belong into a log.
        pub fn log_handler_errors(mut self) -> Self {
            self.delivery.log_errors = true;
            self
        }
    };
}

pub(crate) use settings;
