//! The settings of attempts and their builder methods, shared by every inbox that runs jobs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Attempt, DeadLetter, Hooks, OrderKey, RetryPolicy};
use crate::catch_panic::catch_panic;
use crate::event::Event;
use crate::telemetry;

/// The settings of an inbox that runs jobs.
#[derive(Clone, Debug)]
pub(crate) struct ExecutorSettings {
    pub(crate) concurrency: usize,
    pub(crate) attempt_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) order: OrderBy,
    pub(crate) block_key_on_dead_letter: bool,
    pub(crate) on_attempt: Hooks<Attempt>,
    pub(crate) on_dead_letter: Hooks<DeadLetter>,
    pub(crate) log_errors: bool,
}

impl Default for ExecutorSettings {
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

/// The user's closure that returns an event's ordering key, if the user has set one.
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

    /// Returns the ordering key of an event. If the closure panics, the event has no key. If the inbox refused the event
    /// instead, the sender would retry it for days.
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

/// Defines the builder methods of the settings. The builder's field `delivery` stores the settings.
macro_rules! settings {
    () => {
        /// Sets how many events run at once. The default is 64. Most handlers wait for a database or an API, and few
        /// databases and APIs serve more than 64 requests at once. 0 counts as 1.
        pub fn concurrency(mut self, events: usize) -> Self {
            self.delivery.concurrency = events.max(1);
            self
        }

        /// Sets how long all routes of an event may run in one attempt. The default is 30 s. Routes that are still
        /// running at the timeout are dropped and count as [timed out](crate::Outcome::TimedOut).
        pub fn attempt_timeout(mut self, timeout: std::time::Duration) -> Self {
            self.delivery.attempt_timeout = timeout;
            self
        }

        /// Sets when failed routes are retried. The default is [`RetryPolicy::new`](crate::RetryPolicy::new).
        ///
        /// An event that is waiting for a retry counts against the limits of the inbox, not against the concurrency
        /// limit.
        pub fn retry(mut self, policy: crate::delivery::RetryPolicy) -> Self {
            self.delivery.retry = policy;
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
        /// [`Event::timestamp`](crate::Event::timestamp).
        ///
        /// # Examples
        ///
        /// ```
        /// use botisimo_webhooks::{Event, EventRouter, MemoryInbox};
        ///
        /// #[derive(serde::Deserialize)]
        /// struct Account { account: String }
        ///
        /// let inbox = MemoryInbox::builder()
        ///     .ordering_key(|event: &Event| event.decode::<Account>().ok().map(|data| data.account))
        ///     .build(EventRouter::new());
        /// ```
        pub fn ordering_key<K: AsRef<[u8]>>(
            mut self,
            key: impl Fn(&crate::event::Event) -> Option<K> + Send + Sync + 'static,
        ) -> Self {
            self.delivery.order = crate::delivery::OrderBy::new(key);
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
            self.delivery.block_key_on_dead_letter = true;
            self
        }

        /// Adds a hook that runs for each finished attempt, before the attempt is counted. See
        /// [`Handle::on_attempt`](crate::Handle::on_attempt).
        pub fn on_attempt(
            self,
            hook: impl Fn(&crate::delivery::Attempt) + Send + Sync + 'static,
        ) -> Self {
            self.delivery.on_attempt.add(std::sync::Arc::new(hook));
            self
        }

        /// Adds a hook that runs for each dead letter, after the inbox has stored the letter. See
        /// [`Handle::on_dead_letter`](crate::Handle::on_dead_letter).
        pub fn on_dead_letter(
            self,
            hook: impl Fn(&crate::delivery::DeadLetter) + Send + Sync + 'static,
        ) -> Self {
            self.delivery.on_dead_letter.add(std::sync::Arc::new(hook));
            self
        }

        /// Logs the messages of handlers' errors and panics. By default the inbox logs only the route and the outcome's
        /// name, because these messages may contain a payload or a secret.
        pub fn log_handler_errors(mut self) -> Self {
            self.delivery.log_errors = true;
            self
        }
    };
}

pub(crate) use settings;
