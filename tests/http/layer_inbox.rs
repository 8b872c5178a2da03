//! `WebhookLayer::inbox` configures the inbox of a layer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    Accepted, DeliverySettings, Event, EventRouter, Inbox, MemoryInbox, RetryPolicy, WebhookLayer,
};
use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::event;
use crate::support::panics::catch_panic;
use crate::support::runtime::TestRuntime;

fn layer(inbox: MemoryInbox) -> WebhookLayer {
    WebhookLayer::new("/webhooks/botisimo", inbox)
}

#[tokio::test(start_paused = true)]
async fn the_configured_inbox_keeps_the_router_and_the_settings_of_the_layer() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let router = EventRouter::new().on("a", |_: Event| async { Err::<(), _>("failed") });
    let delivery = DeliverySettings::new()
        .retry(RetryPolicy::new().max_attempts(2))
        .on_attempt(move |attempt| log.lock().unwrap().push(attempt.report().to_string()));
    let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
        .answer_unmatched(StatusCode::ACCEPTED)
        .inbox(|inbox| inbox.delivery(delivery))
        .inbox(|inbox| inbox.max_dead_letters(1));
    let harness = Harness::service(webhooks.endpoint(), webhooks.handle());
    for event_type in ["a", "a", "b"] {
        let expected = if event_type == "a" { 200 } else { 202 };
        let delivered = harness.deliver(MockRequest::event(event_type)).await;
        delivered.assert_status(expected);
    }
    let stats = harness.handle().stats();
    assert_eq!((stats.dead, stats.unhandled, stats.retried), (2, 1, 2));
    assert_eq!((stats.dead_letters, stats.dead_letters_dropped), (1, 1));
    let failed = "a failed: failed";
    assert_eq!(
        *reports.lock().unwrap(),
        [failed, failed, failed, failed, "no route"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_configured_inbox_starts_with_the_settings_of_the_inbox() {
    let router = EventRouter::new().on("a", |_: Event| std::future::pending::<()>());
    let inbox = MemoryInbox::builder().max_events(1).build(router);
    let webhooks = layer(inbox).inbox(|inbox| inbox.duplicate_window(Duration::ZERO));
    let service = webhooks.endpoint();
    for expected in [200, 503] {
        let request = MockRequest::event("a").build::<Full<Bytes>>();
        let answer = service.clone().oneshot(request).await;
        assert_eq!(answer.unwrap().status(), expected);
    }
    assert_eq!(webhooks.handle().stats().in_flight(), 1);
}

#[tokio::test]
async fn the_configured_inbox_keeps_its_runtime() {
    // This runtime spawns nothing, so the inbox can't accept an event.
    let inbox = MemoryInbox::builder().build_with(TestRuntime::shut_down(), EventRouter::new());
    let webhooks = layer(inbox).inbox(|inbox| inbox.max_events(5));
    let harness = Harness::service(webhooks.endpoint(), webhooks.handle());
    let delivered = harness.deliver(MockRequest::event("a")).await;
    delivered.assert_status(503);
}

#[tokio::test]
async fn configuring_an_inbox_in_use_panics() {
    let new = || layer(MemoryInbox::new(EventRouter::new()));
    let used: MemoryInbox = MemoryInbox::new(EventRouter::new());
    assert_eq!(used.accept(event("1")).await, Ok(Accepted::New));
    used.handle().wait_idle().await;

    let (handle, endpoint, clone, layered) = (new(), new(), new(), new());
    let kept = (
        handle.handle(),
        endpoint.endpoint(),
        clone.clone(),
        layered.layer(service_fn(async |_: ()| Ok::<(), ()>(()))),
    );
    for webhooks in [handle, endpoint, clone, layered, layer(used)] {
        let panic = catch_panic(|| drop(webhooks.inbox(|inbox| inbox))).unwrap();
        assert!(panic.message.contains("call `inbox` before"), "{panic:?}");
        assert!(panic.file.ends_with("layer_inbox.rs"), "{panic:?}");
    }
    drop(kept);

    // Nothing else uses these inboxes.
    let webhooks = new();
    drop((webhooks.handle(), webhooks.endpoint(), webhooks.clone()));
    drop(webhooks.inbox(|inbox| inbox));
}
