//! `once_per` of a route on disk: a key survives a restart, and expires.

use std::cell::RefCell;
use std::future::{pending, ready};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::{Event, EventRouter, HandlerError, Inbox};
use proptest::prelude::*;

use crate::support::once_per::{Model, Step, steps};
use crate::support::runtime::{ManualClock, Process, TestRuntime};
use crate::support::sqlite::{InboxFile, LONG};
use crate::support::{key, keyed, until, wait_idle};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

type Ran = Arc<Mutex<Vec<String>>>;

/// Returns a router whose route fails permanently for events whose id begins with `bad`.
fn router(ran: &Ran, window: Duration) -> EventRouter {
    let ran = Arc::clone(ran);
    let announce = move |event: Event| {
        ran.lock().unwrap().push(event.id().to_owned());
        ready(match event.id().starts_with("bad") {
            true => Err(HandlerError::permanent("no")),
            false => Ok(()),
        })
    };
    EventRouter::new()
        .on("a", announce)
        .named("announce")
        .once_per(window, key)
}

async fn accept(place: &InboxFile, ran: &Ran, window: Duration, ids: &[&str]) {
    let inbox = place.inbox().open(router(ran, window)).await.unwrap();
    for id in ids {
        inbox.accept(keyed(id, "stream")).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
}

#[tokio::test]
async fn a_key_survives_a_restart() {
    let (place, ran) = (InboxFile::new(), Ran::default());
    accept(&place, &ran, HOUR, &["bad", "0", "1"]).await;
    accept(&place, &ran, HOUR, &["2"]).await;
    assert_eq!(*ran.lock().unwrap(), ["bad", "0"]);
    // The route may be without the option for a while.
    let without = EventRouter::new()
        .on("a", |_: Event| async {})
        .named("announce");
    let inbox = place.inbox().open(without).await.unwrap();
    inbox.accept(keyed("3", "stream")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    accept(&place, &ran, HOUR, &["4"]).await;
    assert_eq!(*ran.lock().unwrap(), ["bad", "0"]);
}

#[tokio::test]
async fn an_expired_key_is_deleted_from_the_file() {
    let (place, ran) = (InboxFile::new(), Ran::default());
    let count = || place.count("SELECT count(*) FROM once_keys");
    accept(&place, &ran, HOUR, &["0"]).await;
    for (passed, keys) in [(HOUR, 1), (HOUR + 2 * MINUTE, 0)] {
        let tasks = tokio::runtime::Handle::current();
        let runtime = TestRuntime::tokio()
            .on_spawn(move |task| drop(tasks.spawn(task)))
            .on_system_time(move || SystemTime::now() + passed);
        // An idle turn of the writer deletes the expired keys.
        let inbox = place.inbox().open_with(runtime, router(&ran, HOUR)).await;
        drop(inbox.unwrap());
        place.free().await;
        assert_eq!(count(), keys, "after {passed:?}");
    }
    accept(&place, &ran, HOUR, &["1"]).await;
    assert_eq!(*ran.lock().unwrap(), ["0", "1"]);
}

#[tokio::test]
async fn a_key_survives_if_the_runtime_drops_the_attempt_that_used_it() {
    let (place, ran, clock) = (InboxFile::new(), Ran::default(), ManualClock::new());
    let open = async |process: &Process| {
        let router = router(&ran, HOUR).on("a", |event: Event| async move {
            if event.id() == "0" {
                pending::<()>().await;
            }
        });
        let builder = place.inbox();
        builder.open_with(process.clone(), router).await.unwrap()
    };
    let process = Process::new(&clock);
    let inbox = open(&process).await;
    inbox.accept(keyed("0", "stream")).await.unwrap();
    until(|| ran.lock().unwrap().len() == 1).await;
    drop(inbox);
    process.end();
    let process = Process::new(&clock);
    let inbox = open(&process).await;
    inbox.accept(keyed("1", "stream")).await.unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().skipped == 1).await;
    assert_eq!(*ran.lock().unwrap(), ["0"]);
}

async fn check(steps: Vec<Step>) {
    let (place, model) = (InboxFile::new(), Model::new());
    let process = RefCell::new(Process::new(&model.clock));
    let open = || async {
        let builder = place.inbox().delivery(Model::delivery());
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
    model.check(inbox, &steps, reopen).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn no_random_arrivals_or_restarts_make_a_route_handle_two_events_of_a_key(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(steps));
    }
}
