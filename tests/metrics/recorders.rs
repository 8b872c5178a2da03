//! A recorder may be installed late, may panic, and may call the inbox.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, Handle, MemoryInbox, WebhookLayer};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tower::ServiceExt;

use crate::recorded::Recorded;
use crate::support::wait_idle;

fn layer() -> WebhookLayer {
    let router = EventRouter::new().on("account.updated", |_: Event| async {});
    WebhookLayer::new("/webhooks/botisimo", MemoryInbox::new(router))
}

async fn send(layer: &WebhookLayer) {
    let request: http::Request<Body> = MockRequest::event("account.updated").build();
    let answer = layer.endpoint().oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    wait_idle(&layer.handle()).await;
}

#[tokio::test]
async fn a_recorder_that_is_installed_later_gets_all_metrics_with_their_descriptions() {
    let layer = layer();
    send(&layer).await;
    let described = {
        let (recorded, _guard) = Recorded::on_this_thread();
        send(&layer).await;
        recorded.described()
    };
    let (recorded, _guard) = Recorded::on_this_thread();
    send(&layer).await;
    assert_eq!(recorded.described(), described);
    assert!(described.len() >= 7, "{described:#?}");
}

/// A recorder that calls a closure for each handle.
struct Calls<F>(F);

impl<F: Fn()> Recorder for Calls<F> {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        self.0();
    }

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        self.0();
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {
        self.0();
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        self.0();
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        self.0();
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        self.0();
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_recorder_that_panics_costs_only_its_counts() {
    let recorder = Calls(|| panic!("the recorder panics"));
    let layer = {
        let _guard = metrics::set_default_local_recorder(&recorder);
        let layer = layer();
        send(&layer).await;
        send(&layer).await;
        layer
    };
    let stats = layer.handle().stats();
    assert_eq!((stats.accepted, stats.handled), (2, 2));
    let (recorded, _guard) = Recorded::on_this_thread();
    send(&layer).await;
    assert!(!recorded.series().is_empty());
}

#[tokio::test]
async fn a_recorder_may_call_the_inbox() {
    let handle: Arc<Mutex<Option<Handle>>> = Arc::default();
    let called = Arc::clone(&handle);
    let recorder = Calls(move || {
        let handle = called.lock().unwrap().clone();
        if let Some(handle) = handle {
            let stats = handle.stats();
            assert!(stats.accepted >= stats.handled, "{stats:?}");
        }
    });
    let _guard = metrics::set_default_local_recorder(&recorder);
    let layer = layer();
    *handle.lock().unwrap() = Some(layer.handle());
    send(&layer).await;
    assert_eq!(layer.handle().stats().handled, 1);
}
