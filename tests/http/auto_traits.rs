//! The public types are `Send`, `Sync` and `Clone` wherever axum, hyper or tonic requires it.

use std::convert::Infallible;
use std::fmt::Debug;

use botisimo_webhooks::testing::{DeliveryResult, Harness, MockRequest};
use botisimo_webhooks::{
    AcceptError, Accepted, Attempt, Drained, Endpoint, Error, Event, EventOutcome, EventRouter,
    EventType, Handle, HandlerError, Inbox, MemoryInbox, MemoryInboxBuilder, Outcome, Pattern,
    Platform, Rejection, RejectionReason, Report, ResponseBody, ResponseFuture, Route,
    RouterFuture, SharedSecret, Stats, TokioRuntime, Unverified, Webhook, WebhookLayer,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service};

fn shared<T: Clone + Debug + Send + Sync + 'static>() {}

fn sent<T: Send + 'static>(_: &T) {}

/// A service like axum's services: cloned for each request, and `Sync` only if a bound requires it.
#[derive(Clone, Debug)]
struct Inner;

#[test]
fn services_layers_and_builders_can_be_cloned_and_shared() {
    shared::<WebhookLayer>();
    shared::<Webhook<Inner>>();
    shared::<Endpoint>();
    shared::<EventRouter>();
    shared::<MemoryInbox>();
    shared::<MemoryInboxBuilder>();
    shared::<Handle>();
    shared::<SharedSecret>();
    shared::<TokioRuntime>();
    shared::<Harness>();
    shared::<MockRequest>();
}

#[cfg(feature = "jetstream")]
#[test]
fn the_types_of_jetstream_can_be_cloned_and_shared() {
    use botisimo_webhooks::{
        JetStreamInbox, JetStreamInboxBuilder, JetStreamWorker, JetStreamWorkerBuilder, StartAt,
        StreamSettings, WorkerStats,
    };

    shared::<JetStreamInbox>();
    shared::<JetStreamInboxBuilder>();
    shared::<JetStreamWorker>();
    shared::<JetStreamWorkerBuilder>();
    shared::<StreamSettings>();
    shared::<StartAt>();
    shared::<WorkerStats>();
    let futures = |inbox: JetStreamInboxBuilder, worker: JetStreamWorkerBuilder| {
        sent(&inbox.open());
        sent(&worker.start(EventRouter::new()));
    };
    let _ = futures;
}

#[test]
fn values_can_be_cloned_and_shared() {
    shared::<Event>();
    shared::<Event<Vec<String>>>();
    shared::<EventType>();
    shared::<Platform>();
    shared::<Pattern>();
    shared::<Route>();
    shared::<Report>();
    shared::<Outcome>();
    shared::<HandlerError>();
    shared::<Error>();
    shared::<Stats>();
    shared::<Attempt>();
    shared::<EventOutcome>();
    shared::<Rejection>();
    shared::<RejectionReason>();
    shared::<Accepted>();
    shared::<AcceptError>();
    shared::<Drained>();
    shared::<Unverified>();
}

#[test]
fn mocks_and_their_requests_can_be_sent() {
    fn sendable<T: Debug + Send + Sync + 'static>() {}
    sendable::<DeliveryResult>();
}

#[test]
fn futures_can_be_sent() {
    fn future<F: Future + Send + 'static>() {}
    future::<ResponseFuture<std::future::Ready<Result<Response<Full<Bytes>>, Infallible>>>>();
    future::<ResponseFuture>();
    future::<RouterFuture>();

    let inbox = MemoryInbox::new(EventRouter::new());
    sent(&inbox.accept(MockRequest::event("account.updated").to_event()));
    sent(&inbox.handle().drain(std::time::Duration::ZERO));
    sent(&inbox.handle().wait_idle());
    let harness = Harness::inbox(inbox);
    sent(&harness.deliver(MockRequest::event("account.updated")));
}

#[test]
fn response_bodies_are_send_and_unpin() {
    fn body<T: Debug + Send + Sync + Unpin + 'static>() {}
    body::<ResponseBody>();
    body::<ResponseBody<Full<Bytes>>>();
    fn unpin<T: Unpin>() {}
    unpin::<ResponseFuture>();
    unpin::<RouterFuture>();
    unpin::<ResponseFuture<std::future::Ready<()>>>();
}

#[test]
fn the_layer_meets_the_bounds_of_axum_hyper_and_tonic() {
    fn axum<L>(layer: L) -> L
    where
        L: Layer<axum::routing::Route> + Clone + Send + Sync + 'static,
        L::Service: Service<axum::extract::Request, Error: Into<Infallible> + 'static>,
        L::Service: Clone + Send + Sync + 'static,
        <L::Service as Service<axum::extract::Request>>::Response: axum::response::IntoResponse,
        <L::Service as Service<axum::extract::Request>>::Future: Send + 'static,
    {
        layer
    }
    fn route<T>(service: T) -> T
    where
        T: Service<axum::extract::Request, Error = Infallible> + Clone + Send + Sync + 'static,
        T::Response: axum::response::IntoResponse,
        T::Future: Send + 'static,
    {
        service
    }
    fn hyper<S, B>(service: S) -> S
    where
        S: Service<Request<hyper::body::Incoming>, Response = Response<B>> + Clone,
        B: http_body::Body,
    {
        service
    }
    let layer = axum(WebhookLayer::new("/", EventRouter::new()));
    let _ = hyper(route(layer.endpoint()));
    let service = tower::service_fn(|_: Request<hyper::body::Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let _ = hyper(layer.layer(service));
}
