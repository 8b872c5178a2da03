use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{DeadLetterStore, DeadLetters};
use crate::delivery::{Attempt, DeadLetter, Stats};
use crate::runtime::BoxFuture;

/// Counts, drains and awaits what an inbox accepted. Given by
/// [`WebhookLayer::handle`](crate::WebhookLayer::handle) and by every inbox; cheap to clone.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{Event, EventRouter, WebhookLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router);
/// let handle = webhooks.handle();
///
/// // … serve until the process is told to end, then:
/// let drained = handle.drain(Duration::from_secs(25)).await;
/// if drained.remaining > 0 {
///     eprintln!("{} events were not delivered in time", drained.remaining);
/// }
/// # }
/// ```
#[derive(Clone)]
pub struct Handle {
    control: Arc<dyn InboxControl>,
}

/// What a [`Handle`] asks of an inbox. Only who writes an inbox from scratch implements it.
pub trait InboxControl: Send + Sync + 'static {
    /// See [`Handle::stats`].
    fn stats(&self) -> Stats;

    /// See [`Handle::drain`]. The first poll begins it.
    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained>;

    /// See [`Handle::wait_idle`].
    fn wait_idle(self: Arc<Self>) -> BoxFuture<()>;

    /// See [`Handle::on_attempt`].
    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>);

    /// See [`Handle::on_dead_letter`]. An inbox without dead letters has nothing to tell, which is
    /// the default.
    fn on_dead_letter(&self, hook: Arc<dyn Fn(&DeadLetter) + Send + Sync>) {
        drop(hook);
    }

    /// See [`Handle::dead_letters`]. The default is none.
    fn dead_letters(self: Arc<Self>) -> Option<Arc<dyn DeadLetterStore>> {
        None
    }
}

/// What a drain left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Drained {
    /// Events that were accepted and hadn't ended when the drain was over. Those in memory go on for
    /// as long as the process does; those of an inbox that outlives it are delivered after the next
    /// start.
    pub remaining: u64,
}

impl Drained {
    /// Returns what a drain left.
    pub fn new(remaining: u64) -> Self {
        Self { remaining }
    }
}

impl Handle {
    /// Returns the handle of an inbox.
    #[must_use]
    pub fn new(control: impl InboxControl) -> Self {
        Self::shared(Arc::new(control))
    }

    pub(crate) fn shared(control: Arc<dyn InboxControl>) -> Self {
        Self { control }
    }

    /// Returns the counts of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.control.stats()
    }

    /// Refuses new events with 503 from now on, then waits until those that run or wait have ended,
    /// but no longer than `within`, and returns how many are left.
    ///
    /// An inbox that outlives the process, such as that on disk, begins nothing any more and waits
    /// for what runs; the rest is delivered after the next start, and is among what is left.
    ///
    /// Nothing is cancelled. It is idempotent: calling it twice, or from two tasks, waits for the
    /// same. Call it while the server still runs, so that the sender is told 503 and tries
    /// again, where a closed port would cost the event.
    ///
    /// Copies of events that were accepted are answered 200 all the while, but by an inbox that
    /// would have to ask elsewhere, as that on JetStream.
    ///
    /// Shutting the server down is another matter: the graceful shutdowns of axum, hyper and tonic
    /// wait for their connections for ever, so give them a time limit of their own.
    ///
    /// # Cancel safety
    ///
    /// Once polled, new events stay refused also when the future is dropped.
    pub fn drain(&self, within: Duration) -> impl Future<Output = Drained> + Send + use<> {
        Arc::clone(&self.control).drain(within)
    }

    /// Waits until no accepted event is left that hasn't ended. New ones may come in the meantime.
    ///
    /// Events that no runtime is left to deliver never end: bound it where that may be.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub fn wait_idle(&self) -> impl Future<Output = ()> + Send + use<> {
        Arc::clone(&self.control).wait_idle()
    }

    /// Adds a hook that is told of every attempt at an event that ends from now on, before it is
    /// counted.
    ///
    /// It runs in the delivery's task, so it must not block. If it panics, that is logged and hurts
    /// nothing.
    pub fn on_attempt(&self, hook: impl Fn(&Attempt) + Send + Sync + 'static) {
        self.control.on_attempt(Arc::new(hook));
    }

    /// Adds a hook that is told of every event that is given up from now on, before it is counted.
    ///
    /// It runs in the delivery's task or on a thread of the inbox, so it must not block. If it
    /// panics, that is logged and hurts nothing.
    pub fn on_dead_letter(&self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) {
        self.control.on_dead_letter(Arc::new(hook));
    }

    /// Returns the events that were given up, to list, replay or delete them; `None` if the inbox
    /// keeps none. Those of this crate do.
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
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("stats", &self.stats())
            .finish()
    }
}
