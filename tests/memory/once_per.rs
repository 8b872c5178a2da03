//! `once_per` of a route: of all events with one key, the route handles one.

use std::future::ready;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    BoxFuture, DeliverySettings, Event, EventFilter, EventRouter, HandlerError, HandlerResult,
    Inbox, MemoryInbox, Replay, SkipReason,
};
use proptest::prelude::*;
use tokio::sync::Semaphore;
use tower::ServiceBuilder;

use crate::support::once_per::{Model, Step, steps};
use crate::support::{event, key, keyed, run_ready_tasks, typed, wait_idle};

const HOUR: Duration = Duration::from_secs(3600);

/// The ids of the events for which the handler ran.
type Ran = Arc<Mutex<Vec<String>>>;

fn noting(
    ran: &Ran,
) -> impl FnOnce(Event) -> std::future::Ready<()> + Clone + Send + Sync + 'static {
    let ran = Arc::clone(ran);
    move |event| {
        ran.lock().unwrap().push(event.id().to_owned());
        ready(())
    }
}

fn ran(ran: &Ran) -> Vec<String> {
    ran.lock().unwrap().clone()
}

/// Returns a handler that notes its event, and returns once the test adds a permit.
fn gated(
    noted: &Ran,
    gate: &Arc<Semaphore>,
    end: impl Fn(&str) -> HandlerResult + Clone + Send + Sync + 'static,
) -> impl FnOnce(Event) -> BoxFuture<HandlerResult> + Clone + Send + Sync + 'static {
    let (noted, gate) = (Arc::clone(noted), Arc::clone(gate));
    move |event| {
        noted.lock().unwrap().push(event.id().to_owned());
        Box::pin(async move {
            gate.acquire().await.unwrap().forget();
            end(event.id())
        })
    }
}

fn duplicate_of(id: &str) -> SkipReason {
    SkipReason::Duplicate { of: id.into() }
}

#[tokio::test]
async fn siblings_of_different_types_run_once_in_either_order() {
    let (plain, suffixed) = (
        "connection.stream.started",
        "connection.stream.started.twitch",
    );
    for types in [[plain, suffixed], [suffixed, plain], [plain, plain]] {
        let announced = Ran::default();
        let router = EventRouter::new()
            .on_prefix(plain, noting(&announced))
            .named("announce")
            .once_per(HOUR, key)
            .on_any(|_: Event| async {})
            .named("archive");
        let harness = Harness::new(router);
        let [first, second] = types.map(|event_type| MockRequest::event(event_type).data("stream"));
        let result = harness.deliver(first.message_id("m-1")).await;
        result.assert_handled("announce");
        let result = harness.deliver(second.message_id("m-2")).await;
        result.assert_skipped("announce", &duplicate_of("m-1"));
        result.assert_handled("archive");
        assert_eq!(ran(&announced), ["m-1"]);
        let stats = harness.handle().stats();
        assert_eq!((stats.handled, stats.skipped, stats.dead), (2, 1, 0));
    }
}

#[tokio::test]
async fn a_sibling_waits_while_the_first_runs_and_holds_no_worker() {
    let (started, gate, other) = (Ran::default(), Arc::new(Semaphore::new(0)), Ran::default());
    let router = EventRouter::new()
        .on("a", gated(&started, &gate, |_| Ok(())))
        .named("announce")
        .once_per(HOUR, key)
        .on("b", noting(&other));
    let delivery = DeliverySettings::new().concurrency(2);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    for id in ["0", "1", "2"] {
        inbox.accept(keyed(id, "stream")).await.unwrap();
    }
    inbox.accept(typed("b")).await.unwrap();
    run_ready_tasks().await;
    assert_eq!((ran(&started).len(), ran(&other).len()), (1, 1));
    let stats = inbox.handle().stats();
    assert_eq!((stats.running, stats.waiting, stats.retrying), (1, 2, 0));
    gate.add_permits(3);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.skipped), (4, 2));
    assert_eq!(ran(&started), ["0"]);
}

