//! A harness over the inbox on disk, in a test whose time is paused.

use std::time::Duration;

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, HandlerError, RetryPolicy, SqliteInbox,
};

use crate::support::receiver::Scripted;
use crate::support::sqlite::InboxFile;

/// The bug: while the writer was committing, the paused clock advanced to the response timeout, and the
/// receiver answered 503 to each event.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_waits_for_commits() {
    let place = InboxFile::new();
    let router = EventRouter::new().on("poll.created", |_: Event| async {});
    let inbox = SqliteInbox::open(place.path(), router).await.unwrap();
    let harness = Harness::inbox(inbox);
    for _ in 0..20 {
        let delivered = harness.deliver(MockRequest::event("poll.created")).await;
        delivered.assert_handled("poll.created");
    }
}

#[tokio::test(start_paused = true)]
async fn retries_on_disk_take_no_real_time_while_the_clock_is_paused() {
    let place = InboxFile::new();
    let hour = Duration::from_secs(3600);
    let router = EventRouter::new().on("poll.created", move |event: Event| async move {
        match event.attempt() {
            3 => Ok(()),
            _ => Err(HandlerError::retry_after(hour, "not yet")),
        }
    });
    let policy = RetryPolicy::new().max_delay(hour);
    let inbox = SqliteInbox::builder(place.path())
        .delivery(DeliverySettings::new().retry(policy))
        .open(router);
    let harness = Harness::inbox(inbox.await.unwrap());
    let before = tokio::time::Instant::now();
    let delivered = harness.deliver(MockRequest::event("poll.created")).await;
    delivered.assert_handled("poll.created");
    assert_eq!(delivered.attempts().len(), 3);
    assert!(before.elapsed() >= 2 * hour, "{:?}", before.elapsed());
}

/// The harness keeps the paused clock from advancing, but only for a bounded time: a request that never gets an
/// answer reaches its deadline.
#[tokio::test(start_paused = true)]
async fn a_paused_clock_still_reaches_the_response_timeout() {
    let inbox = Scripted::new(|_, _| std::future::pending());
    let delivered = Harness::inbox(inbox)
        .deliver(MockRequest::event("poll.created"))
        .await;
    delivered.assert_status(503);
}
