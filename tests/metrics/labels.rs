//! Labels are bounded, and contain nothing that a sender or a handler chose.

use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, EventType, HandlerError, Inbox, MemoryInbox, RetryPolicy,
};

use crate::recorded::Recorded;
use crate::support::wait_idle;

/// Accepts an event of each type, and waits until they have ended.
async fn deliver(inbox: &MemoryInbox, types: impl IntoIterator<Item = String>) {
    for event_type in types {
        let event = MockRequest::event(event_type.as_str()).to_event();
        inbox.accept(event).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_unknown_event_types_add_no_series() {
    let (recorded, _guard) = Recorded::on_this_thread();
    let inbox = MemoryInbox::builder()
        .max_events(usize::MAX)
        .build(EventRouter::new().on_any(|_: Event| async {}));
    deliver(&inbox, ["unknown".to_owned()]).await;
    // The monitor samples the gauges.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let before: Vec<_> = recorded.series().into_keys().collect();
    deliver(&inbox, (0..100_000).map(|n| format!("unknown.{n}"))).await;
    let after = recorded.series();
    assert_eq!(before, after.keys().cloned().collect::<Vec<_>>());
    let other = after["events_total{event_type=other,outcome=unhandled}"];
    assert!((other - 100_001.0).abs() < 0.5, "{other}");
}

#[tokio::test]
async fn an_event_type_is_documented_or_named_by_a_route_or_other() {
    let (recorded, _guard) = Recorded::on_this_thread();
    let router = EventRouter::new()
        .on("moon.full", |_: Event| async {})
        .on("sun.*", |_: Event| async {})
        .on_prefix("star", |_: Event| async {});
    let inbox = MemoryInbox::new(router);
    let documented = EventType::ALL.map(|documented| documented.as_str().to_owned());
    deliver(&inbox, documented.clone()).await;
    let others = ["moon.full", "moon.new", "sun.set", "star", "star.shot"];
    deliver(&inbox, others.map(str::to_owned)).await;
    let series = recorded.series();
    let labels = series.keys().filter_map(|series| {
        let label = series.strip_prefix("received_total{event_type=")?;
        label.strip_suffix(",result=accepted}").map(str::to_owned)
    });
    let mut labels: Vec<_> = labels.collect();
    let mut expected = Vec::from(documented);
    expected.extend(["moon.full".to_owned(), "other".to_owned()]);
    expected.sort();
    labels.sort();
    assert_eq!(labels, expected);
    let other = series["received_total{event_type=other,result=accepted}"];
    assert!((other - 4.0).abs() < 0.5, "{other}");
}

#[tokio::test]
async fn no_id_payload_or_error_is_a_label() {
    let (recorded, _guard) = Recorded::on_this_thread();
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {
            Err::<(), _>(HandlerError::permanent("S3CRET error"))
        })
        .on("account.created", |_: Event| async {
            panic!("S3CRET panic")
        })
        .on("poll.created", |_: Event<u64>| async {});
    let delivery = DeliverySettings::new()
        .retry(RetryPolicy::no_retry())
        .ordering_key(|event: &Event| event.decode::<String>().ok());
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    for event_type in [
        "account.updated",
        "account.created",
        "poll.created",
        "S3CRET",
    ] {
        let mock = MockRequest::event(event_type).message_id(format!("S3CRET {event_type}"));
        inbox.accept(mock.data("S3CRET").to_event()).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    let series: Vec<_> = recorded.series().into_keys().collect();
    assert!(series.iter().any(|series| series.contains("panicked")));
    assert!(series.iter().any(|series| series.contains("mismatched")));
    assert!(
        !series.iter().any(|series| series.contains("S3CRET")),
        "{series:#?}"
    );
}

#[tokio::test]
async fn routes_behind_a_layer_have_their_names_as_labels() {
    let (recorded, _guard) = Recorded::on_this_thread();
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {})
        .named("refresh");
    let service = tower::ServiceBuilder::new()
        .concurrency_limit(8)
        .service(router);
    deliver(&MemoryInbox::new(service), ["account.updated".to_owned()]).await;
    let series = recorded.series();
    for name in ["attempts_total", "handler_duration_seconds"] {
        let count = series[&format!("{name}{{route=refresh,outcome=handled}}")];
        assert!((count - 1.0).abs() < 0.5, "{series:#?}");
    }
}
