use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::future::ResponseFuture;
use super::receive::Receiver;
use crate::error::BoxError;
use crate::inbox::{Handle, Inbox, IntoInbox, MemoryInbox};

/// A service that receives webhooks at any path. Mount it as a route, or serve it on a separate
/// port.
///
/// An endpoint is always ready and never fails. To receive the webhooks of one path of a service,
/// use [`WebhookLayer`](crate::WebhookLayer).
///
/// # Settings
///
/// [`Endpoint::new`] uses the default settings, so it accepts webhooks from any client that knows
/// the URL. To add a secret or a limit, configure a layer, and call
/// [`WebhookLayer::endpoint`](crate::WebhookLayer::endpoint):
///
/// ```
/// use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
///
/// let router = EventRouter::new().on_any(|event: Event| async move { println!("{}", event.id()) });
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
///     .verify(SharedSecret::in_query("token", "a long random text"));
/// let app: axum::Router = axum::Router::new().nest(
///     "/webhooks",
///     axum::Router::new().route_service("/botisimo", webhooks.endpoint()),
/// );
/// ```
#[derive(Debug)]
#[must_use]
pub struct Endpoint<I = MemoryInbox> {
    receiver: Arc<Receiver<I>>,
}

impl<I: Inbox> Endpoint<I> {
    /// Returns an endpoint over an [`Inbox`], or over an [`EventRouter`](crate::EventRouter) in a
    /// default [`MemoryInbox`].
    ///
    /// # Panics
    ///
    /// Panics if two routes of the router have the same name.
    #[track_caller]
    pub fn new(inbox: impl IntoInbox<Inbox = I>) -> Self {
        Self::over(Arc::new(Receiver::new(inbox.into_inbox())))
    }

    pub(super) fn over(receiver: Arc<Receiver<I>>) -> Self {
        receiver.start(None);
        Self { receiver }
    }

    /// Returns the handle for the inbox: use it to read the counts, to drain, and to wait for
    /// accepted events.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.receiver.handle()
    }
}

impl<I: Inbox, B> Service<Request<B>> for Endpoint<I>
where
    B: Body<Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        ResponseFuture::webhook(Box::pin(self.receiver.receive(request)))
    }
}

impl<I> Clone for Endpoint<I> {
    fn clone(&self) -> Self {
        Self {
            receiver: Arc::clone(&self.receiver),
        }
    }
}
