use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::Handle;
use crate::event::Event;
use crate::runtime::Runtime;

/// Takes events over from the front door, and sees to it that they are delivered.
///
/// [`MemoryInbox`](crate::MemoryInbox) is the one to start with. A wrapper around another inbox
/// delegates all four methods.
///
/// # The contract
///
/// - `Ok` means that the inbox owns the event: whoever reads the 200 forgets it. Never return it
///   before.
/// - The first poll takes the event. To drop the future after it gives up the answer only: the
///   event is then taken in the end, and counted, or it is as if it had never come. The front door
///   drops the future when the client leaves and when its deadline is over.
/// - It may be slow: the front door answers 503 at its deadline. It may fail: that is [`AcceptError`],
///   which is 503 at once, and the sender tries again.
/// - It doesn't wait for handlers. Where there is no room it refuses at once: a place in a line
///   costs the sender's patience, and the sender gives up an event that isn't answered quickly.
/// - A copy of an event that it owns is [`Accepted::Duplicate`]. A copy of one that it is about to
///   own isn't, until it does.
/// - What it holds is bounded, by count and by bytes.
///
/// # Examples
///
/// An inbox around another one, that keeps the id of what it took:
///
/// ```
/// use std::sync::Arc;
/// use botisimo_webhooks::{Accepted, Event, Handle, Inbox, AcceptError, Runtime};
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
///             println!("took {id}");
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
    /// Takes an event over.
    ///
    /// # Errors
    ///
    /// [`AcceptError`] if the inbox doesn't own the event and never will; the sender is told to try
    /// again.
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static;

    /// Returns the runtime whose clock and timers the front door shares.
    fn runtime(&self) -> Arc<dyn Runtime>;

    /// Returns the handle to count, drain and await what was accepted.
    fn handle(&self) -> Handle;

    /// Returns the size of the largest body, in bytes, that it can ever take; `None`, the default, if
    /// any. The front door answers 413 above this and above its own
    /// [`max_body_bytes`](crate::WebhookLayer::max_body_bytes). It is asked for each request.
    fn max_body_bytes(&self) -> Option<usize> {
        None
    }
}

/// How an inbox came to own an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Accepted {
    /// It does from now on.
    New,
    /// It took a copy before.
    Duplicate,
}

/// Why an inbox doesn't take an event now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptError {
    kind: AcceptErrorKind,
    retry_after: Duration,
}

/// The kinds of [`AcceptError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptErrorKind {
    /// There is no room.
    Full,
    /// It is being drained, because the process is about to end.
    Draining,
    /// It, or what it stands on, isn't working.
    Unavailable,
}

impl AcceptError {
    /// Returns the refusal for want of room: try again after 1 second.
    #[must_use]
    pub fn full() -> Self {
        Self {
            kind: AcceptErrorKind::Full,
            retry_after: Duration::from_secs(1),
        }
    }

    /// Returns the refusal of an inbox that is being drained: try again after 5 seconds.
    #[must_use]
    pub fn draining() -> Self {
        Self {
            kind: AcceptErrorKind::Draining,
            retry_after: Duration::from_secs(5),
        }
    }

    /// Returns the refusal of an inbox that isn't working: try again after 5 seconds.
    #[must_use]
    pub fn unavailable() -> Self {
        Self {
            kind: AcceptErrorKind::Unavailable,
            retry_after: Duration::from_secs(5),
        }
    }

    /// Sets the time after which the sender is asked to try again. It is sent in whole seconds,
    /// rounded up.
    #[must_use]
    pub fn retry_after(self, retry_after: Duration) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    /// Returns why.
    #[must_use]
    pub fn kind(&self) -> AcceptErrorKind {
        self.kind
    }

    /// Returns the time after which the sender is asked to try again.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.retry_after
    }
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            AcceptErrorKind::Full => "the inbox is full",
            AcceptErrorKind::Draining => "the inbox is being drained",
            AcceptErrorKind::Unavailable => "the inbox is not available",
        })
    }
}

impl std::error::Error for AcceptError {}
