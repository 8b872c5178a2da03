//! Attempts: which routes are retried, when and how many times, and the state of an event between two attempts.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::{
    Attempt, DeliverySettings, Event, EventOutcome, EventRouter, HandlerError, Inbox, MemoryInbox,
    MemoryInboxBuilder, Report, RetryPolicy, Stats,
};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::support::panics::panic_on_purpose;
use crate::support::{balanced, event};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The attempts reported to the hook, each with its time.
type Log = Arc<Mutex<Vec<(Duration, Attempt)>>>;

fn logged(delivery: DeliverySettings) -> (MemoryInboxBuilder, Log) {
    let log = Log::default();
    let (write, start) = (Arc::clone(&log), Instant::now());
    let delivery = delivery.on_attempt(move |attempt| {
        write
            .lock()
            .unwrap()
            .push((start.elapsed(), attempt.clone()));
    });
    (MemoryInbox::builder().delivery(delivery), log)
}

/// Returns the report of each logged attempt as a string.
fn reports(log: &Log) -> Vec<String> {
    log.lock()
        .unwrap()
        .iter()
        .map(|(_, delivery)| delivery.report().to_string())
        .collect()
}

/// Returns a handler that fails before run number `good` and succeeds from then on.
fn fails_before(
    good: u32,
) -> impl FnOnce(Event) -> std::future::Ready<Result<(), HandlerError>> + Clone {
    let runs = Arc::new(AtomicU32::new(1));
    move |_: Event| {
        let good = runs.fetch_add(1, Ordering::Relaxed) >= good;
        std::future::ready(if good { Ok(()) } else { Err("not yet".into()) })
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_routes_that_failed_run_again() {
    let (builder, log) = logged(DeliverySettings::new());
    let router = EventRouter::new()
        .on("a", fails_before(3))
        .on_prefix("a", fails_before(1))
        .on_any(fails_before(2))
        .named("observes")
        .on_any(|_: Event| async { panic!("never") })
        .named("panics");
    let inbox = builder.build(router);
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(
        reports(&log),
        [
            "a failed: not yet, a[.*] handled, observes failed: not yet, panics panicked: never",
            "a failed: not yet, observes handled, panics panicked: never",
            "a handled, panics panicked: never",
            "panics panicked: never",
            "panics panicked: never",
        ]
    );
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.accepted, stats.dead, stats.handled, stats.retried),
        (1, 1, 0, 4)
    );
}

