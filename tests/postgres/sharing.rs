//! Several inboxes over one schema, as in several processes: each event runs once, whichever process accepted it.

use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::{EventRouter, Inbox};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::kit::{Log, accept, builder, delivery, open};
use crate::support::postgres::database;
use crate::support::{balanced, event, until, wait_idle};

#[tokio::test(flavor = "multi_thread")]
async fn each_event_runs_once_in_one_of_two_processes() {
    let (database, log) = (database(), Log::default());
    let inboxes = [
        open(&database, log.router()).await,
        open(&database, log.router()).await,
    ];
    let ids: Vec<_> = (0..400).map(|id| format!("{id:03}")).collect();
    let accepting = ids.iter().enumerate().map(|(place, id)| {
        let inbox = &inboxes[place % 2];
        accept(inbox, event(id))
    });
    join_all(accepting).await;
    for inbox in &inboxes {
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(log.sorted(), ids);
    let handled = inboxes.iter().map(|inbox| inbox.handle().stats().handled);
    assert_eq!(handled.sum::<u64>(), 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_only_receives_leaves_its_events_to_a_process_that_runs_them() {
    let (database, log) = (database(), Log::default());
    let receiver = builder(&database).receive_only();
    let receiver = receiver.open(EventRouter::new()).await.unwrap();
    for id in ["1", "2", "3"] {
        accept(&receiver, event(id)).await;
    }
    let stats = receiver.handle().stats();
    assert_eq!((stats.accepted, stats.published), (3, 3));
    let worker = open(&database, log.router()).await;
    receiver.handle().wait_idle().await;
    let stats = wait_idle(&worker.handle()).await;
    assert_eq!((stats.recovered, stats.handled), (3, 3));
    assert_eq!(log.ids(), ["1", "2", "3"], "in the order of acceptance");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_returns_the_events_that_have_not_begun_at_once() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let (first_log, second_log) = (Log::default(), Log::default());
    let one = delivery().concurrency(1);
    let first = builder(&database).delivery(one);
    let first = first.open(first_log.gated(&gate)).await.unwrap();
    for id in ["1", "2", "3"] {
        accept(&first, event(id)).await;
    }
    until(|| first_log.len() == 1).await;
    let handle = first.handle();
    let drain = tokio::spawn(handle.drain(Duration::from_secs(60)));
    until(|| handle.stats().in_flight() == 1).await;
    // The first event still runs, and another process already has the others.
    let second = open(&database, second_log.router()).await;
    until(|| second_log.len() == 2).await;
    assert_eq!(second_log.ids(), ["2", "3"]);
    gate.add_permits(1);
    let drained = drain.await.unwrap();
    assert_eq!(drained.remaining, 2, "the returned events");
    let stats = handle.stats();
    balanced(&stats);
    assert_eq!((stats.handled, stats.published), (1, 2));
    wait_idle(&second.handle()).await;
    assert_eq!(first_log.ids(), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_lease_records_nothing_and_the_event_runs_elsewhere() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let (zombie_log, log) = (Log::default(), Log::default());
    // Its only place is busy, so the process can't take the event back.
    let zombie = builder(&database).delivery(delivery().concurrency(1));
    let zombie = zombie.open(zombie_log.gated(&gate)).await.unwrap();
    accept(&zombie, event("1")).await;
    until(|| zombie_log.len() == 1).await;
    // As if the process had been frozen for longer than its lease.
    database.sql("DELETE FROM botisimo.workers");
    let worker = open(&database, log.router()).await;
    until(|| log.len() == 1).await;
    wait_idle(&worker.handle()).await;
    assert_eq!(worker.handle().stats().handled, 1);
    gate.add_permits(1);
    let stats = wait_idle(&zombie.handle()).await;
    assert_eq!((stats.handled, stats.published), (0, 1));
    // The process continues as a new worker.
    accept(&zombie, event("2")).await;
    gate.add_permits(1);
    until(|| zombie_log.len() + log.len() == 3).await;
    wait_idle(&zombie.handle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_takes_its_running_event_back_runs_it_once() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let log = Log::default();
    let inbox = open(&database, log.gated(&gate)).await;
    accept(&inbox, event("1")).await;
    until(|| log.len() == 1).await;
    database.sql("DELETE FROM botisimo.workers");
    let retaken =
        "SELECT count(*) FROM botisimo.events JOIN botisimo.workers ON workers.id = owner";
    until(|| database.sql(retaken).trim() == "1").await;
    gate.add_permits(1);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, log.len()), (1, 1), "{stats:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_inbox_returns_its_events_and_removes_its_worker() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let (log, next) = (Log::default(), Log::default());
    let retry = botisimo_webhooks::RetryPolicy::new().initial_delay(Duration::from_secs(3600));
    let inbox = builder(&database).delivery(delivery().retry(retry));
    let failing = EventRouter::new().on("a", |_: botisimo_webhooks::Event| async {
        Err::<(), _>("not now")
    });
    let inbox = inbox.open(failing).await.unwrap();
    accept(&inbox, event("1")).await;
    let handle = inbox.handle();
    until(|| handle.stats().retrying == 1).await;
    drop((inbox, handle));
    until(|| database.sql("SELECT count(*) FROM botisimo.workers").trim() == "0").await;
    let owners = database.sql("SELECT owner, attempt FROM botisimo.events");
    assert_eq!(owners.trim(), "0|2");
    drop((gate, log, next));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_ended_too_many_processes_becomes_a_dead_letter() {
    let (database, log) = (database(), Log::default());
    let receiver = builder(&database).receive_only();
    let receiver = receiver.open(EventRouter::new()).await.unwrap();
    accept(&receiver, event("1")).await;
    accept(&receiver, event("2")).await;
    database.sql("UPDATE botisimo.events SET takeovers = 4 WHERE message_id = '1'");
    database.sql("UPDATE botisimo.events SET takeovers = 3 WHERE message_id = '2'");
    let worker = open(&database, log.router()).await;
    receiver.handle().wait_idle().await;
    let stats = wait_idle(&worker.handle()).await;
    assert_eq!((stats.dead, stats.handled), (1, 1));
    assert_eq!(log.ids(), ["2"]);
    let letters = worker.handle().dead_letters().unwrap();
    let letter = letters.list(None, 9).await.unwrap().remove(0);
    assert_eq!(letter.message_id(), "1");
    let cause = "the process ended 4 times while it had leased the event";
    assert_eq!(letter.cause(), Some(cause));
}
