//! Events of an earlier process run in order, and the window limits how many run at the same time. No event can
//! crash the process forever.

use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::{Event, EventRouter, Inbox, SqliteInbox};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::support::runtime::TestRuntime;
use crate::support::sqlite::{InboxFile, LONG, Log, delivery, gated, logging};
use crate::support::{balanced, event, letters, sized, until, wait_idle};

/// Writes events to disk, as a process that has run none of them would.
fn left_behind(connection: &mut Connection, events: u32, padding: usize) {
    let fill = connection.transaction().unwrap();
    let body = format!(
        r#"'{{"messageId":"' || i || '","timestamp":1,"eventType":"a","data":null}}' || printf('%*s', {padding}, '')"#
    );
    let numbers = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {events})"
    );
    for sql in [
        format!("INSERT INTO events (id, received_at, body) {numbers} SELECT i, i, {body} FROM n"),
        format!("INSERT INTO message_ids {numbers} SELECT i, 4000000000000, i FROM n"),
        "UPDATE totals SET next_id = (SELECT max(id) + 1 FROM events), events = (SELECT count(*) FROM events), event_bytes = (SELECT sum(octet_length(body)) FROM events)".to_owned(),
    ] {
        fill.execute(&sql, []).unwrap();
    }
    fill.commit().unwrap();
}

/// Returns the file of an earlier process that left events.
async fn place(events: u32, padding: usize) -> InboxFile {
    let place = InboxFile::new();
    drop(place.inbox().open(EventRouter::new()).await.unwrap());
    left_behind(&mut place.closed().await, events, padding);
    place
}

fn numbers(log: &Log) -> Vec<u32> {
    let number = |line: &String| line.strip_suffix("#1").unwrap().parse().unwrap();
    log.lines().iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_events_run_in_order_and_count_as_recovered_at_once() {
    let (place, log, gate) = (
        place(600, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = place.inbox().delivery(delivery().concurrency(1));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.recovered, stats.in_flight(), stats.accepted),
        (600, 600, 0)
    );
    balanced(&stats);
    inbox.accept(event("601")).await.unwrap();
    gate.add_permits(601);
    wait_idle(&inbox.handle()).await;
    assert!(numbers(&log).into_iter().eq(1..=601));
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.bytes), (601, 0));
    balanced(&stats);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_larger_than_memory_is_loaded_by_window_beside_new_events() {
    let (place, log) = (place(3000, 0).await, Log::default());
    let builder = place
        .inbox()
        .max_events_in_memory(8)
        .delivery(delivery().concurrency(3));
    let inbox = builder.open(logging(&log)).await.unwrap();
    for i in 3001..=3100 {
        inbox.accept(event(i.to_string())).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    let mut numbers = numbers(&log);
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=3100));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_larger_than_the_window_run_one_by_one() {
    let (place, log) = (InboxFile::new(), Log::default());
    let gate = Arc::new(Semaphore::new(0));
    let small = || place.inbox().max_bytes_in_memory(1000).max_bytes(u64::MAX);
    let inbox = small().open(gated(&log, &gate)).await.unwrap();
    for id in 1..=8 {
        inbox.accept(sized(&id.to_string(), 300_000)).await.unwrap();
    }
    until(|| log.len() == 1).await;
    let handle = inbox.handle();
    assert_eq!((handle.stats().running, handle.stats().waiting), (1, 7));
    let _ = handle.drain(Duration::ZERO).await;
    drop((inbox, handle));
    gate.add_permits(8);
    let inbox = small().open(logging(&log)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert!(numbers(&log).into_iter().eq(1..=8));
}

/// The window bounds memory, no matter how many events wait on disk. Here, 50,000 events of 2 KB each wait.
#[test]
fn a_large_backlog_takes_only_the_memory_of_its_window() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let place = runtime().block_on(place(50_000, 2000));
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let builder = place
        .inbox()
        .max_events_in_memory(100)
        .delivery(delivery().concurrency(10));
    let inbox = runtime();
    // Workers run on this thread, and another thread loads the window. So this test counts the events that
    // handlers have received, which are part of the window.
    let held = inbox.block_on(async {
        let inbox = builder.open(gated(&log, &gate)).await.unwrap();
        until(|| log.len() == 10).await;
        let stats = inbox.handle().stats();
        assert_eq!(
            (stats.recovered, stats.running, stats.waiting),
            (50_000, 10, 49_990)
        );
        // The inbox marks an event as running before it runs.
        let marked = place.count("SELECT count(*) FROM events WHERE running = 1");
        gate.add_permits(30);
        until(|| log.len() == 40).await;
        marked
    });
    assert_eq!(held, 10);
}

