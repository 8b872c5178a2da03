//! Other connections to the file while the inbox is open. They can read all data. While another connection
//! blocks the inbox, the inbox refuses events.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, EventRouter, Inbox, Pattern, SqliteInbox,
};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::support::malformed::Malformed;
use crate::support::sqlite::{InboxFile, Log, delivery, failing, gated, logging};
use crate::support::{balanced, event, sized, until, wait_idle};

#[tokio::test(flavor = "multi_thread")]
async fn other_connections_can_read_the_file_while_the_inbox_works() {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let inbox = place
        .inbox()
        .open(gated(&Log::default(), &gate))
        .await
        .unwrap();
    let look = place.look();
    for id in ["1", "2"] {
        inbox.accept(event(id)).await.unwrap();
    }
    let by_id = MockRequest::event("a")
        .member("id", "3")
        .without("messageId");
    inbox.accept(by_id.to_event()).await.unwrap();
    let mut pending = look
        .prepare("SELECT id, message_id, event_type, received, attempt, due, routes FROM pending ORDER BY id")
        .unwrap();
    let rows = pending.query_map([], |row| {
        let received: String = row.get(3)?;
        assert!(
            received.starts_with("20") && received.len() == 19,
            "{received}"
        );
        assert_eq!(row.get::<_, Option<String>>(5)?, None);
        assert_eq!(row.get::<_, Option<String>>(6)?, None);
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, String>(2)?,
            row.get::<_, i64>(4)?,
        ))
    });
    let rows: Vec<_> = rows.unwrap().map(Result::unwrap).collect();
    let row = |id: i64| (id, id.to_string(), "a".to_owned(), 1);
    assert_eq!(rows, [row(1), row(2), row(3)]);
    gate.add_permits(3);
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    let inbox = place.inbox().open(failing(&Log::default())).await.unwrap();
    inbox.accept(event("4")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let dead = look.query_row(
        "SELECT message_id, event_type, routes, cause, attempts FROM dead_letters",
        [],
        |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, String>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, Option<String>>(3)?,
                row.get::<_, i64>(4)?,
            ))
        },
    );
    let routes = r#"[{"failed":"failed: no","route":"a"}]"#.to_owned();
    assert_eq!(
        dead.unwrap(),
        ("4".to_owned(), "a".to_owned(), routes, None, 1)
    );
}

/// The bug: a single event, chosen by the sender, made every query of the view fail.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_sqlite_cant_parse_as_json_leaves_the_view_readable() {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let inbox = place
        .inbox()
        .open(gated(&Log::default(), &gate))
        .await
        .unwrap();
    let deep = format!(
        r#"{{"messageId":"deep","timestamp":1,"eventType":"a","data":{}{}}}"#,
        "[".repeat(3000),
        "]".repeat(3000)
    );
    let deep = botisimo_webhooks::Event::from_bytes(deep);
    inbox.accept(event("1")).await.unwrap();
    if let Ok(deep) = deep {
        inbox.accept(deep).await.unwrap();
    }
    let look = place.look();
    let mut pending = look
        .prepare("SELECT message_id FROM pending ORDER BY id")
        .unwrap();
    let ids = pending
        .query_map([], |row| row.get::<_, Option<String>>(0))
        .unwrap();
    let ids: Vec<_> = ids.collect::<Result<_, _>>().unwrap();
    assert_eq!(ids[0].as_deref(), Some("1"));
    gate.add_permits(2);
}

fn log_bytes(place: &InboxFile) -> u64 {
    fs::metadata(place.folder().join("inbox.db-wal"))
        .unwrap()
        .len()
}

/// Returns a connection that reads until it is dropped.
fn reader(place: &InboxFile) -> Connection {
    let reader = place.look();
    reader.execute_batch("BEGIN").unwrap();
    let _: i64 = reader
        .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
        .unwrap();
    reader
}

