use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::request::Parts;
use http::uri::PathAndQuery;
use tower_layer::Layer;

use super::endpoint::Endpoint;
use super::receive::Receiver;
use super::rejection::Rejection;
use super::settings::Settings;
use super::verify::Verify;
use super::webhook::Webhook;
use crate::inbox::{Handle, Inbox, IntoInbox, MemoryInbox, MemoryInboxBuilder};
use crate::router::EventRouter;

/// Receives the webhooks of one path of a service. All other requests pass through unchanged.
///
/// The layer compares its path with the path of the request's URI byte by byte, without
/// percent-decoding. A trailing slash is significant, and the query is ignored. The layer answers
/// every request for its path within [`response_timeout`](WebhookLayer::response_timeout), and
/// never returns the service's error type for such a request.
///
/// If a JSON POST request misses the path by a trailing slash, by case or by a prefix, the layer passes
/// the request through and logs a warning. The warning names both paths, once for each difference.
///
/// # Where to add it
///
/// Add the layer around the whole service:
///
/// - **axum**: [`Router::layer`], after the routes. [`Router::route_layer`] and layers inside `nest`
///   run only for registered routes, so they never see the path. In these cases, mount an
///   [`Endpoint`] as a route.
/// - **hyper**: `TowerToHyperService::new(webhooks.layer(service))`, from the crate `hyper-util`.
/// - **tonic**: `Server::builder().accept_http1(true).layer(webhooks)`. Without `accept_http1`, tonic
///   accepts HTTP/2 only.
///
/// While the inner service isn't ready, webhooks aren't answered. axum's `Router` is always ready. A service with a
/// concurrency limit or a rate limit isn't always ready. Either put `load_shed` around the limit, or mount an
/// [`Endpoint`] next to the service, because an endpoint is always ready.
///
/// # Limits of the server
///
/// The deadline of [`response_timeout`](WebhookLayer::response_timeout) starts when the request head
/// has been received. Before that, only the server can limit the time and the number of connections:
///
/// - hyper with a timer (`timer(TokioTimer::new())`) closes a connection if the head takes longer
///   than its `header_read_timeout`, 30 s by default. Without a timer, as in `axum::serve`, hyper
///   waits without a limit, so set the limit in a reverse proxy, or set a timer as in
///   `examples/hyper.rs`.
/// - hyper answers 431 if a request has more than 100 headers, or if the head exceeds hyper's
///   buffer.
/// - An open connection uses a few kilobytes, even if it is idle. This crate doesn't count
///   connections. Limit the open files of the process, or the connections of the proxy.
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
    /// Returns a layer that receives the webhooks of `path`, over an [`Inbox`], or over an
    /// [`EventRouter`] in a default [`MemoryInbox`].
    ///
    /// # Panics
    ///
    /// Panics if the path doesn't start with `/` or has a query. Panics if two routes of the router
    /// have the same name.
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
            "the path of a webhook must start with `/` and have no query: {path:?}"
        );
        Self {
            path: Arc::from(path),
            receiver: Arc::new(Receiver::new(inbox.into_inbox())),
        }
    }

    /// Sets the maximum time from the request head to the answer. The default is 3 s.
    ///
    /// The time covers reading the body and storing the event. The specification asks for a quick
    /// answer: the sender drops events that time out, but retries after a 503.
    pub fn response_timeout(mut self, timeout: Duration) -> Self {
        self.settings().response_timeout = timeout;
        self
    }

    /// Sets the maximum size of a body in bytes. The default is 1 MiB.
    ///
    /// The default is thousands of times larger than the specification's example. The receiver
    /// answers a larger body with 413.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.settings().max_body_bytes = bytes;
        self
    }

    /// Sets the maximum size, in bytes, of all bodies that are being read or stored at once. The
    /// default is 64 MiB.
    ///
    /// Above the limit, the receiver answers 503. Set at least
    /// [`max_body_bytes`](Self::max_body_bytes).
    pub fn max_body_bytes_in_flight(mut self, bytes: usize) -> Self {
        self.settings().max_body_bytes_in_flight = bytes;
        self
    }

    /// Sets how requests are verified, for example by a [`SharedSecret`](crate::SharedSecret).
    ///
    /// By default, the receiver accepts every request, and logs a warning once. A second call
    /// replaces the first.
    pub fn verify(mut self, verify: impl Verify) -> Self {
        self.settings().verify = Some(Arc::new(verify));
        self
    }

    /// Sets the status of the answer to a body that isn't an event. The default is 400.
    ///
    /// After a 2xx, the sender doesn't retry. To keep the body, store [`Rejection::body`] in a hook
    /// of [`on_rejection`](Self::on_rejection).
    pub fn answer_malformed(mut self, status: StatusCode) -> Self {
        self.settings().malformed = status;
        self
    }

    /// Sets the status of the answer to an event that matches no route. The default is 200.
    ///
    /// Routes of `on_any` don't count as a match. With a 2xx, the inbox accepts the event as usual,
    /// and routes of `on_any` run. With any other status, the receiver rejects the event, and the
    /// inbox doesn't store it. After an error, the sender retries for days and then disables the
    /// endpoint.
    ///
    /// The receiver uses the router that the inbox was built over. If layers wrap the router, or if
    /// the inbox has no router (`JetStreamInbox`), first set the router with
    /// [`router`](Self::router).
    ///
    /// # Panics
    ///
    /// Panics if the receiver has no router.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{Event, EventRouter, MemoryInbox, WebhookLayer};
    /// use http::StatusCode;
    ///
    /// let router = EventRouter::new().on("account.updated", |_: Event| async {});
    /// let webhooks = WebhookLayer::new("/webhooks/botisimo", router.clone())
    ///     .answer_unmatched(StatusCode::ACCEPTED);
    ///
    /// // The timeout hides the router from the inbox.
    /// let timeout = std::time::Duration::from_secs(2);
    /// let service = tower::ServiceBuilder::new().timeout(timeout).service(router.clone());
    /// let webhooks = WebhookLayer::new("/webhooks/botisimo", MemoryInbox::new(service))
    ///     .router(&router)
    ///     .answer_unmatched(StatusCode::ACCEPTED);
    /// ```
    #[track_caller]
    pub fn answer_unmatched(mut self, status: StatusCode) -> Self {
        let settings = self.settings();
        assert!(
            settings.router.is_some(),
            "`answer_unmatched` needs a router, and the inbox has none or a layer hides it: \
             call `.router(&router)` before `.answer_unmatched(…)`"
        );
        settings.unmatched = Some(status);
        self
    }

    /// Sets the router that [`answer_unmatched`](Self::answer_unmatched) uses.
    ///
    /// The default is the router that the inbox was built over.
    ///
    /// # Panics
    ///
    /// Panics if two routes of the router have the same name.
    #[track_caller]
    pub fn router(mut self, router: &EventRouter) -> Self {
        if let Err(error) = router.validate() {
            panic!("{error}");
        }
        self.settings().router = Some(router.clone());
        self
    }

    /// Adds a hook that runs for each webhook request that the receiver answers with a status other
    /// than 200.
    ///
    /// The hook runs before the answer is sent, so it must not block. If the hook panics, the
    /// receiver logs the panic and continues.
    pub fn on_rejection(mut self, hook: impl Fn(&Rejection) + Send + Sync + 'static) -> Self {
        self.settings().hooks.add(Arc::new(hook));
        self
    }

    /// Sets a closure that returns the W3C `traceparent` of the current span. By default, the receiver
    /// captures the request's header `traceparent`.
    ///
    /// The receiver calls the closure in the request's span, after it has decoded the body, and
    /// passes the request's head. If the closure returns `None` or an invalid value, or if it panics,
    /// the receiver captures the header. [`Event::traceparent`](crate::Event::traceparent) returns the
    /// captured value, and durable inboxes store it.
    ///
    /// The [guide](crate::guide::operating) has an example with OpenTelemetry.
    pub fn capture_traceparent(
        mut self,
        capture: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.settings().capture_traceparent = Some(Arc::new(capture));
        self
    }

    /// Returns a service with the same inbox and settings. Mount it as a route:
    /// `Router::route_service(path, webhooks.endpoint())`.
    ///
    /// The endpoint ignores the path of the layer.
    pub fn endpoint(&self) -> Endpoint<I> {
        Endpoint::over(Arc::clone(&self.receiver))
    }

    /// Returns the handle for the inbox: use it to read the counts, to drain, and to wait for
    /// accepted events.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.receiver.handle()
    }

    fn settings(&mut self) -> &mut Settings {
        &mut Arc::make_mut(&mut self.receiver).settings
    }
}

