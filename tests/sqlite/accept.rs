//! The inbox on disk answers after the commit, recognizes copies, and keeps its limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, Event, EventRouter, Inbox, SqliteInbox,
    SqliteInboxBuilder,
};
use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::support::runtime::ManualClock;
use crate::support::sqlite::{InboxFile, Log, at_once, delivery, gated, logging};
use crate::support::{balanced, event, sized, until, wait_idle};

async fn accept(inbox: &SqliteInbox, id: &str) -> Result<Accepted, AcceptError> {
    inbox.accept(event(id)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_answered_after_its_commit() {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let router = gated(&Log::default(), &gate);
    let inbox = place
        .inbox()
        .delivery(delivery().concurrency(1))
        .open(router)
        .await
        .unwrap();
    let look = place.look();
    for i in 1..=50 {
        let id = format!("m-{i}");
        assert_eq!(accept(&inbox, &id).await, Ok(Accepted::New));
        let sql = "SELECT count(*) FROM events JOIN message_ids USING (id) WHERE id = ?1 AND message_id = ?2 AND json_extract(body, '$.messageId') = ?2";
        let found: i64 = look.query_row(sql, (i, &id), |row| row.get(0)).unwrap();
        assert_eq!(found, 1, "{id}");
    }
    let totals: (i64, i64) = look
        .query_row("SELECT next_id, events FROM totals", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(totals, (51, 50));
    gate.add_permits(50);
    wait_idle(&inbox.handle()).await;
    assert_eq!(place.count("SELECT count(*) FROM events"), 0);
    assert_eq!(place.count("SELECT events + event_bytes FROM totals"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_concurrent_copies_one_is_new() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let copies = (0..1000).map(|_| {
        let inbox = inbox.clone();
        tokio::spawn(async move { accept(&inbox, "1").await.unwrap() })
    });
    let answers = join_all(copies).await.into_iter().map(Result::unwrap);
    let new = answers.filter(|answer| *answer == Accepted::New).count();
    assert_eq!(new, 1);
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.lines(), ["1#1"]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.accepted, stats.duplicates), (1, 999));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_remembered_for_its_window_also_across_processes() {
    let place = InboxFile::new();
    let clock = ManualClock::new();
    let open = || {
        let window = Duration::from_secs(60);
        let builder = place.inbox().duplicate_window(window);
        builder.open_with(clock.clone(), logging(&Log::default()))
    };
    let inbox = open().await.unwrap();
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
    clock.advance(Duration::from_secs(30));
    assert_eq!(accept(&inbox, "2").await, Ok(Accepted::New));
    drop(inbox);
    let inbox = open().await.unwrap();
    clock.advance(Duration::from_secs(29));
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
    clock.advance(Duration::from_secs(1));
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
    assert_eq!(accept(&inbox, "2").await, Ok(Accepted::Duplicate));
    drop(inbox);
    clock.advance(Duration::from_secs(30));
    let inbox = open().await.unwrap();
    assert_eq!(accept(&inbox, "2").await, Ok(Accepted::New));
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
    // The next event also deletes expired ids from the table.
    assert_eq!(accept(&inbox, "3").await, Ok(Accepted::New));
    assert_eq!(place.count("SELECT count(*) FROM message_ids"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_count_the_oldest_ids_are_forgotten_in_memory_and_on_disk() {
    let place = InboxFile::new();
    let open = || {
        let builder = place.inbox().max_remembered_ids(3);
        builder.open(logging(&Log::default()))
    };
    let inbox = open().await.unwrap();
    for id in ["1", "2", "3", "4", "5"] {
        assert_eq!(accept(&inbox, id).await, Ok(Accepted::New));
    }
    for id in ["3", "4", "5"] {
        assert_eq!(accept(&inbox, id).await, Ok(Accepted::Duplicate), "{id}");
    }
    assert!(place.count("SELECT count(*) FROM message_ids") <= 4);
    drop(inbox);
    let inbox = open().await.unwrap();
    for id in ["3", "4", "5"] {
        assert_eq!(accept(&inbox, id).await, Ok(Accepted::Duplicate), "{id}");
    }
    assert_eq!(accept(&inbox, "2").await, Ok(Accepted::New));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_id_is_remembered_if_the_window_or_the_count_is_zero() {
    let none: [fn(SqliteInboxBuilder) -> SqliteInboxBuilder; 2] = [
        |builder| builder.duplicate_window(Duration::ZERO),
        |builder| builder.max_remembered_ids(0),
    ];
    for none in none {
        let place = InboxFile::new();
        let inbox = none(place.inbox()).open(logging(&Log::default())).await;
        let inbox = inbox.unwrap();
        for _ in 0..3 {
            assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
        }
        assert_eq!(place.count("SELECT count(*) FROM message_ids"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ids_are_loaded_before_the_first_event_is_accepted() {
    let place = InboxFile::new();
    drop(place.inbox().open(EventRouter::new()).await.unwrap());
    let mut connection = place.closed().await;
    let fill = connection.transaction().unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50000) INSERT INTO message_ids SELECT i, ?1, 'm-' || i FROM n";
    fill.execute(sql, [i64::try_from(now.as_millis()).unwrap()])
        .unwrap();
    fill.execute("UPDATE totals SET next_id = 50001", [])
        .unwrap();
    fill.commit().unwrap();
    drop(connection);
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let answers = join_all([1, 25_000, 50_000].map(|i| {
        let inbox = inbox.clone();
        async move { accept(&inbox, &format!("m-{i}")).await }
    }));
    assert_eq!(answers.await, [const { Ok(Accepted::Duplicate) }; 3]);
    assert_eq!(accept(&inbox, "m-50001").await, Ok(Accepted::New));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_is_full_by_count_until_an_event_ends() {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let builder = place
        .inbox()
        .max_events(3)
        .delivery(delivery().concurrency(1));
    let inbox = builder.open(gated(&Log::default(), &gate)).await.unwrap();
    let handle = inbox.handle();
    for id in ["1", "2", "3"] {
        assert_eq!(accept(&inbox, id).await, Ok(Accepted::New));
    }
    for _ in 0..2 {
        assert_eq!(
            accept(&inbox, "4").await,
            Err(AcceptError::new(AcceptErrorKind::Full))
        );
    }
    // A copy takes no space.
    assert_eq!(accept(&inbox, "3").await, Ok(Accepted::Duplicate));
    balanced(&handle.stats());
    gate.add_permits(1);
    until(|| handle.stats().handled == 1).await;
    assert_eq!(accept(&inbox, "4").await, Ok(Accepted::New));
    assert_eq!(
        accept(&inbox, "5").await,
        Err(AcceptError::new(AcceptErrorKind::Full))
    );
    // Events of an earlier process also count.
    let _ = handle.drain(Duration::ZERO).await;
    drop((inbox, handle));
    gate.add_permits(1);
    drop(place.closed().await);
    let builder = place.inbox().max_events(2);
    let inbox = builder.open(gated(&Log::default(), &gate)).await.unwrap();
    assert_eq!(
        accept(&inbox, "6").await,
        Err(AcceptError::new(AcceptErrorKind::Full))
    );
    gate.add_permits(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_is_full_by_bytes_but_always_accepts_one_event() {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let builder = place.inbox().max_bytes(1000);
    let inbox = builder.open(gated(&Log::default(), &gate)).await.unwrap();
    let handle = inbox.handle();
    let first = inbox.accept(sized("1", 400)).await;
    assert_eq!(first, Ok(Accepted::New));
    let second = inbox.accept(sized("2", 601)).await;
    assert_eq!(second, Err(AcceptError::new(AcceptErrorKind::Full)));
    assert_eq!(inbox.accept(sized("2", 600)).await, Ok(Accepted::New));
    assert_eq!(handle.stats().bytes, 1000);
    gate.add_permits(2);
    wait_idle(&handle).await;
    assert_eq!(handle.stats().bytes, 0);
    let large = inbox.accept(sized("3", 5000)).await;
    assert_eq!(large, Ok(Accepted::New));
    assert_eq!(
        accept(&inbox, "4").await,
        Err(AcceptError::new(AcceptErrorKind::Full))
    );
    gate.add_permits(1);
    wait_idle(&handle).await;
    balanced(&handle.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn during_a_drain_copies_are_duplicates_and_other_events_are_refused() {
    let (place, gate) = (InboxFile::new(), Arc::new(Semaphore::new(0)));
    let inbox = place
        .inbox()
        .open(gated(&Log::default(), &gate))
        .await
        .unwrap();
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
    let drained = inbox.handle().drain(Duration::ZERO).await;
    assert_eq!(drained.remaining, 1);
    assert_eq!(
        accept(&inbox, "2").await,
        Err(AcceptError::new(AcceptErrorKind::Draining))
    );
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
    let stats = inbox.handle().stats();
    assert_eq!((stats.duplicates, stats.refused), (1, 1));
    gate.add_permits(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_accept_is_committed_counted_and_run() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let handle = inbox.handle();
    for i in 0..100 {
        // The inbox stores the event at the first poll.
        let _ = inbox.accept(event(i.to_string())).now_or_never();
    }
    until(|| handle.stats().accepted == 100).await;
    wait_idle(&handle).await;
    assert_eq!(log.len(), 100);
    for i in 0..100 {
        assert_eq!(
            accept(&inbox, &i.to_string()).await,
            Ok(Accepted::Duplicate)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_was_never_polled_stores_nothing() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(logging(&Log::default())).await.unwrap();
    drop(inbox.accept(event("1")));
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
}

/// An event runs even if the caller polls the answer late.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_accept_is_never_awaited_runs() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let mut accepting = Box::pin(inbox.accept(event("1")));
    assert!(
        accepting
            .as_mut()
            .now_or_never()
            .is_none_or(|answer| answer.is_ok())
    );
    until(|| log.len() == 1).await;
    drop(accepting);
}

/// Law 2 of ARCHITECTURE.md, with failures, dead letters, replays and a full inbox at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_counts_balance_at_every_read() {
    let place = InboxFile::new();
    let router = || {
        EventRouter::new().on("a", |event: Event| async move {
            tokio::task::yield_now().await;
            let id: u32 = event.id().parse()?;
            match id % 5 {
                0 => Err("never".into()),
                1 if event.attempt() < 2 => Err("not yet".into()),
                2 => panic!("panics"),
                _ => Ok::<_, botisimo_webhooks::HandlerError>(()),
            }
        })
    };
    let open = || {
        let builder = place.inbox().max_events(40);
        builder
            .delivery(delivery().retry(at_once(2)).concurrency(4))
            .max_events_in_memory(16)
            .max_dead_letters(30)
            .open(router())
    };
    for round in 0..3_u32 {
        let inbox = open().await.unwrap();
        let handle = inbox.handle();
        balanced(&handle.stats());
        let done = Arc::new(AtomicBool::new(false));
        let sampler = std::thread::spawn({
            let (done, handle) = (Arc::clone(&done), handle.clone());
            move || {
                let mut samples = 0_u32;
                while !done.load(Ordering::Relaxed) {
                    balanced(&handle.stats());
                    samples += 1;
                    std::thread::yield_now();
                }
                samples
            }
        });
        let senders = (0..8).map(|sender| {
            let inbox = inbox.clone();
            tokio::spawn(async move {
                for i in 0..40_u32 {
                    let id = (round * 1000 + sender * 40 + i).to_string();
                    let _ = accept(&inbox, &id).await;
                }
            })
        });
        let letters = handle.dead_letters().unwrap();
        let all = botisimo_webhooks::Pattern::new("a").unwrap();
        let replays = async {
            for _ in 0..20 {
                // If the inbox is full, it refuses the event.
                let _ = letters.replay_matching(&all).await;
            }
        };
        futures_util::future::join(join_all(senders), replays).await;
        if round < 2 {
            // Some events stay for the next inbox.
            let _ = handle.drain(Duration::ZERO).await;
        } else {
            wait_idle(&handle).await;
        }
        done.store(true, Ordering::Relaxed);
        assert!(sampler.join().unwrap() > 10);
        balanced(&handle.stats());
    }
}
