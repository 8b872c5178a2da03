use super::Inbox;
#[cfg(feature = "tokio")]
use super::MemoryInbox;
#[cfg(feature = "tokio")]
use crate::router::EventRouter;

/// What the front door can be built over: any [`Inbox`], or an [`EventRouter`](crate::EventRouter)
/// for a [`MemoryInbox`](crate::MemoryInbox) with its defaults on tokio (feature `tokio`).
///
/// A router with layers around it is an inbox's business: `MemoryInbox::new(service)`.
#[diagnostic::on_unimplemented(
    message = "webhooks can't be handed to `{Self}`",
    label = "expected an `EventRouter` or an `Inbox`",
    note = "wrap any other service of events in an inbox: `MemoryInbox::new(service)`"
)]
pub trait IntoInbox {
    /// The inbox.
    type Inbox: Inbox;

    /// Returns the inbox.
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

    fn into_inbox(self) -> MemoryInbox {
        MemoryInbox::new(self)
    }
}
