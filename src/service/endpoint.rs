use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::receive::Receiver;
use super::rejection::Rejection;
use super::reply::Reply;
use super::settings::{Settings, settings};
use super::verify::Verify;
use crate::error::BoxError;
use crate::inbox::{Handle, Inbox, IntoInbox, MemoryInbox};
use crate::router::EventRouter;
use crate::runtime::BoxFuture;

/// A service that takes every request for a webhook, whatever its path: for a route of its own, or
/// a port of its own.
///
/// It is always ready and never fails. [`WebhookLayer`](crate::WebhookLayer) is the same for one
/// path of a service.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{Endpoint, Event, EventRouter};
///
/// let router = EventRouter::new().on_any(|event: Event| async move { println!("{}", event.id()) });
/// let app: axum::Router = axum::Router::new().nest(
///     "/webhooks",
///     axum::Router::new().route_service("/botisimo", Endpoint::new(router)),
/// );
/// ```
#[derive(Debug)]
#[must_use]
pub struct Endpoint<I = MemoryInbox> {
    receiver: Arc<Receiver<I>>,
}

impl<I: Inbox> Endpoint<I> {
    /// Returns a service that receives webhooks for a router, by way of a [`MemoryInbox`] with its
    /// defaults, or for any [`Inbox`].
    pub fn new(inbox: impl IntoInbox<Inbox = I>) -> Self {
        Self::of(Arc::new(Receiver::new(inbox.into_inbox())))
    }

    pub(super) fn of(receiver: Arc<Receiver<I>>) -> Self {
        Self { receiver }
    }

    settings!();
}

impl<I: Inbox, B> Service<Request<B>> for Endpoint<I>
where
    B: Body<Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = EndpointFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> EndpointFuture {
        self.receiver.check();
        EndpointFuture {
            reply: Box::pin(self.receiver.receive(request)),
        }
    }
}

impl<I> Clone for Endpoint<I> {
    fn clone(&self) -> Self {
        Self {
            receiver: Arc::clone(&self.receiver),
        }
    }
}

/// The future of [`Endpoint`].
///
/// # Cancel safety
///
/// As that of [`ResponseFuture`](crate::ResponseFuture).
#[must_use = "futures do nothing unless polled"]
pub struct EndpointFuture {
    reply: BoxFuture<Reply>,
}

impl Future for EndpointFuture {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.reply
            .as_mut()
            .poll(cx)
            .map(|reply| Ok(reply.into_response()))
    }
}

impl fmt::Debug for EndpointFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointFuture").finish_non_exhaustive()
    }
}
