use std::any::Any;
use std::time::Duration;

use botisimo_webhooks::{
    BoxFuture, DeadLetters, DeliverySettings, EventLog, EventRouter, Inbox, RetryPolicy,
};

/// Opens the inbox under test.
pub(crate) trait InboxFactory: Sync {
    /// The inbox.
    type Inbox: Inbox;

    /// Opens an inbox without events and ids, over `router`.
    fn open(
        &self,
        router: EventRouter,
        delivery: DeliverySettings,
    ) -> impl Future<Output = Opened<Self::Inbox>> + Send;
}

/// Returns settings that retry without delay, and that allow 10 s for an attempt.
pub(super) fn attempts(attempts: u32) -> DeliverySettings {
    let retry = RetryPolicy::new().max_attempts(attempts);
    DeliverySettings::new()
        .retry(retry.initial_delay(Duration::ZERO))
        .attempt_timeout(Duration::from_secs(10))
}

/// An open inbox, and the functions to observe it.
pub(crate) struct Opened<I> {
    pub(super) inbox: I,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) events: EventLog,
    pub(super) wait_idle: WaitIdle,
    /// A directory or a server that must outlive the inbox.
    _kept: Option<Box<dyn Any + Send>>,
}

type WaitIdle = Box<dyn Fn() -> BoxFuture<()> + Send + Sync>;

impl<I: Inbox> Opened<I> {
    /// Returns an inbox that knows when it is idle, and that keeps its dead letters.
    pub(crate) fn new(inbox: I) -> Self {
        let handle = inbox.handle();
        let (dead_letters, events) = (handle.dead_letters(), handle.events());
        Self {
            inbox,
            dead_letters,
            events,
            wait_idle: Box::new(move || Box::pin(handle.wait_idle())),
            _kept: None,
        }
    }

    /// Sets how to wait until the inbox is idle. An inbox whose events a worker handles needs this function.
    pub(crate) fn wait_idle<F>(mut self, wait_idle: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.wait_idle = Box::new(move || Box::pin(wait_idle()));
        self
    }

    /// Sets the dead letters to observe. An inbox whose worker keeps the dead letters needs this function.
    pub(crate) fn dead_letters(mut self, dead_letters: DeadLetters) -> Self {
        self.dead_letters = Some(dead_letters);
        self
    }

    /// Sets the log of the worker that handles the inbox's events. Only this log has the attempts.
    pub(crate) fn events(mut self, events: EventLog) -> Self {
        self.events = events;
        self
    }

    /// Keeps a directory or a server alive while the inbox is in use.
    pub(crate) fn keeping(mut self, kept: impl Any + Send) -> Self {
        self._kept = Some(Box::new(kept));
        self
    }
}
