use std::sync::Arc;

use super::{AcceptError, Accepted, Handle};
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
