//! The trace context of an event is stored with the event: after a restart, in a dead letter and in its replay.

use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, Inbox};
use tokio::sync::Semaphore;

use crate::support::sqlite::{InboxFile, Log, failing, gated};
use crate::support::{event, until, wait_idle};

const VALID: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn traced(id: &str) -> Event {
    let request = MockRequest::event("a").message_id(id);
    request.header("traceparent", VALID).to_event()
}

/// Runs the events of the file, and returns the id and the `traceparent` of each one.
async fn seen(place: &InboxFile, replayed: Option<u64>) -> Vec<(String, Option<String>)> {
    let (write, seen) = std::sync::mpsc::channel();
    let router = EventRouter::new().on_any(move |event: Event| {
        let traceparent = event.traceparent().map(str::to_owned);
        write.send((event.id().to_owned(), traceparent)).unwrap();
        async {}
    });
    let inbox = place.inbox().open(router).await.unwrap();
    if let Some(id) = replayed {
        let letters = inbox.handle().dead_letters().unwrap();
        assert!(letters.replay(id).await.unwrap());
    }
    wait_idle(&inbox.handle()).await;
    let mut seen: Vec<_> = seen.try_iter().collect();
    seen.sort();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovered_event_has_its_traceparent_again() {
    let (place, log) = (InboxFile::new(), Log::default());
    let gate = Arc::new(Semaphore::new(0));
    let inbox = place.inbox().open(gated(&log, &gate)).await.unwrap();
    for event in [traced("1"), event("2"), traced("3")] {
        inbox.accept(event).await.unwrap();
    }
    until(|| log.len() > 0).await;
    let _ = inbox.handle().drain(Duration::ZERO).await;
    drop(inbox);
    let connection = place.closed_by(&gate).await;
    // The process ignores a value that another program damaged.
    let sql = "UPDATE events SET traceparent = CAST(x'ff' AS TEXT) WHERE id = 3";
    assert_eq!(connection.execute(sql, []).unwrap(), 1);
    drop(connection);
    let expected = [("1", Some(VALID)), ("2", None), ("3", None)];
    let owned =
        |(id, traceparent): (&str, Option<&str>)| (id.to_owned(), traceparent.map(str::to_owned));
    assert_eq!(seen(&place, None).await, expected.map(owned));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_and_its_replay_keep_the_traceparent() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(failing(&Log::default())).await.unwrap();
    inbox.accept(traced("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let letters = inbox.handle().dead_letters().unwrap();
    let letter = letters.get(1).await.unwrap().unwrap();
    assert_eq!(letter.event().unwrap().traceparent(), Some(VALID));
    drop((inbox, letters));
    let replayed = ("1".to_owned(), Some(VALID.to_owned()));
    assert_eq!(seen(&place, Some(1)).await, [replayed]);
}

/// A later version of the crate may decode the body.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cant_be_decoded_keeps_its_traceparent_in_its_dead_letter() {
    let (place, log) = (InboxFile::new(), Log::default());
    let gate = Arc::new(Semaphore::new(0));
    let inbox = place.inbox().open(gated(&log, &gate)).await.unwrap();
    inbox.accept(traced("1")).await.unwrap();
    until(|| log.len() > 0).await;
    let _ = inbox.handle().drain(Duration::ZERO).await;
    drop(inbox);
    let connection = place.closed_by(&gate).await;
    let sql = "UPDATE events SET body = '{}'";
    assert_eq!(connection.execute(sql, []).unwrap(), 1);
    drop(connection);
    assert_eq!(seen(&place, None).await, []);
    let sql = format!("SELECT count(*) FROM dead_letters WHERE traceparent = '{VALID}'");
    assert_eq!(place.count(&sql), 1);
}