#[tokio::test]
async fn if_the_first_fails_the_next_runs() {
    let (started, gate) = (Ran::default(), Arc::new(Semaphore::new(0)));
    let end = |id: &str| match id {
        "0" => Err(HandlerError::permanent("no")),
        "1" => panic!("no"),
        _ => Ok(()),
    };
    let router = EventRouter::new()
        .on("a", gated(&started, &gate, end))
        .once_per(HOUR, key)
        .max_attempts(1);
    let inbox = MemoryInbox::new(router);
    for id in ["0", "1", "2", "3"] {
        inbox.accept(keyed(id, "stream")).await.unwrap();
    }
    run_ready_tasks().await;
    assert_eq!(ran(&started), ["0"]);
    gate.add_permits(4);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.handled, stats.skipped), (2, 2, 1));
    assert_eq!(ran(&started), ["0", "1", "2"]);
}

#[tokio::test]
async fn if_the_first_fails_an_event_whose_other_route_runs_does_not_hold_the_key() {
    let (started, gate) = (Ran::default(), Arc::new(Semaphore::new(0)));
    let (encoding, encoded) = (Ran::default(), Arc::new(Semaphore::new(0)));
    let end = |id: &str| match id {
        "0" => Err(HandlerError::permanent("no")),
        _ => Ok(()),
    };
    let encode = gated(&encoding, &encoded, |_| Ok(()));
    let router = EventRouter::new()
        .on("a", gated(&started, &gate, end))
        .named("announce")
        .once_per(HOUR, key)
        .on("a", move |event: Event| async move {
            match event.id() {
                "1" => encode(event).await,
                _ => Ok(()),
            }
        })
        .named("encode");
    let inbox = MemoryInbox::new(router);
    for id in ["0", "1", "2"] {
        inbox.accept(keyed(id, "stream")).await.unwrap();
    }
    run_ready_tasks().await;
    gate.add_permits(2);
    run_ready_tasks().await;
    assert_eq!(ran(&started), ["0", "2"]);
    encoded.add_permits(1);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.handled, stats.skipped), (1, 2, 1));
    assert_eq!(ran(&started), ["0", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_is_skipped_once_a_sibling_was_handled() {
    let fails = |event: Event| {
        ready(match event.id() {
            "0" => Err(HandlerError::from("not yet")),
            _ => Ok(()),
        })
    };
    let router = EventRouter::new().on("a", fails).once_per(HOUR, key);
    let inbox = MemoryInbox::new(router);
    inbox.accept(keyed("0", "stream")).await.unwrap();
    run_ready_tasks().await;
    inbox.accept(keyed("1", "stream")).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.dead, stats.skipped), (2, 0, 1));
    let records = inbox
        .handle()
        .events()
        .list(&EventFilter::new(), 10)
        .await
        .unwrap();
    let first = records
        .iter()
        .find(|record| record.message_id() == "0")
        .unwrap();
    let outcomes = |record: &botisimo_webhooks::EventRecord| {
        let history = record.history().iter().flat_map(|attempt| attempt.routes());
        history
            .map(|route| route.reason().unwrap_or("handled").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        outcomes(first),
        ["failed: not yet", "skipped: duplicate of 1"]
    );
}

#[tokio::test]
async fn an_event_without_a_usable_key_runs() {
    let announced = Ran::default();
    let router = EventRouter::new()
        .on("a", noting(&announced))
        .once_per(HOUR, |event: &Event| {
            let key: String = event.decode().ok()?;
            match key.as_str() {
                "panic" => panic!("the key panics"),
                "none" => None,
                "longest" => Some("k".repeat(255)),
                "long" => Some("k".repeat(256)),
                _ => Some(String::new()),
            }
        });
    let inbox = MemoryInbox::new(router);
    let keys = ["panic", "none", "long", "longest", "empty"];
    for (id, key) in keys.iter().chain(&keys).enumerate() {
        inbox.accept(keyed(&id.to_string(), key)).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(ran(&announced), ["0", "1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test]
async fn each_route_and_each_inbox_has_its_own_keys() {
    let (one, two) = (Ran::default(), Ran::default());
    let router = EventRouter::new()
        .on("a", noting(&one))
        .named("one")
        .once_per(HOUR, key)
        .on("a", noting(&two))
        .named("two")
        .once_per(HOUR, |event: &Event| Some(event.id().to_owned()));
    for inbox in [MemoryInbox::new(router.clone()), MemoryInbox::new(router)] {
        inbox.accept(keyed("0", "stream")).await.unwrap();
        inbox.accept(keyed("1", "stream")).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(ran(&one), ["0", "0"]);
    assert_eq!(ran(&two), ["0", "1", "0", "1"]);
}

#[tokio::test]
async fn layers_around_the_router_do_not_hide_the_keys() {
    let announced = Ran::default();
    let router = EventRouter::new()
        .on("a", noting(&announced))
        .once_per(HOUR, key);
    let service = ServiceBuilder::new()
        .map_request(|event: Event| event)
        .service(router);
    let inbox = MemoryInbox::new(service);
    for id in ["0", "1", "2"] {
        inbox.accept(keyed(id, "stream")).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(ran(&announced), ["0"]);
}

#[tokio::test]
async fn a_replay_runs_the_handled_event_and_skips_its_siblings() {
    let announced = Ran::default();
    let router = EventRouter::new()
        .on("a", noting(&announced))
        .once_per(HOUR, key);
    let inbox = MemoryInbox::new(router);
    for id in ["0", "1"] {
        inbox.accept(keyed(id, "stream")).await.unwrap();
    }
    let handle = inbox.handle();
    wait_idle(&handle).await;
    for record in handle.events().list(&EventFilter::new(), 10).await.unwrap() {
        handle
            .events()
            .replay(record.id(), Replay::All)
            .await
            .unwrap();
    }
    wait_idle(&handle).await;
    assert_eq!(ran(&announced), ["0", "0"]);
}

#[tokio::test]
async fn the_limits_of_concurrency_and_of_keys_work_together() {
    let (started, gate) = (Ran::default(), Arc::new(Semaphore::new(0)));
    let end = |id: &str| match id {
        "0" => Err(HandlerError::permanent("no")),
        _ => Ok(()),
    };
    let router = EventRouter::new()
        .on("a", gated(&started, &gate, end))
        .concurrency(1)
        .once_per(HOUR, key);
    let inbox = MemoryInbox::new(router);
    for (id, key) in [("0", "x"), ("1", "x"), ("2", "y"), ("3", "y"), ("4", "x")] {
        inbox.accept(keyed(id, key)).await.unwrap();
    }
    run_ready_tasks().await;
    assert_eq!(ran(&started), ["0"]);
    gate.add_permits(5);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.handled, stats.skipped), (1, 4, 2));
    let started = ran(&started);
    assert_eq!(started.len(), 3, "{started:?}");
}

#[tokio::test]
#[should_panic(expected = "`once_per` needs a route")]
async fn the_option_needs_a_route() {
    let _ = EventRouter::new().once_per(HOUR, |_: &Event| Some("key"));
}

#[tokio::test]
async fn a_router_without_an_inbox_applies_no_limits() {
    let announced = Ran::default();
    let router = EventRouter::new()
        .on("a", noting(&announced))
        .concurrency(1)
        .once_per(HOUR, |_: &Event| Some("key"));
    for id in ["0", "1"] {
        let mut router = router.clone();
        let report = tower::Service::call(&mut router, event(id)).await.unwrap();
        assert!(report.is_success());
    }
    assert_eq!(ran(&announced), ["0", "1"]);
}

async fn check(steps: Vec<Step>) {
    let model = Model::new();
    let builder = MemoryInbox::builder().delivery(Model::delivery());
    let inbox = builder.build_with(model.clock.clone(), model.router());
    model.check(inbox, &steps, |inbox| async { inbox }).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_random_arrivals_or_failures_make_a_route_handle_two_events_of_a_key(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(steps));
    }
}
