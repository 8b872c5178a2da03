use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Handle;
use crate::event::Event;
use crate::runtime::Runtime;

/// Stores events until their handlers have run.
///
/// Start with [`MemoryInbox`](crate::MemoryInbox).
///
/// # For wrapping only
///
/// Implement this trait to wrap an inbox of this crate: to log, to count, or to refuse some events.
/// A wrapper delegates all four methods. An inbox can't be written from scratch outside this crate,
/// because [`Handle`] has no public constructor.
///
/// # Contract
///
/// - `Ok` means that the inbox has stored the event. The sender forgets an event once it reads the
///   200, so an inbox never returns `Ok` earlier.
/// - The first poll hands the event to the inbox. If the future is dropped afterwards, only the
///   answer is lost. The inbox either accepts and counts the event, or behaves as if the event had
///   never arrived. The receiver drops the future when the client disconnects and when its deadline
///   passes.
/// - If an inbox is slow, the receiver answers 503 at its deadline. If an inbox returns an
///   [`AcceptError`], the receiver answers 503, and the sender retries.
/// - An inbox doesn't wait for handlers. If an inbox is full, it refuses events at once, because
///   queueing would exceed the sender's timeout.
/// - A copy of a stored event is [`Accepted::Duplicate`]. A copy of an event that the inbox is
///   still storing isn't a duplicate.
/// - The memory of an inbox is bounded, by count and by bytes.
///
/// # Examples
///
/// A wrapper that prints the id of each accepted event:
///
/// ```
/// use std::sync::Arc;
/// use botisimo_webhooks::{AcceptError, Accepted, Event, Handle, Inbox, Runtime};
///
/// #[derive(Clone)]
/// struct Audited<I> {
///     inner: I,
/// }
///
/// impl<I: Inbox> Inbox for Audited<I> {
///     fn accept(&self, event: Event) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
///         // The future may not borrow from `self`, so it owns a clone.
///         let inner = self.inner.clone();
///         async move {
///             let id = event.id().to_owned();
///             let accepted = inner.accept(event).await?;
///             println!("accepted {id}");
///             Ok(accepted)
///         }
///     }
///
///     fn runtime(&self) -> Arc<dyn Runtime> {
///         self.inner.runtime()
///     }
///
///     fn handle(&self) -> Handle {
///         self.inner.handle()
///     }
///
///     fn max_body_bytes(&self) -> Option<usize> {
///         self.inner.max_body_bytes()
///     }
/// }
/// ```
pub trait Inbox: Clone + Send + Sync + 'static {
    /// Accepts an event.
    ///
    /// # Errors
    ///
    /// [`AcceptError`] if the inbox hasn't stored the event and never will. The receiver answers
    /// 503, and the sender retries.
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static;

    /// Returns the runtime whose clock and timers the receiver uses.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// Returns the handle that counts, drains and awaits the accepted events.
    fn handle(&self) -> Handle;

    /// Returns the size of the largest body, in bytes, that the inbox can store.
    ///
    /// The default is `None`: there is no limit. The receiver answers a body above this limit or
    /// above its own [`max_body_bytes`](crate::WebhookLayer::max_body_bytes) with 413. The receiver
    /// calls this method for each request.
    fn max_body_bytes(&self) -> Option<usize> {
        None
    }
}

/// How an inbox accepted an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Accepted {
    /// The inbox has stored the event.
    New,
    /// The inbox has already accepted an event with the same `messageId`.
    Duplicate,
}

impl Accepted {
    /// Returns the value of the label `reason` in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::New => "accepted",
            Self::Duplicate => "duplicate",
        }
    }
}

/// The error of an inbox that refuses an event.
///
/// The receiver answers 503 with `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptError {
    kind: AcceptErrorKind,
    retry_after: Duration,
}

/// The kinds of [`AcceptError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptErrorKind {
    /// The inbox is full.
    Full,
    /// The inbox is draining, because the process is about to exit.
    Draining,
    /// The inbox, or the server that it uses, isn't working.
    Unavailable,
}

impl AcceptError {
    /// Returns the error of a full inbox, with a `Retry-After` of 1 second.
    #[must_use]
    pub fn full() -> Self {
        Self {
            kind: AcceptErrorKind::Full,
            retry_after: Duration::from_secs(1),
        }
    }

    /// Returns the error of a draining inbox, with a `Retry-After` of 5 seconds.
    #[must_use]
    pub fn draining() -> Self {
        Self {
            kind: AcceptErrorKind::Draining,
            retry_after: Duration::from_secs(5),
        }
    }

    /// Returns the error of an inbox that isn't working, with a `Retry-After` of 5 seconds.
    #[must_use]
    pub fn unavailable() -> Self {
        Self {
            kind: AcceptErrorKind::Unavailable,
            retry_after: Duration::from_secs(5),
        }
    }

    /// Sets the `Retry-After` of the answer. The receiver sends whole seconds, rounded up.
    #[must_use]
    pub fn retry_after(self, retry_after: Duration) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> AcceptErrorKind {
        self.kind
    }

    /// Returns the `Retry-After` of the answer.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.retry_after
    }
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            AcceptErrorKind::Full => "the inbox is full",
            AcceptErrorKind::Draining => "the inbox is draining",
            AcceptErrorKind::Unavailable => "the inbox is not available",
        })
    }
}

impl std::error::Error for AcceptError {}
