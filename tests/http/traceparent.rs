//! The trace context of an event: captured from the request that brought the event.

use std::sync::{Arc, Mutex};

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{Event, EventRouter, MemoryInbox, WebhookLayer};

use crate::support::receiver::good;

const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const OTHER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

/// Sends a request, and returns the `traceparent` that its handler sees.
async fn seen(
    request: MockRequest,
    configure: impl FnOnce(WebhookLayer<MemoryInbox>) -> WebhookLayer<MemoryInbox>,
) -> Option<String> {
    let seen = Arc::new(Mutex::new(None));
    let write = Arc::clone(&seen);
    let router = EventRouter::new().on_any(move |event: Event| async move {
        *write.lock().unwrap() = Some(event.traceparent().map(str::to_owned));
    });
    let layer = configure(WebhookLayer::new("/webhooks/botisimo", router));
    let harness = Harness::service(layer.endpoint(), layer.handle());
    harness.deliver(request).await.assert_status(200);
    let seen = seen.lock().unwrap().clone();
    seen.expect("the handler ran")
}

#[tokio::test]
async fn a_valid_header_is_captured_with_the_event() {
    for header in [
        VALID,
        OTHER,
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-09",
    ] {
        let request = good().header("traceparent", header);
        assert_eq!(request.to_event().traceparent(), Some(header));
        assert_eq!(seen(request, |layer| layer).await.as_deref(), Some(header));
    }
    assert_eq!(seen(good(), |layer| layer).await, None);
}

#[tokio::test]
async fn an_invalid_header_is_ignored() {
    for header in [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
        "00-0af7651916cd43dd8448eb211c80319cb-ad6b7169203331-01-",
        "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
        "0-00af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ] {
        let request = good().header("traceparent", header);
        assert_eq!(seen(request, |layer| layer).await, None, "{header}");
    }
}

#[tokio::test]
async fn a_repeated_header_is_ignored() {
    let (write, seen) = std::sync::mpsc::channel();
    let router = EventRouter::new().on_any(move |event: Event| {
        let _ = write.send(event.traceparent().map(str::to_owned));
        async {}
    });
    let layer = WebhookLayer::new("/webhooks/botisimo", router);
    let mut request: http::Request<http_body_util::Full<bytes::Bytes>> = good().build();
    for value in [VALID, OTHER] {
        let value = http::HeaderValue::from_static(value);
        request.headers_mut().append("traceparent", value);
    }
    let answer = tower::ServiceExt::oneshot(layer.endpoint(), request);
    assert_eq!(answer.await.unwrap().status(), 200);
    layer.handle().wait_idle().await;
    assert_eq!(seen.recv().unwrap(), None);
}

#[tokio::test]
async fn the_users_closure_replaces_the_header_if_it_returns_a_valid_value() {
    for (returned, captured) in [
        (Some(OTHER), OTHER),
        (Some("not a traceparent"), VALID),
        (None, VALID),
    ] {
        let request = good().header("traceparent", VALID);
        let seen = seen(request, |layer| {
            layer.capture_traceparent(move |_| returned.map(str::to_owned))
        });
        assert_eq!(seen.await.as_deref(), Some(captured), "{returned:?}");
    }
}

#[tokio::test]
async fn a_panic_of_the_users_closure_changes_nothing() {
    let request = good().header("traceparent", VALID);
    let seen = seen(request, |layer| {
        layer.capture_traceparent(|_| panic!("the tracer"))
    });
    assert_eq!(seen.await.as_deref(), Some(VALID));
}