impl WebhookLayer<MemoryInbox> {
    /// Configures the inbox in memory, for example its limits, retries or hooks.
    ///
    /// The builder starts with the current settings of the inbox. The router and the runtime stay the same.
    ///
    /// # Panics
    ///
    /// Panics if [`handle`](Self::handle), [`endpoint`](Self::endpoint) or a clone of the layer already uses the inbox, or if
    /// the inbox has accepted an event. Call this method first.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{DeliverySettings, EventRouter, RetryPolicy, WebhookLayer};
    ///
    /// let delivery = DeliverySettings::new().retry(RetryPolicy::new().max_attempts(8));
    /// let webhooks = WebhookLayer::new("/webhooks/botisimo", EventRouter::new())
    ///     .inbox(|inbox| inbox.max_events(500).delivery(delivery));
    /// ```
    #[track_caller]
    pub fn inbox(
        mut self,
        configure: impl FnOnce(MemoryInboxBuilder) -> MemoryInboxBuilder,
    ) -> Self {
        let receiver = Arc::get_mut(&mut self.receiver);
        assert!(
            receiver.is_some_and(|receiver| receiver.inbox.configure(configure)),
            "the inbox is already in use: call `inbox` before `handle`, `endpoint`, `layer` and `clone`, or configure \
             `MemoryInbox::builder()` and pass the inbox to `WebhookLayer::new`"
        );
        self
    }
}

impl<S, I: Inbox> Layer<S> for WebhookLayer<I> {
    type Service = Webhook<S, I>;

    fn layer(&self, inner: S) -> Webhook<S, I> {
        self.receiver.start(Some(&self.path));
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
