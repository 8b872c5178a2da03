//! The monitor of an inbox samples the gauges every few seconds while events are in flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, HandlerError, Inbox, MemoryInbox, RetryPolicy,
};
use tokio::sync::Semaphore;

use crate::recorded::Recorded;

/// Longer than the time between two samples.
const PERIOD: Duration = Duration::from_secs(6);

/// The values at one moment. Reading the recorder resets its gauges, so a test reads all gauges at once.
type Series = BTreeMap<String, f64>;

#[track_caller]
fn assert_gauge(series: &Series, name: &str, expected: f64) {
    let value = series.get(name).copied().unwrap_or(f64::NAN);
    assert!((value - expected).abs() < 0.001, "{name} is {value}");
}

#[tokio::test(start_paused = true)]
async fn the_gauges_show_the_events_in_flight_and_then_an_idle_inbox() {
    let (recorded, _guard) = Recorded::on_this_thread();
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let router = EventRouter::new().on("account.updated", move |_: Event| async move {
        drop(opened.acquire().await);
    });
    let delivery = DeliverySettings::new()
        .concurrency(1)
        .attempt_timeout(Duration::from_secs(600));
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    assert!(recorded.series().is_empty());
    let mut bytes = 0;
    for _ in 0..3 {
        let event = MockRequest::event("account.updated").to_event();
        bytes += event.body().len();
        inbox.accept(event).await.unwrap();
    }
    tokio::time::sleep(PERIOD * 4).await;
    let series = recorded.series();
    assert_gauge(&series, "in_flight{state=running}", 1.0);
    assert_gauge(&series, "in_flight{state=waiting}", 2.0);
    assert_gauge(&series, "in_flight{state=retrying}", 0.0);
    assert_gauge(&series, "in_flight_bytes{}", bytes as f64);
    let age = series["oldest_event_age_seconds{}"];
    assert!((12.0..=24.0).contains(&age), "{age}");
    let accepted = series["last_accepted_timestamp_seconds{}"];
    assert!(accepted > 1_700_000_000.0, "{accepted}");

    gate.add_permits(3);
    inbox.handle().wait_idle().await;
    tokio::time::sleep(PERIOD).await;
    let series = recorded.series();
    for state in ["waiting", "running", "retrying"] {
        assert_gauge(&series, &format!("in_flight{{state={state}}}"), 0.0);
    }
    assert_gauge(&series, "in_flight_bytes{}", 0.0);
    assert_gauge(&series, "oldest_event_age_seconds{}", 0.0);
}

#[tokio::test(start_paused = true)]
async fn the_gauges_show_retries_dead_letters_and_routes_that_always_fail() {
    let (recorded, _guard) = Recorded::on_this_thread();
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {
            Err::<(), _>(HandlerError::from("the database is down"))
        })
        .on("account.created", |_: Event| async {});
    let retry = RetryPolicy::new()
        .max_attempts(100)
        .initial_delay(Duration::from_secs(60));
    let delivery = DeliverySettings::new().retry(retry);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    for event_type in ["account.updated", "account.created"] {
        let event = MockRequest::event(event_type).to_event();
        inbox.accept(event).await.unwrap();
    }
    tokio::time::sleep(PERIOD * 2).await;
    let series = recorded.series();
    assert_gauge(&series, "in_flight{state=retrying}", 1.0);
    assert_gauge(&series, "route_stalled{route=account.updated}", 0.0);
    tokio::time::sleep(Duration::from_secs(4 * 60 * 60)).await;
    let series = recorded.series();
    assert_gauge(&series, "route_stalled{route=account.updated}", 1.0);
    assert_gauge(&series, "route_stalled{route=account.created}", 0.0);
    inbox.handle().wait_idle().await;
    tokio::time::sleep(PERIOD).await;
    assert_gauge(&recorded.series(), "dead_letters{}", 1.0);
}
