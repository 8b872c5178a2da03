//! `concurrency` of a route: the limit holds in each process, and waiting events occupy no worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use botisimo_webhooks::{Event, EventRouter, Inbox};
use futures_util::future::join_all;
use tokio::sync::Semaphore;

use crate::kit::{Log, accept, builder, delivery, open};
use crate::support::postgres::database;
use crate::support::{balanced, event, until, wait_idle};

/// Returns a router whose route `slow` waits for a permit, at most `limit` at once, and whose route `fast` doesn't wait.
fn limited(limit: usize, gate: &Arc<Semaphore>, slow: &Log, fast: &Log) -> EventRouter {
    let (gate, slow, fast) = (Arc::clone(gate), slow.clone(), fast.clone());
    EventRouter::new()
        .on("a", move |event: Event| async move {
            gate.acquire().await.unwrap().forget();
            slow.add(&event);
        })
        .named("slow")
        .concurrency(limit)
        .on("a", move |event: Event| async move { fast.add(&event) })
        .named("fast")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_holds_and_each_event_runs_once() {
    let (database, log) = (database(), Log::default());
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, max, write) = (Arc::clone(&running), Arc::clone(&most), log.clone());
    let router = EventRouter::new()
        .on("a", move |event: Event| async move {
            max.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            write.add(&event);
            now.fetch_sub(1, Ordering::SeqCst);
        })
        .concurrency(3);
    let inbox = open(&database, router).await;
    let ids: Vec<_> = (0..200).map(|id| format!("{id:03}")).collect();
    join_all(ids.iter().map(|id| accept(&inbox, event(id)))).await;
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(log.sorted(), ids);
    assert_eq!((stats.handled, stats.retried), (200, 0));
    assert!(most.load(Ordering::SeqCst) <= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_wait_for_a_route_delay_no_other_route() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let (slow, fast) = (Log::default(), Log::default());
    let inbox = builder(&database)
        .delivery(delivery().concurrency(2))
        .max_events_in_memory(8);
    let inbox = inbox.open(limited(1, &gate, &slow, &fast)).await.unwrap();
    join_all((0..20).map(|id| accept(&inbox, event(id.to_string())))).await;
    until(|| fast.len() == 20).await;
    balanced(&inbox.handle().stats());
    gate.add_permits(20);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((slow.len(), fast.len()), (20, 20));
    assert_eq!((stats.handled, stats.dead), (20, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_returns_the_events_that_wait_for_a_route() {
    let (database, gate) = (database(), Arc::new(Semaphore::new(0)));
    let (slow, fast) = (Log::default(), Log::default());
    let first = open(&database, limited(1, &gate, &slow, &fast)).await;
    for id in ["1", "2", "3"] {
        accept(&first, event(id)).await;
    }
    until(|| fast.len() == 3 && first.handle().stats().waiting == 2).await;
    let handle = first.handle();
    let drain = tokio::spawn(handle.drain(Duration::from_secs(60)));
    until(|| handle.stats().in_flight() == 1).await;
    let second = open(&database, limited(1, &gate, &slow, &fast)).await;
    gate.add_permits(3);
    assert_eq!(drain.await.unwrap().remaining, 2);
    wait_idle(&second.handle()).await;
    assert_eq!((slow.len(), fast.len()), (3, 3));
    assert_eq!(second.handle().stats().handled, 2);
}