/// Sends events of 20 KB until one is refused.
async fn fill(inbox: &SqliteInbox, name: &str) -> AcceptError {
    for i in 0..2000 {
        if let Err(refused) = inbox.accept(sized(&format!("{name}-{i}"), 20_000)).await {
            return refused;
        }
    }
    panic!("the inbox never refuses an event");
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_long_read_the_wal_is_bounded_and_the_inbox_recovers_afterwards() {
    const BOUND: u64 = 1 << 20;
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place
        .inbox()
        .max_wal_bytes(BOUND)
        .open(logging(&log))
        .await
        .unwrap();
    inbox.accept(event("first")).await.unwrap();
    let handle = inbox.handle();
    wait_idle(&handle).await;
    let reader = reader(&place);
    let refused = fill(&inbox, "x").await;
    assert_eq!(refused.kind(), AcceptErrorKind::Unavailable);
    assert!(log_bytes(&place) < 2 * BOUND, "{}", log_bytes(&place));
    // The inbox recognizes copies, and the file doesn't grow.
    assert_eq!(inbox.accept(event("first")).await, Ok(Accepted::Duplicate));
    for _ in 0..100 {
        assert!(inbox.accept(sized("y", 20_000)).await.is_err());
    }
    assert!(log_bytes(&place) < 2 * BOUND);
    balanced(&handle.stats());
    drop(reader);
    let mut taken = false;
    for _ in 0..20_000 {
        taken = inbox.accept(sized("y", 20_000)).await.is_ok();
        if taken {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(taken, "the inbox doesn't recover");
    wait_idle(&handle).await;
    assert_eq!(handle.stats().handled, handle.stats().accepted);
}

/// The bug: after a full log was emptied, waiting events continued only a minute later or with the next event.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_events_continue_after_a_long_read_without_a_new_event() {
    let (place, log, gate) = (
        InboxFile::new(),
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = place
        .inbox()
        .max_wal_bytes(1 << 20)
        .delivery(delivery().concurrency(1));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    let handle = inbox.handle();
    inbox.accept(event("1")).await.unwrap();
    until(|| log.len() == 1).await;
    inbox.accept(event("2")).await.unwrap();
    let reader = reader(&place);
    inbox.accept(sized("3", 2 << 20)).await.unwrap();
    // Running attempts end, and no new attempt starts.
    gate.add_permits(9);
    until(|| handle.stats().handled >= 1).await;
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
    let stats = handle.stats();
    assert!(stats.waiting + stats.running >= 1, "{stats:?}");
    drop(reader);
    until(|| handle.stats().handled == 3).await;
    balanced(&handle.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wal_limit_of_0_refuses_no_event_without_a_long_read() {
    let place = InboxFile::new();
    let inbox = place
        .inbox()
        .max_wal_bytes(0)
        .open(EventRouter::new())
        .await
        .unwrap();
    for id in 0..20 {
        assert_eq!(inbox.accept(event(id.to_string())).await, Ok(Accepted::New));
    }
    wait_idle(&inbox.handle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_foreign_write_events_are_refused_and_the_inbox_recovers_afterwards() {
    let (place, log, gate) = (
        InboxFile::new(),
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let inbox = place
        .inbox()
        .delivery(delivery().concurrency(2))
        .open(gated(&log, &gate))
        .await
        .unwrap();
    let handle = inbox.handle();
    for id in ["1", "2", "3", "x", "y"] {
        inbox.accept(event(id)).await.unwrap();
    }
    until(|| log.len() == 2).await;
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = inbox.accept(event("4")).await.unwrap_err();
    assert_eq!(refused.kind(), AcceptErrorKind::Unavailable);
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
    // One handler ends, and the inbox can't write the result. From then on, the inbox starts no new event.
    gate.add_permits(1);
    until(|| log.len() == 3).await;
    assert!(inbox.accept(event("5")).await.is_err());
    gate.add_permits(2);
    until(|| gate.available_permits() == 0).await;
    assert!(inbox.accept(event("6")).await.is_err());
    let stats = handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.handled), (3, 2, 0));
    assert_eq!(log.len(), 3);
    balanced(&stats);
    let letters = handle.dead_letters().unwrap();
    assert!(letters.list(None, 1).await.unwrap().is_empty());
    other.execute_batch("ROLLBACK").unwrap();
    gate.add_permits(2);
    wait_idle(&handle).await;
    assert_eq!(log.lines().len(), 5);
    // The refused events left no rows behind.
    assert_eq!(inbox.accept(event("4")).await, Ok(Accepted::New));
    gate.add_permits(1);
    wait_idle(&handle).await;
    assert_eq!((handle.stats().handled, handle.stats().refused), (6, 3));
}

/// The bug: only accepted events counted, so dead letters and replays could grow the log without limit.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_and_replays_count_against_the_wal_limit() {
    let place = InboxFile::new();
    let builder = place.inbox().max_wal_bytes(2 << 20);
    let inbox = builder.open(failing(&Log::default())).await.unwrap();
    let handle = inbox.handle();
    for id in 0..150 {
        inbox.accept(sized(&id.to_string(), 20_000)).await.unwrap();
    }
    wait_idle(&handle).await;
    let dead = handle.dead_letters().unwrap();
    for _ in 0..4 {
        let all = Pattern::prefix("a").unwrap();
        assert_eq!(dead.replay_matching(&all).await.unwrap(), 150);
        wait_idle(&handle).await;
    }
    // The test writes 3 MB of letters five times. A replay writes each step in one transaction.
    assert!(log_bytes(&place) < 10 << 20, "{}", log_bytes(&place));
    let stats = handle.stats();
    assert_eq!((stats.replayed, stats.dead), (600, 750));
    balanced(&stats);
}
