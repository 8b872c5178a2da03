//! What costs no allocation: requests that pass through, and the way to a documented event type's
//! routes.
//!
//! Allocations are counted for each thread on its own.
#![cfg(feature = "tokio")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, EventType, SharedSecret, WebhookLayer};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service};

/// Answers without an allocation.
#[derive(Clone)]
struct Inner;

impl Service<Request<Full<Bytes>>> for Inner {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        ready(Ok(Response::new(request.into_body())))
    }
}

/// Sends a request to its end, and returns the bytes of the answer.
fn send<S, B>(service: &S, request: Request<Full<Bytes>>) -> usize
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let mut service = service.clone();
    assert!(service.poll_ready(&mut cx).is_ready());
    let response = pin!(service.call(request));
    let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
        panic!("the inner service is ready at once")
    };
    let mut body = pin!(response.into_body());
    assert!(body.size_hint().exact().is_some());
    let mut bytes = 0;
    while !body.is_end_stream() {
        let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) else {
            panic!("the body is ready at once")
        };
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
    bytes
}

#[test]
fn the_pass_through_arm_allocates_nothing() {
    let router = EventRouter::new().on_any(|_: Event| async {});
    let layer = WebhookLayer::new("/webhooks/botisimo", router)
        .verify(SharedSecret::in_query("token", "s3cret"));
    let service = layer.layer(Inner);

    let request = || MockRequest::event("account.updated").path("/other?token=s3cret");
    let through = request().build::<Full<Bytes>>();
    let (length, mut bytes) = (request().body_bytes().len(), 0);
    let ours = measure(|| bytes = send(&service, through));
    assert_eq!((ours.count_total, bytes), (0, length));
    // To wrap another service, as axum does for each request, costs none either.
    assert_eq!(measure(|| drop(layer.layer(Inner))).count_total, 0);

    // The counter counts: an answer of our own has its allocation.
    let webhook = MockRequest::event("account.updated").build::<Full<Bytes>>();
    assert_ne!(measure(|| bytes = send(&service, webhook)).count_total, 0);
}

#[test]
fn parsing_and_finding_a_documented_event_type_allocate_nothing() {
    let router = (0..1000).fold(EventRouter::new(), |router, i| {
        router.on(format!("service{i}.*"), |_: Event| async {})
    });
    let router = router
        .on_prefix("connection.stream", |_: Event| async {})
        .on_any(|_: Event| async {});
    for event_type in EventType::ALL {
        let name = event_type.as_str();
        let mut found = false;
        let parsed = measure(|| found = router.matches(&EventType::from(name)));
        assert_eq!(parsed.count_total, 0, "{name}");
        assert_eq!(found, name.starts_with("connection.stream"));
    }
    // The counter counts: any other name is kept.
    assert_ne!(
        measure(|| drop(EventType::from("planet.discovered"))).count_total,
        0
    );
}
