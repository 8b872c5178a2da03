use super::Inbox;
#[cfg(feature = "tokio")]
use super::MemoryInbox;
#[cfg(feature = "tokio")]
use crate::router::EventRouter;

/// A type that a receiver can be built over: an [`Inbox`] or an
/// [`EventRouter`](crate::EventRouter).
///
/// A router becomes a [`MemoryInbox`](crate::MemoryInbox) with its defaults on tokio (feature
/// `tokio`). [`WebhookLayer::inbox`](crate::WebhookLayer::inbox) changes these defaults. If layers
/// wrap the router, pass the layered service to `MemoryInbox::new`.
#[diagnostic::on_unimplemented(
    message = "a receiver can't be built over `{Self}`",
    label = "expected an `EventRouter` or an `Inbox`",
    note = "wrap any other service of events in an inbox: `MemoryInbox::new(service)`"
)]
pub trait IntoInbox {
    /// The type of the inbox.
    type Inbox: Inbox;

    /// Returns the inbox.
    ///
    /// # Panics
    ///
    /// Panics if two routes of the router have the same name.
    fn into_inbox(self) -> Self::Inbox;
}

impl<I: Inbox> IntoInbox for I {
    type Inbox = I;

    fn into_inbox(self) -> I {
        self
    }
}

#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
impl IntoInbox for EventRouter {
    type Inbox = MemoryInbox;

    #[track_caller]
    fn into_inbox(self) -> MemoryInbox {
        MemoryInbox::new(self)
    }
}
