//! Traces: the attempts of an event belong to the trace of its request.

use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, MemoryInbox, RetryPolicy, WebhookLayer,
};
use bytes::Bytes;
use http_body_util::Full;
use opentelemetry::trace::{SpanId, TraceId};
use tower::ServiceExt;
use tracing::Instrument;

use crate::support::open_telemetry::{Spans, adopt, capture, collect};
use crate::support::subscriber;

/// Sends one request in a span, and waits until its event has ended.
async fn deliver(layer: &WebhookLayer<MemoryInbox>, request: MockRequest) {
    let request: http::Request<Full<Bytes>> = request.build();
    let call = layer.endpoint().oneshot(request);
    let answer = call.instrument(tracing::info_span!("request")).await;
    assert_eq!(answer.unwrap().status(), 200);
    layer.handle().wait_idle().await;
}

/// Returns a layer whose handler fails once.
fn layer(delivery: DeliverySettings) -> WebhookLayer<MemoryInbox> {
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            tracing::info!("the handler ran");
            tokio::task::yield_now().await;
            if event.attempt() == 1 {
                Err("once")
            } else {
                Ok(())
            }
        })
        .named("route a");
    let retry = RetryPolicy::new().initial_delay(Duration::ZERO);
    let inbox = MemoryInbox::builder()
        .delivery(delivery.retry(retry))
        .build(router);
    WebhookLayer::new("/", inbox)
}

/// Asserts that both attempts are children of this span, and the routes children of the attempts.
#[track_caller]
fn assert_tree(spans: &Spans, trace: TraceId, parent: SpanId) {
    let (attempts, routes) = (spans.named("attempt"), spans.named("route"));
    assert_eq!((attempts.len(), routes.len()), (2, 2));
    for (attempt, route) in attempts.iter().zip(&routes) {
        assert_eq!(attempt.span_context.trace_id(), trace);
        assert_eq!(attempt.parent_span_id, parent);
        assert_eq!(route.span_context.trace_id(), trace);
        assert_eq!(route.parent_span_id, attempt.span_context.span_id());
    }
}

#[tokio::test]
async fn attempts_are_children_of_the_requests_span_without_any_setting() {
    let (spans, _guard) = collect();
    deliver(&layer(DeliverySettings::new()), MockRequest::event("a")).await;
    let request = spans.one("request").span_context;
    assert_tree(&spans, request.trace_id(), request.span_id());
}

#[tokio::test]
async fn with_adopt_traceparent_attempts_are_children_of_the_requests_span_which_ends_with_the_request()
 {
    let (spans, _guard) = collect();
    let layer = layer(DeliverySettings::new().adopt_traceparent(adopt));
    let layer = layer.capture_traceparent(capture);
    deliver(&layer, MockRequest::event("a")).await;
    let request = spans.one("request");
    let context = &request.span_context;
    assert_tree(&spans, context.trace_id(), context.span_id());
    let second = &spans.named("attempt")[1];
    assert!(request.end_time <= second.start_time);
}

#[tokio::test]
async fn without_capture_traceparent_attempts_are_children_of_the_clients_span() {
    let (spans, _guard) = collect();
    let layer = layer(DeliverySettings::new().adopt_traceparent(adopt));
    let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    deliver(
        &layer,
        MockRequest::event("a").header("traceparent", header),
    )
    .await;
    let trace = TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_tree(&spans, trace, SpanId::from(0xb7ad_6b71_6920_3331));
}

#[tokio::test]
async fn without_a_traceparent_the_requests_span_is_the_parent() {
    let (spans, _guard) = collect();
    let layer = layer(DeliverySettings::new().adopt_traceparent(adopt));
    deliver(&layer, MockRequest::event("a")).await;
    let request = spans.one("request").span_context;
    assert_tree(&spans, request.trace_id(), request.span_id());
}

#[tokio::test]
async fn if_adopt_traceparent_panics_the_event_is_handled_and_the_panic_is_logged() {
    let (log, _guard) = subscriber::capture("warn");
    let layer = layer(DeliverySettings::new().adopt_traceparent(|_, _| panic!("the tracer")));
    let header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = MockRequest::event("a").header("traceparent", header);
    deliver(&layer, request).await;
    assert_eq!(layer.handle().stats().handled, 1);
    let lines = log.lines();
    let panics = lines
        .iter()
        .filter(|line| line.contains("hook=\"adopt_traceparent\""));
    assert_eq!(panics.count(), 2, "{lines:?}");
}
