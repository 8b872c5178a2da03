use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use tower_service::Service;

use crate::inbox::{Handle, Health};

/// A service that answers liveness and readiness probes.
///
/// If the path ends with `/live` or `/livez`, the service answers 200 while [`Health::is_live`] returns true. At every other path,
/// it answers 200 while [`Health::is_ready`] returns true. Otherwise it answers 503. The service answers `GET` and `HEAD`, and
/// answers 405 to other methods. It is always ready and never fails.
///
/// The answer has the header `Cache-Control: no-store`. The body is the [`Health`] as JSON:
///
/// ```json
/// {
///   "ok": false,
///   "ready": false,
///   "live": true,
///   "problems": [{
///     "kind": "inbox_failing",
///     "route": null,
///     "since": 1794124800000,
///     "message": "the inbox can't store events: the disk is full: /data/inbox.db; fix the cause, and the inbox recovers without a restart"
///   }]
/// }
/// ```
///
/// The messages may name files, streams, servers and routes. If that matters, don't forward the service's path from the public
/// proxy, or serve it on a separate port.
///
/// # Examples
///
/// ```
/// use axum::Router;
/// use botisimo_webhooks::{EventRouter, HealthService, WebhookLayer};
///
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", EventRouter::new());
/// let health = HealthService::new(webhooks.handle());
/// // Readiness at `/health` and `/health/ready`, liveness at `/health/live`.
/// let app: Router = Router::new().nest_service("/health", health).layer(webhooks);
/// ```
///
/// In a process that runs only a `JetStreamWorker`:
///
/// ```no_run
/// # #[cfg(feature = "jetstream")]
/// # fn health(worker: botisimo_webhooks::JetStreamWorker) {
/// use botisimo_webhooks::HealthService;
///
/// let health = HealthService::from_fn(move || worker.health());
/// # drop(health);
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct HealthService {
    health: Arc<dyn Fn() -> Health + Send + Sync>,
}

impl HealthService {
    /// Returns a service that answers with the health of a handle.
    pub fn new(handle: Handle) -> Self {
        Self::from_fn(move || handle.health())
    }

    /// Returns a service that answers with the health that the closure returns.
    ///
    /// The closure runs for each request, so it must not block.
    pub fn from_fn(health: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        Self {
            health: Arc::new(health),
        }
    }

    fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            insert(&mut response, header::ALLOW, "GET, HEAD");
            return response;
        }
        let health = (self.health)();
        let is_healthy = if path.ends_with("/live") || path.ends_with("/livez") {
            health.is_live()
        } else {
            health.is_ready()
        };
        let body = Bytes::from(serde_json::to_vec(&health).unwrap_or_default());
        let length = HeaderValue::from(body.len());
        let body = if method == Method::HEAD {
            Bytes::new()
        } else {
            body
        };
        let mut response = Response::new(Full::new(body));
        if !is_healthy {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        insert(&mut response, header::CONTENT_TYPE, "application/json");
        insert(&mut response, header::CACHE_CONTROL, "no-store");
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
        response
    }
}

fn insert(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    let value = HeaderValue::from_static(value);
    response.headers_mut().insert(name, value);
}

impl<B> Service<Request<B>> for HealthService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        ready(Ok(self.answer(request.method(), request.uri().path())))
    }
}

impl fmt::Debug for HealthService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthService").finish_non_exhaustive()
    }
}