#[tokio::test(start_paused = true)]
async fn an_event_is_handled_if_all_its_routes_succeed_eventually() {
    let inbox = MemoryInbox::new(EventRouter::new().on("a", fails_before(5)));
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().handled, 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_only_observers_received_is_unhandled_even_after_retries() {
    let inbox = MemoryInbox::new(EventRouter::new().on_any(fails_before(2)));
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().unhandled, 1);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_dead_lettered_after_the_last_attempt_and_not_before() {
    for attempts in [1, 2, 7] {
        let (builder, log) =
            logged(DeliverySettings::new().retry(RetryPolicy::new().max_attempts(attempts)));
        let inbox = builder.build(EventRouter::new().on("a", fails_before(u32::MAX)));
        inbox.accept(event("1")).await.unwrap();
        inbox.handle().wait_idle().await;
        let log = log.lock().unwrap();
        let numbers: Vec<_> = log
            .iter()
            .map(|(_, delivery)| delivery.event().attempt())
            .collect();
        assert_eq!(numbers, (1..=attempts).collect::<Vec<_>>());
        for (_, delivery) in log.iter() {
            let last = delivery.event().attempt() == attempts;
            assert_eq!(delivery.event_outcome(), last.then_some(EventOutcome::Dead));
            assert_eq!(delivery.retry_in().is_none(), last);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn delays_grow_with_jitter_and_never_exceed_the_maximum() {
    let retry = RetryPolicy::new()
        .max_attempts(12)
        .initial_delay(seconds(1))
        .max_delay(seconds(20));
    let (builder, log) = logged(DeliverySettings::new().retry(retry));
    let inbox = builder.build(EventRouter::new().on("a", fails_before(u32::MAX)));
    for id in 0..50 {
        inbox.accept(event(id.to_string())).await.unwrap();
    }
    inbox.handle().wait_idle().await;
    let log = log.lock().unwrap();
    let mut waits: HashMap<u32, Vec<Duration>> = HashMap::new();
    for (_, delivery) in log.iter() {
        waits
            .entry(delivery.event().attempt())
            .or_default()
            .extend(delivery.retry_in());
    }
    for (attempt, most) in (1..=11).zip([1, 2, 4, 8, 16, 20, 20, 20, 20, 20, 20]) {
        let waits = &waits[&attempt];
        assert_eq!(waits.len(), 50);
        let (least, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        // Full jitter is uniform from zero to the maximum. The chance that either half gets none of 50
        // draws is below 1 in 100,000.
        assert!(
            *longest <= seconds(most) && *longest > seconds(most) / 2,
            "{attempt}: {longest:?}"
        );
        assert!(*least < seconds(most) / 2, "{attempt}: {least:?}");
    }
    // The first attempt isn't delayed.
    assert!(
        log.iter()
            .filter(|(_, delivery)| delivery.event().attempt() == 1)
            .all(|(at, _)| *at < seconds(1))
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_starts_when_its_delay_is_over() {
    let (builder, log) = logged(DeliverySettings::new());
    let inbox = builder.build(EventRouter::new().on("a", fails_before(u32::MAX)));
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    for pair in log.lock().unwrap().windows(2) {
        let wait = pair[0].1.retry_in().unwrap();
        let waited = pair[1].0 - pair[0].0;
        // tokio's timers have millisecond resolution.
        assert!(
            waited >= wait && waited <= wait + Duration::from_millis(2),
            "{waited:?} for {wait:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_produces_the_same_delays() {
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let (builder, log) = logged(DeliverySettings::new().retry(RetryPolicy::new().seed(seed)));
        let inbox = builder.build(EventRouter::new().on("a", fails_before(u32::MAX)));
        inbox.accept(event("1")).await.unwrap();
        inbox.handle().wait_idle().await;
        let waits: Vec<_> = log
            .lock()
            .unwrap()
            .iter()
            .map(|(_, delivery)| delivery.retry_in())
            .collect();
        runs.push(waits);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_can_ask_for_a_delay_up_to_the_maximum() {
    for (asked, ceiling, waits) in [(60, 300, 60), (900, 300, 300)] {
        let (builder, log) =
            logged(DeliverySettings::new().retry(RetryPolicy::new().max_delay(seconds(ceiling))));
        let router = EventRouter::new().on("a", fails_before(2)).on_prefix(
            "a",
            move |event: Event| async move {
                if event.attempt() == 1 {
                    Err(HandlerError::retry_after(seconds(asked), "later"))
                } else {
                    Ok(())
                }
            },
        );
        let inbox = builder.build(router);
        inbox.accept(event("1")).await.unwrap();
        inbox.handle().wait_idle().await;
        assert_eq!(log.lock().unwrap()[0].1.retry_in(), Some(seconds(waits)));
        assert_eq!(inbox.handle().stats().handled, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_and_a_payload_that_doesnt_fit_are_not_retried() {
    let (builder, log) = logged(DeliverySettings::new());
    let router = EventRouter::new()
        .on("a", |_: Event| async {
            Err::<(), _>(HandlerError::permanent("no"))
        })
        .on_prefix("a", |_: Event<bool>| async {})
        .on_any(|event: Event| async move {
            event.decode::<bool>()?;
            Ok::<_, HandlerError>(())
        })
        .named("decodes")
        .on_any(fails_before(2));
    let inbox = builder.build(router);
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    let reports = reports(&log);
    assert_eq!(reports.len(), 2, "{reports:?}");
    assert_eq!(reports[1], "* handled");
    // A route failed permanently, so the event is dead.
    assert_eq!(
        log.lock().unwrap()[1].1.event_outcome(),
        Some(EventOutcome::Dead)
    );
    assert_eq!(inbox.handle().stats().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn each_attempt_gets_a_new_deadline() {
    let (builder, log) = logged(DeliverySettings::new().attempt_timeout(seconds(10)));
    let router = EventRouter::new().on("a", |event: Event| async move {
        tokio::time::sleep(seconds(if event.attempt() == 1 { 11 } else { 9 })).await;
    });
    let inbox = builder.build(router);
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(reports(&log), ["a timed out", "a handled"]);
}

#[tokio::test(start_paused = true)]
async fn a_retrying_event_counts_against_max_events_but_not_against_the_concurrency() {
    let retry = RetryPolicy::new()
        .initial_delay(seconds(1000))
        .max_delay(seconds(1000))
        .seed(1);
    let router = EventRouter::new().on("a", fails_before(3));
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(retry).concurrency(1))
        .max_events(3)
        .build(router);
    for id in ["1", "2", "3"] {
        inbox.accept(event(id)).await.unwrap();
    }
    while inbox.handle().stats().retrying < 2 {
        tokio::task::yield_now().await;
    }
    // Two events are waiting for a retry. The third event is running, or has been handled.
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.retrying, stats.in_flight(), stats.running),
        (2, 3 - stats.handled, stats.waiting)
    );
    while inbox.handle().stats().handled < 1 {
        tokio::task::yield_now().await;
    }
    assert!(inbox.accept(event("4")).await.is_ok());
    inbox.handle().wait_idle().await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.bytes), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn waiting_retries_count_against_the_inboxs_bounds() {
    let retry = RetryPolicy::new()
        .initial_delay(seconds(1000))
        .max_delay(seconds(1000));
    let router = EventRouter::new().on("a", fails_before(u32::MAX));
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(retry))
        .max_events(2)
        .build(router);
    for id in ["1", "2"] {
        inbox.accept(event(id)).await.unwrap();
    }
    while inbox.handle().stats().retrying < 2 {
        tokio::task::yield_now().await;
    }
    assert!(inbox.accept(event("3")).await.is_err());
    balanced(&inbox.handle().stats());
}

#[tokio::test(start_paused = true)]
async fn a_drain_runs_waiting_retries_at_once() {
    let retry = RetryPolicy::new()
        .initial_delay(seconds(1000))
        .max_delay(seconds(1000));
    let router = EventRouter::new().on("a", fails_before(4));
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(retry))
        .build(router);
    inbox.accept(event("1")).await.unwrap();
    while inbox.handle().stats().retrying < 1 {
        tokio::task::yield_now().await;
    }
    let start = Instant::now();
    assert_eq!(inbox.handle().drain(seconds(60)).await.remaining, 0);
    assert_eq!(inbox.handle().stats().handled, 1);
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "the remaining attempts ran at once"
    );
}

#[test]
fn a_retrying_event_that_its_runtime_drops_is_dead() {
    let log = Log::default();
    let write = Arc::clone(&log);
    let hook = move |attempt: &Attempt| {
        write
            .lock()
            .unwrap()
            .push((Duration::ZERO, attempt.clone()));
    };
    let builder = MemoryInbox::builder().delivery(DeliverySettings::new().on_attempt(hook));
    let inbox = builder.build(
        EventRouter::new()
            .on("a", fails_before(u32::MAX))
            .on_any(fails_before(1)),
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        inbox.accept(event("1")).await.unwrap();
        while inbox.handle().stats().retrying < 1 {
            tokio::task::yield_now().await;
        }
    });
    drop(runtime);
    assert_eq!(reports(&log), ["a failed: not yet, * handled", "a dropped"]);
    assert_eq!(
        log.lock().unwrap()[1].1.event_outcome(),
        Some(EventOutcome::Dead)
    );
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.in_flight(), stats.bytes), (1, 0, 0));
    balanced(&stats);
}

/// The bug: an event counted as handled if a layer kept a later attempt from the router.
#[tokio::test(start_paused = true)]
async fn a_retry_that_a_layer_keeps_from_the_router_counts_as_an_attempt_of_its_routes() {
    let router = EventRouter::new()
        .on("a", fails_before(2))
        .on_any(fails_before(1));
    let seen = Arc::new(Mutex::new(std::collections::HashSet::new()));
    // An idempotency filter around the router drops retries.
    let service = tower::service_fn(move |event: Event| {
        let first = seen.lock().unwrap().insert(event.id().to_owned());
        let mut router = router.clone();
        async move {
            if first {
                tower::Service::call(&mut router, event).await
            } else {
                Ok(Report::default())
            }
        }
    });
    let (builder, log) = logged(DeliverySettings::new().retry(RetryPolicy::new().max_attempts(3)));
    let inbox = builder.build(service);
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(
        reports(&log),
        [
            "a failed: not yet, * handled",
            "service handled",
            "service handled"
        ]
    );
    assert_eq!(inbox.handle().stats().dead, 1);
}

/// Delivers an event through the first router at attempt 1, and through the second router from attempt 2.
async fn versions(first: EventRouter, second: EventRouter) -> (Vec<String>, Stats) {
    let service = tower::service_fn(move |event: Event| {
        let router = if event.attempt() == 1 {
            &first
        } else {
            &second
        };
        tower::Service::call(&mut router.clone(), event)
    });
    let (builder, log) = logged(DeliverySettings::new());
    let inbox = builder.build(service);
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    (reports(&log), inbox.handle().stats())
}

#[tokio::test(start_paused = true)]
async fn a_route_renamed_between_attempts_may_run_twice_and_a_removed_one_ends() {
    let first = EventRouter::new()
        .on("a", fails_before(1))
        .named("old name")
        .on_prefix("a", fails_before(1))
        .named("done")
        .on_any(fails_before(u32::MAX))
        .named("old name of one that failed")
        .on_any(fails_before(u32::MAX))
        .named("fails")
        .on_any(fails_before(u32::MAX))
        .named("removed");
    let second = EventRouter::new()
        .on("a", fails_before(1))
        .named("new name")
        .on_prefix("a", fails_before(u32::MAX))
        .named("done")
        .on_any(fails_before(1))
        .named("new name of one that failed")
        .on_any(fails_before(2))
        .named("fails")
        .on_any(fails_before(1))
        .named("added");
    let (reports, stats) = versions(first, second).await;
    assert_eq!(
        reports[1..],
        [
            "new name handled, new name of one that failed handled, fails failed: not yet, \
             added handled",
            "fails handled"
        ]
    );
    assert_eq!((stats.handled, stats.dead, stats.in_flight()), (1, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_waiting_routes_are_all_removed_ends() {
    let first = EventRouter::new()
        .on("a", fails_before(1))
        .on_any(fails_before(u32::MAX))
        .named("removed");
    let second = EventRouter::new().on("a", fails_before(1));
    let (reports, stats) = versions(first, second).await;
    assert_eq!(reports, ["a handled, removed failed: not yet", "no route"]);
    assert_eq!((stats.handled, stats.in_flight()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_service_without_a_router_is_retried_until_it_succeeds() {
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let service = tower::service_fn(move |_: Event| {
        let good = count.fetch_add(1, Ordering::Relaxed) == 2;
        std::future::ready(if good {
            Ok(Report::default())
        } else {
            Err("not yet")
        })
    });
    let (builder, log) = logged(DeliverySettings::new());
    let inbox = builder.build(service);
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    let failed = "service failed: not yet";
    assert_eq!(reports(&log), [failed, failed, "service handled"]);
    assert_eq!(inbox.handle().stats().handled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_first_reached_by_a_later_attempt_runs_its_routes() {
    let router = EventRouter::new()
        .on("a", fails_before(2))
        .on_any(fails_before(1));
    let runs = Arc::new(AtomicU32::new(0));
    let service = tower::service_fn(move |event: Event| {
        let first = runs.fetch_add(1, Ordering::Relaxed) == 0;
        let mut router = router.clone();
        async move {
            if first {
                return Err("the layer is down");
            }
            Ok(tower::Service::call(&mut router, event)
                .await
                .unwrap_or_else(|never| match never {}))
        }
    });
    let (builder, log) = logged(DeliverySettings::new());
    let inbox = builder.build(service);
    inbox.accept(event("1")).await.unwrap();
    inbox.handle().wait_idle().await;
    let reports = reports(&log);
    assert_eq!(
        reports,
        [
            "service failed: the layer is down",
            "a failed: not yet, * handled",
            "a handled"
        ]
    );
    assert_eq!(inbox.handle().stats().handled, 1);
}

/// The behaviour of a route in one attempt.
#[derive(Clone, Debug)]
enum Deed {
    Handle,
    Fail,
    Permanent,
    Panic,
    Hang,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        Just(Deed::Handle),
        Just(Deed::Fail),
        Just(Deed::Permanent),
        Just(Deed::Panic),
        Just(Deed::Hang)
    ];
    prop::collection::vec(deed, 4)
}

/// Returns how many times a route with this behaviour runs in `attempts` attempts, and whether it succeeds.
fn model(deeds: &[Deed], attempts: usize) -> (usize, bool) {
    for (run, deed) in deeds[..attempts].iter().enumerate() {
        match deed {
            Deed::Handle => return (run + 1, true),
            Deed::Permanent => return (run + 1, false),
            Deed::Fail | Deed::Panic | Deed::Hang => {}
        }
    }
    (attempts, false)
}

async fn perform(deed: Deed) -> Result<(), HandlerError> {
    match deed {
        Deed::Handle => Ok(()),
        Deed::Fail => Err("failed".into()),
        Deed::Permanent => Err(HandlerError::permanent("failed")),
        Deed::Panic => panic_on_purpose(),
        Deed::Hang => pending().await,
    }
}

/// Compares attempts and counts with the model, and checks law 2.
async fn law_2(scripts: Vec<[Vec<Deed>; 2]>, attempts: u32, running: usize) {
    let runs: Arc<Mutex<HashMap<(String, usize), usize>>> = Arc::default();
    let scripts = Arc::new(scripts);
    let route = |route: usize| {
        let (scripts, runs) = (Arc::clone(&scripts), Arc::clone(&runs));
        move |event: Event| async move {
            *runs
                .lock()
                .unwrap()
                .entry((event.id().to_owned(), route))
                .or_default() += 1;
            let script: usize = event.id().parse()?;
            perform(scripts[script][route][event.attempt() as usize - 1].clone()).await
        }
    };
    let router = EventRouter::new()
        .on("a", route(0))
        .on_prefix("a", route(1));
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::new().max_attempts(attempts))
                .concurrency(running)
                .attempt_timeout(seconds(3)),
        )
        .build(router);
    let handle = inbox.handle();
    for id in 0..scripts.len() {
        inbox.accept(event(id.to_string())).await.unwrap();
    }
    loop {
        balanced(&handle.stats());
        if handle.stats().in_flight() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let runs = runs.lock().unwrap();
    let mut dead = 0;
    for (id, script) in scripts.iter().enumerate() {
        let ends = [0, 1].map(|route| model(&script[route], attempts as usize));
        for (route, (times, _)) in ends.iter().enumerate() {
            assert_eq!(runs[&(id.to_string(), route)], *times, "{script:?}");
        }
        dead += u64::from(!ends.iter().all(|(_, handled)| *handled));
    }
    let stats = handle.stats();
    assert_eq!(
        (stats.dead, stats.handled),
        (dead, scripts.len() as u64 - dead)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_route_runs_as_often_as_its_outcomes_require(
        scripts in prop::collection::vec([deeds(), deeds()], 1..12),
        attempts in 1_u32..5,
        running in 1_usize..4,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(law_2(scripts, attempts, running));
    }
}
