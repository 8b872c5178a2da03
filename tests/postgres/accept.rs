//! Accepting: copies, limits, and answers that are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use botisimo_webhooks::{AcceptErrorKind, Accepted, EventRouter, Inbox};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::kit::{Log, accept, builder, delivery, open};
use crate::support::postgres::database;
use crate::support::{balanced, event, sized, until, wait_idle};

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_answered_while_the_inbox_is_full_or_drains() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let log = Log::default();
    let inbox = builder(&database).max_events(2);
    let inbox = inbox.open(log.gated(&gate)).await.unwrap();
    accept(&inbox, event("1")).await;
    accept(&inbox, event("2")).await;
    let refused = inbox.accept(event("3")).await.unwrap_err();
    assert_eq!(refused.kind(), AcceptErrorKind::Full);
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
    gate.add_permits(2);
    wait_idle(&inbox.handle()).await;
    accept(&inbox, event("3")).await;
    gate.add_permits(1);
    wait_idle(&inbox.handle()).await;
    inbox.handle().drain(Duration::from_secs(60)).await;
    let refused = inbox.accept(event("4")).await.unwrap_err();
    assert_eq!(refused.kind(), AcceptErrorKind::Draining);
    assert_eq!(inbox.accept(event("3")).await, Ok(Accepted::Duplicate));
    let stats = inbox.handle().stats();
    assert_eq!((stats.duplicates, stats.refused), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_all_bodies_is_limited() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let inbox = builder(&database).max_bytes(1000);
    let inbox = inbox.open(Log::default().gated(&gate)).await.unwrap();
    accept(&inbox, sized("1", 600)).await;
    let refused = inbox.accept(sized("2", 600)).await.unwrap_err();
    assert_eq!(refused.kind(), AcceptErrorKind::Full);
    accept(&inbox, sized("3", 300)).await;
    gate.add_permits(2);
    wait_idle(&inbox.handle()).await;
    accept(&inbox, sized("2", 600)).await;
    gate.add_permits(1);
    wait_idle(&inbox.handle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_forgotten_after_its_window_and_kept_before() {
    let (database, log) = (database(), Log::default());
    let inbox = open(&database, log.router()).await;
    accept(&inbox, event("1")).await;
    let age = |age: &str| {
        let sql = format!("UPDATE botisimo.message_ids SET accepted_at = now() - interval '{age}'");
        database.sql(&sql);
    };
    age("6 days 23 hours");
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
    age("7 days 1 minute");
    accept(&inbox, event("1")).await;
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.ids(), ["1", "1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_window_each_copy_is_a_new_event() {
    let (database, log) = (database(), Log::default());
    let inbox = builder(&database).duplicate_window(Duration::ZERO);
    let inbox = inbox.open(log.router()).await.unwrap();
    join_all((0..20).map(|_| accept(&inbox, event("1")))).await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_beyond_the_memory_limit_wait_in_the_database() {
    let (database, log) = (database(), Log::default());
    let gate = Arc::new(Semaphore::new(0));
    let inbox = builder(&database).delivery(delivery().concurrency(2));
    let inbox = inbox.max_events_in_memory(4).open(log.gated(&gate)).await;
    let inbox = inbox.unwrap();
    join_all((0..30).map(|id| accept(&inbox, event(format!("{id:02}"))))).await;
    let stats = inbox.handle().stats();
    balanced(&stats);
    assert!(stats.in_flight() <= 4, "{stats:?}");
    gate.add_permits(30);
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_neither_lost_nor_run_twice_while_connections_are_cut() {
    let (database, log) = (database(), Log::default());
    let inbox = open(&database, log.router()).await;
    let (is_over, database) = (Arc::new(AtomicBool::new(false)), Arc::new(database));
    let (flag, place) = (Arc::clone(&is_over), Arc::clone(&database));
    let cutting = std::thread::spawn(move || {
        for _ in 0..20 {
            place.sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
            );
        }
        flag.store(true, Ordering::Relaxed);
    });
    let inbox = &inbox;
    let mut ids = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        let batch: Vec<_> = (0..10).map(|id| format!("{:05}", ids.len() + id)).collect();
        let accepting = batch.iter().map(|id| async move {
            // The sender sends a refused event again.
            while inbox.accept(event(id)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        join_all(accepting).await;
        ids.extend(batch);
    }
    cutting.join().unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(log.sorted(), ids);
    assert_eq!(stats.handled, ids.len() as u64, "{stats:?}");
    let left = database.sql("SELECT count(*) FROM botisimo.events");
    assert_eq!(left.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_recorded_after_an_outage_without_another_run() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let log = Log::default();
    let inbox = open(&database, log.gated(&gate)).await;
    accept(&inbox, event("1")).await;
    until(|| log.len() == 1).await;
    database.sql("ALTER TABLE botisimo.events RENAME TO hidden");
    gate.add_permits(1);
    let handle = inbox.handle();
    until(|| !handle.health().is_ok()).await;
    let refused = inbox.accept(event("2")).await.unwrap_err();
    assert_eq!(refused.kind(), AcceptErrorKind::Unavailable);
    database.sql("ALTER TABLE botisimo.hidden RENAME TO events");
    let stats = wait_idle(&handle).await;
    assert_eq!((stats.handled, log.len()), (1, 1));
    until(|| handle.health().is_ok()).await;
    let router = EventRouter::new();
    drop(open(&database, router).await);
}
