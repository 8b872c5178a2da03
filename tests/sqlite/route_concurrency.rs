//! `concurrency` of a route on disk: waiting events leave the memory, and run after a restart.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use botisimo_webhooks::{DeliverySettings, Event, EventRouter, Inbox};
use proptest::prelude::*;
use tokio::sync::Semaphore;

use crate::support::route_concurrency::{Case, Model, case};
use crate::support::runtime::Process;
use crate::support::sqlite::{InboxFile, LONG};
use crate::support::{event, typed, until, wait_idle};

async fn check(case: Case) {
    let (place, model) = (InboxFile::new(), Model::new(&case));
    let process = RefCell::new(Process::new(&model.clock));
    let open = || async {
        let builder = place.inbox().delivery(model.delivery());
        let builder = builder.keep_handled(LONG * 1000);
        let runtime = process.borrow().clone();
        builder.open_with(runtime, model.router()).await.unwrap()
    };
    let inbox = open().await;
    let reopen = |inbox| async {
        drop(inbox);
        process.replace(Process::new(&model.clock)).end();
        open().await
    };
    model.check(inbox, &case.steps, reopen).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn no_random_load_or_restart_exceeds_the_limit_of_a_route(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(case));
    }
}

#[tokio::test]
async fn events_that_wait_for_a_route_leave_room_in_memory_for_other_events() {
    let place = InboxFile::new();
    let (open, fast) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (gate, ran) = (Arc::clone(&open), Arc::clone(&fast));
    let router = EventRouter::new()
        .on("a", |_: Event| async move {
            gate.acquire().await.unwrap().forget();
        })
        .named("slow")
        .concurrency(1)
        .on("a", |_: Event| async move { ran.add_permits(1) })
        .named("fast");
    let delivery = DeliverySettings::new().concurrency(2);
    // Only four events are in memory at once.
    let builder = place.inbox().delivery(delivery).max_events_in_memory(4);
    let inbox = builder.open(router).await.unwrap();
    for id in 0..50 {
        inbox.accept(event(id.to_string())).await.unwrap();
    }
    until(|| fast.available_permits() == 50).await;
    let handle = inbox.handle();
    let counts = || {
        let stats = handle.stats();
        (stats.running, stats.waiting, stats.retrying)
    };
    until(|| counts() == (1, 49, 0)).await;
    open.add_permits(50);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, fast.available_permits()), (50, 50));
}

#[tokio::test]
async fn an_event_whose_route_may_run_overtakes_the_events_that_have_not_started() {
    let place = InboxFile::new();
    let (slow, other) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (started, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (gate, count) = (Arc::clone(&slow), Arc::clone(&started));
    let (other_gate, other_count) = (Arc::clone(&other), Arc::clone(&done));
    let router = EventRouter::new()
        .on("a", |_: Event| async move {
            count.fetch_add(1, Ordering::Relaxed);
            gate.acquire().await.unwrap().forget();
        })
        .concurrency(1)
        .on("b", |_: Event| async move {
            other_gate.acquire().await.unwrap().forget();
            other_count.fetch_add(1, Ordering::Relaxed);
        });
    let delivery = DeliverySettings::new().concurrency(2);
    let builder = place.inbox().delivery(delivery).max_events_in_memory(4);
    let inbox = builder.open(router).await.unwrap();
    let handle = inbox.handle();
    inbox.accept(event("0")).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    until(|| handle.stats().waiting == 1 && started.load(Ordering::Relaxed) == 1).await;
    for _ in 0..50 {
        inbox.accept(typed("b")).await.unwrap();
    }
    for run in 1..=20 {
        if run == 10 {
            // By now, the inbox has scheduled all events on disk.
            slow.add_permits(1);
            until(|| handle.stats().handled >= 10).await;
        }
        other.add_permits(1);
        until(|| done.load(Ordering::Relaxed) == run).await;
    }
    until(|| started.load(Ordering::Relaxed) == 2).await;
    slow.add_permits(1);
    other.add_permits(50);
    assert_eq!(wait_idle(&handle).await.handled, 52);
}
