use std::any::Any;
use std::fmt;
use std::time::Duration;

use crate::delivery::RetryPolicy;
use crate::inbox::{DeadLetters, Inbox};
use crate::router::EventRouter;
use crate::runtime::BoxFuture;

/// How an inbox under test is opened.
pub trait Candidate: Sync {
    /// The inbox.
    type Inbox: Inbox;

    /// Opens an inbox that is empty and knows no ids, whose events are delivered to `router` as `terms`
    /// say.
    fn open(
        &self,
        router: EventRouter,
        terms: Terms,
    ) -> impl Future<Output = Opened<Self::Inbox>> + Send;
}

/// How a law would have events delivered.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Terms {
    /// When routes that failed are tried again: always without delay.
    pub retry: RetryPolicy,
    /// How long a route may take.
    pub attempt_timeout: Duration,
}

impl Terms {
    pub(super) fn new(attempts: u32) -> Self {
        Self {
            retry: RetryPolicy::new()
                .max_attempts(attempts)
                .initial_delay(Duration::ZERO),
            attempt_timeout: Duration::from_secs(10),
        }
    }
}

/// An inbox that was opened, with what a law needs of it.
pub struct Opened<I> {
    pub(super) inbox: I,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) wait_idle: Settled,
    /// What lives as long as the inbox.
    _kept: Option<Box<dyn Any + Send>>,
}

type Settled = Box<dyn Fn() -> BoxFuture<()> + Send + Sync>;

impl<I: Inbox> Opened<I> {
    /// Returns an inbox that delivers by itself: its [`Handle`](crate::Handle) says when all has ended, and
    /// has its dead letters.
    #[must_use]
    pub fn new(inbox: I) -> Self {
        let handle = inbox.handle();
        let dead_letters = handle.dead_letters();
        Self {
            inbox,
            dead_letters,
            wait_idle: Box::new(move || Box::pin(handle.wait_idle())),
            _kept: None,
        }
    }

    /// Sets what waits until everything that was accepted has been delivered, where others than the inbox
    /// do that.
    #[must_use]
    pub fn wait_idle<F>(mut self, wait_idle: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.wait_idle = Box::new(move || Box::pin(wait_idle()));
        self
    }

    /// Sets the dead letters, where others than the inbox keep them.
    #[must_use]
    pub fn dead_letters(mut self, dead_letters: DeadLetters) -> Self {
        self.dead_letters = Some(dead_letters);
        self
    }

    /// Keeps something for as long as the inbox is in use: a directory or a server, say.
    #[must_use]
    pub fn keeping(mut self, kept: impl Any + Send) -> Self {
        self._kept = Some(Box::new(kept));
        self
    }
}

impl<I: fmt::Debug> fmt::Debug for Opened<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("inbox", &self.inbox)
            .finish_non_exhaustive()
    }
}