/// The bug: a normal shutdown with stored events was a warning.
#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_shutdown_with_stored_events_is_no_warning() {
    let (lines, _guard) = crate::support::subscriber::capture("info");
    let (place, log, gate) = (
        place(3, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = place.inbox().delivery(delivery().concurrency(1));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    until(|| log.len() == 1).await;
    gate.add_permits(1);
    let shutdown = inbox.handle().shutdown_on(std::future::ready(()));
    let remaining = shutdown.await.unwrap().remaining;
    assert!(remaining > 0);
    let line = lines.line("the remaining events run after a restart");
    assert!(line.contains("INFO"), "{line}");
    assert!(line.contains(&format!("remaining={remaining}")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_starts_nothing_finishes_running_attempts_and_leaves_the_rest_unmarked() {
    let (place, log, gate) = (
        place(100, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = place.inbox().delivery(delivery().concurrency(4));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    until(|| log.len() == 4).await;
    let handle = inbox.handle();
    let drain = tokio::spawn(handle.drain(LONG));
    until(|| place.count("SELECT count(*) FROM events WHERE running = 1") <= 4).await;
    gate.add_permits(100);
    assert_eq!(drain.await.unwrap().remaining, 96);
    assert_eq!(log.len(), 4);
    let stats = handle.stats();
    assert_eq!((stats.handled, stats.waiting, stats.running), (4, 96, 0));
    balanced(&stats);
    assert_eq!(
        place.count("SELECT count(*) FROM events WHERE running = 0 AND crashes = 0"),
        96
    );
    assert_eq!(place.count("SELECT count(*) FROM events"), 96);
    // A second drain does nothing.
    assert_eq!(handle.drain(LONG).await.remaining, 96);
    drop((inbox, handle));
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.len(), 100);
    assert_eq!(inbox.handle().drain(LONG).await.remaining, 0);
}

/// During a drain, no attempt starts, even if a handler ends and its worker would run the next event.
#[tokio::test]
async fn no_attempt_starts_after_a_drain_has_begun() {
    for _ in 0..20 {
        let (place, log, gate) = (
            InboxFile::new(),
            Log::default(),
            Arc::new(Semaphore::new(0)),
        );
        let builder = place.inbox().delivery(delivery().concurrency(1));
        let inbox = builder.open(gated(&log, &gate)).await.unwrap();
        for id in 0..20 {
            inbox.accept(event(id.to_string())).await.unwrap();
        }
        until(|| log.len() == 1).await;
        gate.add_permits(20);
        assert_eq!(inbox.handle().drain(LONG).await.remaining, 19);
        assert_eq!(log.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_unmarks_events_that_found_no_worker() {
    let place = place(20, 0).await;
    let builder = place.inbox().delivery(delivery().concurrency(4));
    let inbox = builder
        .open_with(TestRuntime::shut_down(), EventRouter::new())
        .await
        .unwrap();
    let marked = || place.count("SELECT count(*) FROM events WHERE running = 1");
    until(|| marked() == 4).await;
    assert_eq!(inbox.handle().drain(LONG).await.remaining, 20);
    assert_eq!(marked(), 0);
    balanced(&inbox.handle().stats());
}

/// The bug: a long-running event became a dead letter after three deployments whose drains took too long.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_outlasts_a_drain_is_no_poison_candidate() {
    let (place, log, gate) = (
        place(3, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let inbox = place.inbox().open(gated(&log, &gate)).await.unwrap();
    let marked = || place.count("SELECT count(*) FROM events WHERE running = 1");
    until(|| log.len() == 3).await;
    assert_eq!(marked(), 3);
    let _ = inbox.handle().drain(Duration::ZERO).await;
    until(|| marked() == 0).await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.running, stats.waiting), (3, 0));
    gate.add_permits(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_dropped_without_a_drain_leaves_unstarted_events_unmarked() {
    let (place, log, gate) = (
        place(100, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder = place.inbox().delivery(delivery().concurrency(4));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    until(|| log.len() == 4).await;
    drop(inbox);
    gate.add_permits(100);
    drop(place.closed().await);
    let left = place.count("SELECT count(*) FROM events WHERE running = 0 AND crashes = 0");
    assert_eq!(left, place.count("SELECT count(*) FROM events"));
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.counts().len(), 100);
    // Each event ran once.
    assert_eq!(log.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_events_of_an_earlier_process_are_marked_before_they_run() {
    let (place, log, gate) = (
        place(3, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let inbox = place.inbox().open(gated(&log, &gate)).await.unwrap();
    inbox.accept(event("4")).await.unwrap();
    until(|| log.len() == 4).await;
    let marked =
        "SELECT group_concat(id, ' ') FROM (SELECT id FROM events WHERE running = 1 ORDER BY id)";
    let marked: String = place
        .look()
        .query_row(marked, [], |row| row.get(0))
        .unwrap();
    assert_eq!(marked, "1 2 3");
    gate.add_permits(4);
    wait_idle(&inbox.handle()).await;
}

async fn crashed(place: &InboxFile, log: &Log, gate: &Arc<Semaphore>, crashes: u32) -> SqliteInbox {
    let builder = place
        .inbox()
        .max_crashes(crashes)
        .delivery(delivery().concurrency(8));
    builder.open(gated(log, gate)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_candidates_run_one_at_a_time_beside_other_events() {
    let (place, log, gate) = (
        place(10, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    assert_eq!(
        place
            .edit("UPDATE events SET running = 1 WHERE id IN (2, 3, 4)")
            .await,
        3
    );
    let inbox = crashed(&place, &log, &gate, 3).await;
    until(|| log.len() == 8).await;
    let handle = inbox.handle();
    // Only one poison candidate runs at a time, next to all other events.
    let mut running = numbers(&log);
    running.sort_unstable();
    assert_eq!(running, [1, 2, 5, 6, 7, 8, 9, 10]);
    assert_eq!((handle.stats().running, handle.stats().waiting), (8, 2));
    gate.add_permits(8);
    until(|| log.len() == 9).await;
    until(|| handle.stats().handled == 8).await;
    assert_eq!((handle.stats().running, handle.stats().waiting), (1, 1));
    assert_eq!(numbers(&log)[8], 3);
    gate.add_permits(1);
    until(|| log.len() == 10).await;
    gate.add_permits(1);
    wait_idle(&handle).await;
    assert_eq!(handle.stats().handled, 10);
    balanced(&handle.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_candidate_that_fails_is_no_longer_a_candidate() {
    let (place, log) = (place(3, 0).await, Log::default());
    assert_eq!(place.edit("UPDATE events SET running = 1").await, 3);
    let write = log.clone();
    let router = EventRouter::new().on("a", move |event: Event| async move {
        write.run(&event);
        if event.attempt() == 1 {
            Err("not yet")
        } else {
            Ok(())
        }
    });
    let inbox = place.inbox().open(router).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.len(), 6);
    assert_eq!(inbox.handle().stats().handled, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_limit_of_crashes_an_event_is_dead_lettered_and_never_runs() {
    let (place, log, gate) = (
        place(5, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(9)),
    );
    assert_eq!(
        place
            .edit("UPDATE events SET running = 1, crashes = 1 WHERE id IN (1, 2)")
            .await,
        2
    );
    assert_eq!(
        place
            .edit("UPDATE events SET crashes = 1 WHERE id = 3")
            .await,
        1
    );
    let inbox = crashed(&place, &log, &gate, 2).await;
    wait_idle(&inbox.handle()).await;
    let mut ran = numbers(&log);
    ran.sort_unstable();
    assert_eq!(ran, [3, 4, 5]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.dead, stats.dead_letters), (3, 2, 2));
    balanced(&stats);
    let letters = inbox
        .handle()
        .dead_letters()
        .unwrap()
        .list(None, 9)
        .await
        .unwrap();
    for letter in &letters {
        assert_eq!(
            letter.cause(),
            Some("the process ended 2 times while the event was running")
        );
        // The attempt during which the process ended counts.
        assert_eq!(letter.attempts(), 1);
        assert!(letter.event().is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_returned_to_disk_is_no_poison_candidate() {
    let (place, log, gate) = (
        place(3, 0).await,
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    for _ in 0..4 {
        // No inbox crashed. At most one event is running, and it ends.
        let builder = place
            .inbox()
            .max_crashes(1)
            .delivery(delivery().concurrency(1));
        let inbox = builder.open(gated(&log, &gate)).await.unwrap();
        let _ = inbox.handle().drain(Duration::ZERO).await;
        drop(inbox);
        gate.add_permits(1);
    }
    gate.add_permits(9);
    let inbox = crashed(&place, &log, &gate, 1).await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(place.count("SELECT count(*) FROM dead_letters"), 0);
    assert_eq!(log.counts().len(), 3);
}

/// The bug: the loader read the whole backlog in one turn if no event could be decoded.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_that_cant_be_decoded_is_dead_lettered_in_steps() {
    let place = place(3000, 0).await;
    assert_eq!(place.edit("UPDATE events SET body = '{}'").await, 3000);
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (see, look) = (Arc::clone(&seen), place.look());
    let look = std::sync::Mutex::new(look);
    let builder = place
        .inbox()
        .max_events_in_memory(50)
        .delivery(delivery().on_dead_letter(move |_| {
            let sql = "SELECT dead_letters FROM totals";
            let letters: i64 = look
                .lock()
                .unwrap()
                .query_row(sql, [], |row| row.get(0))
                .unwrap();
            see.lock().unwrap().push(letters);
        }));
    let inbox = builder.open(EventRouter::new()).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().dead, 3000);
    // When each hook runs, the disk is at most one window ahead.
    for (told, letters) in seen.lock().unwrap().iter().enumerate() {
        assert!(*letters <= told as i64 + 50, "{letters} at {told}");
    }
}

/// Prints the time from opening to the first delivery. `BACKLOG` sets the number of events.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_starts_to_run_before_all_its_ids_are_read() {
    let events = std::env::var("BACKLOG").map_or(20_000, |events| events.parse().unwrap());
    let (place, log) = (place(events, 100).await, Log::default());
    let gate = Arc::new(Semaphore::new(0));
    let start = std::time::Instant::now();
    let inbox = place.inbox().open(gated(&log, &gate)).await.unwrap();
    let opened = start.elapsed();
    until(|| log.len() > 0).await;
    let first = start.elapsed();
    let copy = inbox.accept(event(events.to_string())).await;
    let answered = start.elapsed();
    assert_eq!(copy, Ok(botisimo_webhooks::Accepted::Duplicate));
    println!(
        "{events} events: opened {opened:?}, first delivery {first:?}, first answer {answered:?}"
    );
    assert_eq!(inbox.handle().stats().recovered, u64::from(events));
    gate.add_permits(Semaphore::MAX_PERMITS / 2);
    if std::env::var("BACKLOG").is_ok() {
        inbox.handle().wait_idle().await;
        println!("all delivered {:?}", start.elapsed());
    }
}

/// The bug: an event's bytes were added with one size and subtracted with another, so an idle inbox held bytes
/// forever.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_changed_while_the_inbox_was_closed_leave_no_count_behind() {
    let long = sized("1", 2_000).body().to_owned();
    for (sql, dead) in [
        ("UPDATE events SET body = '{}'".to_owned(), 20),
        // Each invalid byte becomes a character of three bytes.
        (
            "UPDATE events SET body = CAST(x'ffffffff' AS TEXT)".to_owned(),
            20,
        ),
        (format!("UPDATE events SET body = '{long}'"), 0),
        ("DELETE FROM events WHERE id > 5".to_owned(), 0),
        ("DELETE FROM events".to_owned(), 0),
    ] {
        let place = place(20, 0).await;
        assert!(place.edit(&sql).await > 0);
        let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
        let handle = inbox.handle();
        until(|| handle.stats().in_flight() == 0).await;
        let stats = wait_idle(&handle).await;
        assert_eq!(stats.dead_letters, dead, "{sql}: {stats:?}");
        // The inbox still counts new events.
        inbox.accept(event("new")).await.unwrap();
        assert_eq!(wait_idle(&handle).await.accepted, 1);
        drop((inbox, handle));
        drop(place.closed().await);
        assert_eq!(
            place.count("SELECT events + event_bytes FROM totals"),
            0,
            "{sql}"
        );
    }
}

/// The bug: a replayed letter was counted by the length of its text, in which each invalid byte takes three
/// bytes.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_letter_counts_the_bytes_that_are_stored() {
    let place = place(1, 0).await;
    let sql = "UPDATE events SET body = CAST(x'ffffffff' AS TEXT)";
    assert_eq!(place.edit(sql).await, 1);
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    let sql = "UPDATE dead_letters SET body = CAST(x'ffffffff' AS TEXT)";
    assert_eq!(place.edit(sql).await, 1);
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    assert!(letters(&inbox).replay(1).await.unwrap());
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.replayed, stats.dead_letters), (1, 1));
}
