use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::uri::PathAndQuery;
use tower_layer::Layer;

use super::endpoint::Endpoint;
use super::receive::Receiver;
use super::rejection::Rejection;
use super::settings::{Settings, settings};
use super::verify::Verify;
use super::webhook::Webhook;
use crate::inbox::{Handle, Inbox, IntoInbox, MemoryInbox};
use crate::router::EventRouter;

/// Takes the webhooks of one path out of a service's requests; all others pass through untouched.
///
/// The path is compared with that of the request's own URI, exactly: no decoding, no trailing
/// slash; the query is ignored. On that path every request is answered within
/// [`response_timeout`](WebhookLayer::response_timeout), and never with the service's error type.
///
/// # Where it goes
///
/// Around the whole service:
///
/// - **axum**: [`Router::layer`], after the routes. [`Router::route_layer`] and layers inside
///   `nest` run only for routes that exist, and would never see the path: for these there is
///   [`Endpoint`], which is a route itself.
/// - **hyper**: `TowerToHyperService::new(webhooks.layer(service))`, of the crate `hyper-util`.
/// - **tonic**: `Server::builder().accept_http1(true).layer(webhooks)`. Without `accept_http1`
///   tonic takes HTTP/2 only.
///
/// It is ready when the service inside it is. axum's `Router` always is; a service under a
/// concurrency limit or a rate limit isn't, and a webhook that can't be called can't be answered.
/// Put `load_shed` around the limit, or mount an [`Endpoint`], which is always ready, beside it.
///
/// # What is the server's
///
/// The clock of [`response_timeout`](WebhookLayer::response_timeout) runs from the moment when a request's head is
/// there. Before that it is for the server to say how long a client may take, and how many there may be:
///
/// - hyper ends a head that comes too slowly where it has a timer, `timer(TokioTimer::new())`, after its
///   `header_read_timeout` of 30 s. Without one, as with `axum::serve`, it waits for ever: then let a proxy
///   do it, or serve as `examples/hyper.rs` does.
/// - hyper answers 431 to more than 100 headers, and to a head that is too large for its buffer.
/// - A connection takes some kilobytes, whether or not it asks for anything. Nothing here counts them: the
///   limit on open files does, or a proxy.
///
/// [`Router::layer`]: https://docs.rs/axum/latest/axum/struct.Router.html#method.layer
/// [`Router::route_layer`]: https://docs.rs/axum/latest/axum/struct.Router.html#method.route_layer
///
/// # Examples
///
/// ```
/// use axum::routing::get;
/// use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
///
/// let router = EventRouter::new().on("account.updated", |event: Event| async move {
///     println!("{}", event.id());
/// });
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
///     .verify(SharedSecret::in_query("token", "s3cret"));
/// let handle = webhooks.handle();
///
/// let app = axum::Router::new().route("/", get(|| async { "home" })).layer(webhooks);
/// # let _: axum::Router = app;
/// ```
#[derive(Debug)]
#[must_use]
pub struct WebhookLayer<I = MemoryInbox> {
    path: Arc<str>,
    receiver: Arc<Receiver<I>>,
}

impl<I: Inbox> WebhookLayer<I> {
    /// Returns a layer that receives the webhooks of `path` for a router, by way of a
    /// [`MemoryInbox`] with its defaults, or for any [`Inbox`].
    ///
    /// # Panics
    ///
    /// If the path isn't one that a request can have: it begins with a `/`, and has no query.
    ///
    /// ```should_panic
    /// # use botisimo_webhooks::{EventRouter, WebhookLayer};
    /// let _ = WebhookLayer::new("webhooks/botisimo", EventRouter::new());
    /// ```
    #[track_caller]
    pub fn new(path: impl AsRef<str>, inbox: impl IntoInbox<Inbox = I>) -> Self {
        let path = path.as_ref();
        let parsed = PathAndQuery::try_from(path);
        let exact = parsed.is_ok_and(|parsed| path.starts_with('/') && parsed.path() == path);
        assert!(
            exact,
            "a webhook's path begins with `/` and has no query: {path:?}"
        );
        Self {
            path: Arc::from(path),
            receiver: Arc::new(Receiver::new(inbox.into_inbox())),
        }
    }

    /// Returns the same front door as a service of its own, to be mounted as a route:
    /// `Router::route_service(path, …)`.
    pub fn endpoint(&self) -> Endpoint<I> {
        Endpoint::of(Arc::clone(&self.receiver))
    }

    settings!();
}

impl<S, I: Inbox> Layer<S> for WebhookLayer<I> {
    type Service = Webhook<S, I>;

    fn layer(&self, inner: S) -> Webhook<S, I> {
        self.receiver.check();
        Webhook::new(inner, Arc::clone(&self.path), Arc::clone(&self.receiver))
    }
}

impl<I> Clone for WebhookLayer<I> {
    fn clone(&self) -> Self {
        Self {
            path: Arc::clone(&self.path),
            receiver: Arc::clone(&self.receiver),
        }
    }
}
