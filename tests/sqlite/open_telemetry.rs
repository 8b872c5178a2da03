//! Traces: an event of an earlier process continues the trace of its request.

use std::sync::Arc;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Inbox, WebhookLayer};
use bytes::Bytes;
use http_body_util::Full;
use tokio::sync::Semaphore;
use tower::ServiceExt;
use tracing::Instrument;

use crate::support::open_telemetry::{adopt, capture, collect};
use crate::support::sqlite::{InboxFile, Log, delivery, gated, logging};
use crate::support::{until, wait_idle};

#[tokio::test]
async fn after_a_restart_an_attempt_is_a_child_of_its_requests_span() {
    let (spans, _guard) = collect();
    let (place, log, gate) = (
        InboxFile::new(),
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = || place.inbox().delivery(delivery().adopt_traceparent(adopt));
    let inbox = builder().open(gated(&log, &gate)).await.unwrap();
    let layer = WebhookLayer::new("/", inbox).capture_traceparent(capture);
    let request: http::Request<Full<Bytes>> = MockRequest::event("a").build();
    let call = layer.endpoint().oneshot(request);
    let answer = call.instrument(tracing::info_span!("request")).await;
    assert_eq!(answer.unwrap().status(), 200);
    until(|| log.len() == 1).await;
    drop(layer);
    // The process crashes while the handler runs.
    place.closed_by(&gate).await;
    let before = spans.named("attempt").len();

    let inbox = builder().open(logging(&log)).await.unwrap();
    assert_eq!(wait_idle(&inbox.handle()).await.recovered, 1);
    let (request, attempts) = (spans.one("request").span_context, spans.named("attempt"));
    assert_eq!(attempts.len(), before + 1);
    for attempt in attempts {
        assert_eq!(attempt.span_context.trace_id(), request.trace_id());
        assert_eq!(attempt.parent_span_id, request.span_id());
    }
}
