//! A request for another path and the lookup of a documented event type allocate nothing. The allocations and
//! the memory of an event are bounded.
//!
//! Allocations are counted per thread. No test of this binary sets a `tracing` subscriber, because a subscriber
//! also allocates.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use allocation_counter::measure;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, Event, EventRouter, EventType, Inbox, MemoryInbox, SharedSecret, WebhookLayer,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service};

/// An inner service that answers without an allocation.
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

/// Sends a request, reads the whole answer, and returns its bytes.
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
fn a_request_for_another_path_allocates_nothing() {
    let router = EventRouter::new().on_any(|_: Event| async {});
    let layer = WebhookLayer::new("/webhooks/botisimo", router)
        .verify(SharedSecret::in_query("token", "s3cret"));
    let service = layer.layer(Inner);

    let request = || {
        MockRequest::event("account.updated")
            .message_id("m-1")
            .path("/other?token=s3cret")
    };
    let through = request().build::<Full<Bytes>>();
    let (length, mut bytes) = (request().body_bytes().len(), 0);
    let ours = measure(|| bytes = send(&service, through));
    assert_eq!((ours.count_total, bytes), (0, length));
    // Wrapping another service also allocates nothing. axum wraps a service for each request.
    assert_eq!(measure(|| drop(layer.layer(Inner))).count_total, 0);

    // An answer of the receiver allocates, which shows that the counter counts.
    let webhook = MockRequest::event("account.updated").build::<Full<Bytes>>();
    assert_ne!(measure(|| bytes = send(&service, webhook)).count_total, 0);
}

/// The bug: a URL has space for thousands of secrets, and the verifier decoded each of them twice.
#[test]
fn a_thousand_wrong_secrets_allocate_no_more_than_one() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let layer = WebhookLayer::new("/webhooks/botisimo", EventRouter::new())
        .verify(SharedSecret::in_query("token", "s3cret"));
    let service = layer.layer(Inner);
    for wrong in ["token=a", "token=+", "token=wrong1"] {
        let allocations = |times: usize| {
            let query = vec![wrong; times].join("&");
            let path = format!("/webhooks/botisimo?{query}");
            let request = MockRequest::event("a").path(path).build::<Full<Bytes>>();
            measure(|| assert_ne!(send(&service, request), 0)).count_total
        };
        // The first rejection starts the monitor of the inbox.
        allocations(1);
        assert_eq!(allocations(1000), allocations(1), "{wrong}");
    }
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
    // The router keeps a copy of any other name, which shows that the counter counts.
    assert_ne!(
        measure(|| drop(EventType::from("planet.discovered"))).count_total,
        0
    );
}

/// Accepts an event.
fn accept(inbox: &MemoryInbox, number: usize, body: &str) {
    let body = body.replacen("00000000", &format!("{number:08}"), 1);
    let event = Event::from_bytes(body).expect("a good event");
    let mut accept = pin!(inbox.accept(event));
    let accepted = accept
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(accepted, Poll::Ready(Ok(Accepted::New))));
}

#[test]
fn a_waiting_event_takes_less_than_300_bytes_beyond_its_body() {
    const EVENTS: usize = 100_000;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    // This runtime runs tasks only while the test blocks on it.
    let _entered = runtime.enter();
    let inbox = MemoryInbox::builder()
        .max_events(EVENTS)
        .build(EventRouter::new().on_any(|_: Event| async {}));
    let data = "x".repeat(500);
    let body = format!(
        r#"{{"messageId":"00000000","timestamp":1,"eventType":"account.updated","data":"{data}"}}"#
    );

    let held = measure(|| (0..EVENTS).for_each(|number| accept(&inbox, number, &body)));
    assert_eq!(inbox.handle().stats().waiting, EVENTS as u64);
    let held = usize::try_from(held.bytes_current).expect("more is allocated than freed");
    let each = held / EVENTS - body.len();
    println!("{each} bytes each beyond the body");
    assert!(each < 300, "{each}");
    // An id, an event and its entry in the queue take memory, so the count isn't 0.
    assert!(each > 100, "{each}");
}

#[test]
fn an_event_makes_nine_allocations_from_its_request_to_its_end() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let layer = WebhookLayer::new(
        "/webhooks/botisimo",
        EventRouter::new().on("account.updated", |_: Event| async {}),
    );
    let (handle, service) = (layer.handle(), layer.layer(Inner));
    let deliver = |id: &str| {
        let request = MockRequest::event("account.updated").message_id(id);
        let request = request.build::<Full<Bytes>>();
        let measured = measure(|| {
            runtime.block_on(async { send(&service, request) });
            // The event's worker runs here. tokio's own `yield_now` allocates.
            let mut turns = 0..2;
            runtime.block_on(poll_fn(|cx| {
                cx.waker().wake_by_ref();
                turns.next().map_or(Poll::Ready(()), |_| Poll::Pending)
            }));
        });
        assert_eq!(handle.stats().in_flight(), 0);
        measured.count_total
    };
    // The first event makes the queue, the ids and the runtime allocate their capacity.
    deliver("m-0");
    // The allocations: the receiver's future; the body, and the envelope that owns it; the job; the worker's
    // future and its task; the attempt's state, and its routes, which the reports share; the handler's future.
    // If the data contains brackets, there is one more.
    assert_eq!(deliver("m-1"), 9);
    assert_eq!(deliver("m-2"), 9);
}
