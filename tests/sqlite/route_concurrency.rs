//! `concurrency` of a route on disk: waiting events leave the memory, and run after a restart.

use std::cell::RefCell;

use botisimo_webhooks::{DeliverySettings, Event, EventRouter, Inbox};
use proptest::prelude::*;

use crate::support::route_concurrency::{Case, Model, case};
use crate::support::runtime::Process;
use crate::support::sqlite::{InboxFile, LONG};
use crate::support::{event, until, wait_idle};

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
    let (open, fast) = (
        tokio::sync::Semaphore::new(0),
        tokio::sync::Semaphore::new(0),
    );
    let (open, fast) = (std::sync::Arc::new(open), std::sync::Arc::new(fast));
    let (gate, ran) = (std::sync::Arc::clone(&open), std::sync::Arc::clone(&fast));
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
