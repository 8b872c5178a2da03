//! The memory inbox: bounds, attempts, counts and drain.

use std::collections::HashMap;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, DeliverySettings, Event, EventOutcome, EventRouter,
    HandlerError, Inbox, MemoryInbox, Outcome, RetryPolicy, Runtime, Stats, TokioRuntime,
};
use proptest::prelude::*;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::support::panics::panic_on_purpose;
use crate::support::runtime::TestRuntime;
use crate::support::{balanced, run_ready_tasks, typed};

/// Returns a router with a handler that waits for a permit in each run.
fn gated(gate: &Arc<Semaphore>) -> EventRouter {
    let gate = Arc::clone(gate);
    EventRouter::new()
        .on_any(noop)
        .named("observer")
        .on_prefix("a", |_: Event| async move {
            gate.acquire().await.unwrap().forget();
        })
}

async fn noop(_: Event) {}

#[tokio::test]
async fn exactly_n_running_and_q_waiting_events_are_accepted() {
    let gate = Arc::new(Semaphore::new(0));
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(3),
        )
        .max_events(3 + 4)
        .build(gated(&gate));
    let mut answers = Vec::new();
    for _ in 0..10 {
        answers.push(inbox.accept(typed("a")).await);
        run_ready_tasks().await;
    }
    let admitted = answers
        .iter()
        .filter(|answer| matches!(answer, Ok(Accepted::New)))
        .count();
    assert_eq!(admitted, 7);
    assert!(
        answers[7..]
            .iter()
            .all(|answer| *answer == Err(AcceptError::new(AcceptErrorKind::Full)))
    );
    let stats = inbox.handle().stats();
    assert_eq!((stats.running, stats.waiting, stats.refused), (3, 4, 3));
    balanced(&stats);
    // Each event that ends frees space for one new event.
    gate.add_permits(1);
    run_ready_tasks().await;
    assert!(inbox.accept(typed("a")).await.is_ok());
    assert!(inbox.accept(typed("a")).await.is_err());
    gate.add_permits(7);
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().handled, 8);
}

#[tokio::test]
async fn a_burst_is_accepted_up_to_the_bound_before_any_worker_runs() {
    let gate = Arc::new(Semaphore::new(0));
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(2),
        )
        .max_events(5)
        .build(gated(&gate));
    let answers = futures_util::future::join_all((0..9).map(|_| inbox.accept(typed("a")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 5);
    run_ready_tasks().await;
    assert_eq!(inbox.handle().stats().running, 2);
    gate.add_permits(5);
    inbox.handle().wait_idle().await;
}

#[tokio::test]
async fn the_inbox_is_bounded_by_bytes_too() {
    let gate = Arc::new(Semaphore::new(0));
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .max_bytes(1000)
        .build(gated(&gate));
    let sized = |bytes| MockRequest::event("a").padded(bytes).to_event();
    assert!(inbox.accept(sized(400)).await.is_ok());
    assert!(inbox.accept(sized(600)).await.is_ok());
    assert_eq!(inbox.handle().stats().bytes, 1000);
    assert_eq!(
        inbox.accept(typed("a")).await,
        Err(AcceptError::new(AcceptErrorKind::Full))
    );
    gate.add_permits(2);
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().bytes, 0);
    // An empty inbox accepts an event larger than the limit. Otherwise the sender would retry the event for days.
    assert!(inbox.accept(sized(2000)).await.is_ok());
    assert!(inbox.accept(typed("a")).await.is_err());
    gate.add_permits(1);
    inbox.handle().wait_idle().await;
}

#[tokio::test]
async fn accept_doesnt_wait_for_handlers() {
    let inbox = MemoryInbox::new(EventRouter::new().on_any(|_: Event| pending::<()>()));
    let mut accept = std::pin::pin!(inbox.accept(typed("a")));
    assert_eq!(
        futures_util::poll!(&mut accept),
        std::task::Poll::Ready(Ok(Accepted::New))
    );
}

#[tokio::test]
async fn an_accept_that_was_never_polled_stores_nothing() {
    let inbox = MemoryInbox::new(EventRouter::new());
    drop(inbox.accept(typed("a")));
    assert_eq!(inbox.handle().stats(), Stats::default());
}

#[test]
fn attempts_run_in_parallel_on_the_runtimes_threads() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    // Each handler blocks its thread until the other handler has started.
    let meet = Arc::new(std::sync::Barrier::new(2));
    let router = EventRouter::new().on_any(move |_: Event| async move {
        meet.wait();
    });
    let inbox = MemoryInbox::new(router);
    runtime.block_on(async {
        inbox.accept(typed("a")).await.unwrap();
        inbox.accept(typed("b")).await.unwrap();
        inbox.handle().wait_idle().await;
    });
}

#[tokio::test]
async fn events_start_in_the_order_of_their_acceptance() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let router = EventRouter::new()
        .on_any(move |event: Event| async move { sender.send(event.id().to_owned()).unwrap() });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(1),
        )
        .build(router);
    for id in 0..50 {
        inbox
            .accept(
                MockRequest::event("a")
                    .message_id(id.to_string())
                    .to_event(),
            )
            .await
            .unwrap();
    }
    inbox.handle().wait_idle().await;
    for id in 0..50 {
        assert_eq!(receiver.recv().await.unwrap(), id.to_string());
    }
}

#[tokio::test]
async fn a_queue_that_never_empties_yields_to_other_tasks() {
    // The handlers never return pending, and one of them keeps refilling the inbox.
    let stop = Arc::new(AtomicBool::new(false));
    let slot: Arc<Mutex<Option<MemoryInbox>>> = Arc::default();
    let (stopped, again) = (Arc::clone(&stop), Arc::clone(&slot));
    let router = EventRouter::new().on_any(move |_: Event| async move {
        let inbox = again.lock().unwrap().clone();
        if !stopped.load(Ordering::Relaxed) {
            let accept = inbox.unwrap().accept(typed("a"));
            let _ = futures_util::FutureExt::now_or_never(accept);
        }
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(1),
        )
        .build(router);
    *slot.lock().unwrap() = Some(inbox.clone());
    inbox.accept(typed("a")).await.unwrap();
    run_ready_tasks().await;
    stop.store(true, Ordering::Relaxed);
    inbox.handle().wait_idle().await;
    balanced(&inbox.handle().stats());
    *slot.lock().unwrap() = None;
}

#[tokio::test(start_paused = true)]
async fn the_attempt_timeout_affects_only_the_routes_that_still_run() {
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let router = EventRouter::new()
        .on("a", noop)
        .on_prefix("a", |_: Event| pending::<()>())
        .on_any(|_: Event| async { tokio::time::sleep(Duration::from_secs(4)).await });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .attempt_timeout(Duration::from_secs(5))
                .on_attempt(move |delivery| log.lock().unwrap().push(delivery.clone())),
        )
        .build(router);
    let start = tokio::time::Instant::now();
    inbox.accept(typed("a")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    let reports = reports.lock().unwrap();
    assert_eq!(
        reports[0].report().to_string(),
        "a handled, a[.*] timed out, * handled"
    );
    assert_eq!(reports[0].event_outcome(), Some(EventOutcome::Dead));
    assert_eq!(inbox.handle().stats().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn a_single_route_that_hangs_is_timed_out_and_dropped() {
    let held = Arc::new(());
    let mine = Arc::clone(&held);
    let inbox = MemoryInbox::new(EventRouter::new().on("a", move |_: Event| async move {
        let _mine = mine;
        pending::<()>().await;
    }));
    inbox.accept(typed("a")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().dead, 1);
    drop(inbox);
    run_ready_tasks().await;
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn hooks_run_for_every_attempt_and_their_panics_change_nothing() {
    let seen = Arc::new(AtomicUsize::new(0));
    let (first, second) = (Arc::clone(&seen), Arc::clone(&seen));
    let router = EventRouter::new()
        .on("a", noop)
        .on("b", |_: Event| async { panic!("b") });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .on_attempt(move |_| {
                    first.fetch_add(1, Ordering::Relaxed);
                })
                .on_attempt(|_| panic!("a hook")),
        )
        .build(router);
    inbox.handle().on_attempt(move |_| {
        second.fetch_add(100, Ordering::Relaxed);
    });
    for event_type in ["a", "b", "c"] {
        inbox.accept(typed(event_type)).await.unwrap();
    }
    inbox.handle().wait_idle().await;
    assert_eq!(seen.load(Ordering::Relaxed), 303);
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.dead, stats.unhandled), (1, 1, 1));
}

#[tokio::test]
async fn a_hook_has_run_before_its_event_is_counted() {
    let told = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&told);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .on_attempt(move |_| tell.store(true, Ordering::Relaxed)),
        )
        .build(EventRouter::new());
    inbox.accept(typed("a")).await.unwrap();
    inbox.handle().wait_idle().await;
    assert!(told.load(Ordering::Relaxed));
}

/// Returns an inbox with three events and one worker, and the gate of the handler.
async fn three_waiting_events() -> (MemoryInbox, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(1),
        )
        .build(gated(&gate));
    for _ in 0..3 {
        inbox.accept(typed("a")).await.unwrap();
    }
    (inbox, gate)
}

#[tokio::test(start_paused = true)]
async fn a_drain_refuses_new_events_and_waits_for_accepted_events() {
    let (inbox, gate) = three_waiting_events().await;
    let drain = tokio::spawn(inbox.handle().drain(Duration::from_secs(60)));
    run_ready_tasks().await;
    assert_eq!(
        inbox.accept(typed("a")).await,
        Err(AcceptError::new(AcceptErrorKind::Draining))
    );
    assert!(!drain.is_finished());
    gate.add_permits(3);
    assert_eq!(drain.await.unwrap().remaining, 0);
    assert_eq!(inbox.handle().stats().handled, 3);
    // A second drain is harmless.
    assert_eq!(inbox.handle().drain(Duration::ZERO).await.remaining, 0);
    assert_eq!(
        inbox.accept(typed("a")).await,
        Err(AcceptError::new(AcceptErrorKind::Draining))
    );
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_at_its_deadline_returns_the_remaining_events_and_cancels_none() {
    let (inbox, gate) = three_waiting_events().await;
    let start = tokio::time::Instant::now();
    let (one, two) = tokio::join!(
        inbox.handle().drain(Duration::from_secs(5)),
        inbox.handle().drain(Duration::from_secs(7))
    );
    assert_eq!((one.remaining, two.remaining), (3, 3));
    assert_eq!(start.elapsed(), Duration::from_secs(7));
    gate.add_permits(3);
    assert_eq!(
        inbox.handle().drain(Duration::from_secs(1)).await.remaining,
        0
    );
    assert_eq!(inbox.handle().stats().handled, 3);
}

#[tokio::test]
async fn the_inbox_still_refuses_events_after_a_drain_is_dropped() {
    let gate = Arc::new(Semaphore::new(0));
    let inbox = MemoryInbox::new(gated(&gate));
    inbox.accept(typed("a")).await.unwrap();
    {
        let mut drain = Box::pin(inbox.handle().drain(Duration::from_secs(60)));
        assert!(
            inbox.accept(typed("a")).await.is_ok(),
            "the drain hasn't been polled yet"
        );
        assert!(futures_util::poll!(&mut drain).is_pending());
    }
    assert_eq!(
        inbox.accept(typed("a")).await,
        Err(AcceptError::new(AcceptErrorKind::Draining))
    );
    gate.add_permits(2);
    inbox.handle().wait_idle().await;
}

#[tokio::test]
async fn wait_idle_resolves_at_once_in_an_idle_inbox_and_for_every_caller() {
    let gate = Arc::new(Semaphore::new(0));
    let inbox = MemoryInbox::new(gated(&gate));
    inbox.handle().wait_idle().await;
    inbox.accept(typed("a")).await.unwrap();
    let waiting: Vec<_> = (0..3)
        .map(|_| tokio::spawn(inbox.handle().wait_idle()))
        .collect();
    run_ready_tasks().await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
    gate.add_permits(1);
    for waiting in waiting {
        waiting.await.unwrap();
    }
}

#[test]
fn an_event_without_a_runtime_is_refused() {
    let inbox = MemoryInbox::new(EventRouter::new());
    let answer = futures_util::FutureExt::now_or_never(inbox.accept(typed("a"))).unwrap();
    assert_eq!(answer, Err(AcceptError::new(AcceptErrorKind::Unavailable)));
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.accepted, stats.refused, stats.in_flight()),
        (0, 1, 0)
    );
}

#[test]
fn an_attempt_that_its_runtime_drops_is_dead() {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&ended);
    let router = EventRouter::new()
        .on("a", noop)
        .on_prefix("a", |_: Event| pending::<()>());
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(1)
                .on_attempt(move |delivery| log.lock().unwrap().push(delivery.to_string())),
        )
        .build(router);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        for id in ["1", "2"] {
            inbox
                .accept(MockRequest::event("a").message_id(id).to_event())
                .await
                .unwrap();
        }
        run_ready_tasks().await;
    });
    drop(runtime);
    assert_eq!(
        *ended.lock().unwrap(),
        ["a 1 dead: a handled, a[.*] dropped"]
    );
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.waiting), (1, 1));
    balanced(&stats);
}

#[test]
fn a_new_runtime_runs_the_events_that_a_stopped_runtime_left_behind() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let hang = Arc::new(AtomicBool::new(true));
    let first = Arc::clone(&hang);
    let router = EventRouter::new().on_any(move |event: Event| async move {
        sender.send(event.id().to_owned()).unwrap();
        if first.swap(false, Ordering::Relaxed) {
            pending::<()>().await;
        }
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(1),
        )
        .build(router);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    runtime().block_on(async {
        for id in ["1", "2"] {
            inbox
                .accept(MockRequest::event("a").message_id(id).to_event())
                .await
                .unwrap();
        }
        run_ready_tasks().await;
    });
    let left = runtime().block_on(inbox.handle().drain(Duration::from_secs(60)));
    assert_eq!(left.remaining, 0);
    assert_eq!(
        [receiver.try_recv().unwrap(), receiver.try_recv().unwrap()],
        ["1", "2"]
    );
}

fn without_timers() -> TestRuntime {
    TestRuntime::tokio().on_sleep(|_| panic!("no timers"))
}

#[tokio::test]
async fn a_runtime_without_timers_affects_only_attempts_that_wait() {
    let inbox = MemoryInbox::builder().build_with(
        without_timers(),
        EventRouter::new()
            .on("a", noop)
            .on("b", |_: Event| pending::<()>()),
    );
    for event_type in ["a", "b", "a"] {
        inbox.accept(typed(event_type)).await.unwrap();
    }
    inbox.handle().wait_idle().await;
    assert_eq!(
        (inbox.handle().stats().handled, inbox.handle().stats().dead),
        (2, 1)
    );
    let inbox = MemoryInbox::builder().build_with(
        TestRuntime::tokio().on_spawn(|_| panic!("no threads")),
        EventRouter::new(),
    );
    assert_eq!(
        inbox.accept(typed("a")).await,
        Err(AcceptError::new(AcceptErrorKind::Unavailable))
    );
}

#[tokio::test]
async fn handlers_see_attempt_1_at_first_delivery() {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let inbox = MemoryInbox::new(EventRouter::new().on_any(move |event: Event| async move {
        sender.send(event.attempt()).unwrap();
    }));
    inbox.accept(typed("a")).await.unwrap();
    assert_eq!(receiver.recv().await, Some(1));
}

#[tokio::test]
async fn an_event_accepted_while_a_handler_drops_the_last_inbox_runs() {
    let done = Arc::new(Notify::new());
    let tell = Arc::clone(&done);
    let inbox = MemoryInbox::new(
        EventRouter::new().on_any(move |_: Event| async move { tell.notify_one() }),
    );
    inbox.accept(typed("a")).await.unwrap();
    drop(inbox);
    done.notified().await;
}

/// The behaviour of a handler in the property test.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Handle,
    Fail,
    Panic,
    Hang,
    Yield,
    Sleep(u64),
}

fn deeds() -> impl Strategy<Value = Deed> {
    prop_oneof![
        Just(Deed::Handle),
        Just(Deed::Fail),
        Just(Deed::Panic),
        Just(Deed::Hang),
        Just(Deed::Yield),
        (0_u64..40).prop_map(Deed::Sleep),
    ]
}

fn perform(deed: Deed) -> Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>> {
    Box::pin(async move {
        match deed {
            Deed::Handle => {}
            Deed::Fail => return Err("failed".into()),
            Deed::Panic => panic_on_purpose(),
            Deed::Hang => pending().await,
            Deed::Yield => tokio::task::yield_now().await,
            Deed::Sleep(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
        Ok(())
    })
}

/// An arriving event: whether a route matches it, the behaviour of two handlers, and the milliseconds until the
/// next event.
type Arriving = (bool, Deed, Deed, u64);

/// Checks law 2 of ARCHITECTURE.md after every step, with random handler behaviour and load.
async fn law_2(arrivals: Vec<Arriving>, running: usize, events: usize) {
    let script: HashMap<String, Arriving> = arrivals
        .iter()
        .enumerate()
        .map(|(id, arrival)| (id.to_string(), *arrival))
        .collect();
    let script = Arc::new(script);
    let (one, two) = (Arc::clone(&script), Arc::clone(&script));
    let router = EventRouter::new()
        .on("a", move |event: Event| async move {
            perform(one[event.id()].1).await
        })
        .on_prefix("a", move |event: Event| async move {
            perform(two[event.id()].2).await
        })
        .on_any(noop);
    let ends: Arc<Mutex<Vec<(String, EventOutcome)>>> = Arc::default();
    let log = Arc::clone(&ends);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(running)
                .attempt_timeout(Duration::from_millis(20))
                .on_attempt(move |delivery| {
                    log.lock().unwrap().push((
                        delivery.event().id().to_owned(),
                        delivery.event_outcome().unwrap(),
                    ));
                }),
        )
        .max_events(events)
        .build(router);
    let handle = inbox.handle();
    let mut accepted = Vec::new();
    for (id, (routed, .., wait)) in arrivals.iter().enumerate() {
        let mock = MockRequest::event(if *routed { "a" } else { "x" }).message_id(id.to_string());
        if inbox.accept(mock.to_event()).await.is_ok() {
            accepted.push(id.to_string());
        }
        let stats = handle.stats();
        balanced(&stats);
        assert!(stats.in_flight() <= events as u64 && stats.running <= running as u64);
        tokio::time::sleep(Duration::from_millis(*wait)).await;
        balanced(&handle.stats());
    }
    handle.wait_idle().await;
    let (stats, ends) = (handle.stats(), ends.lock().unwrap());
    balanced(&stats);
    assert_eq!(stats.in_flight(), 0);
    assert_eq!(stats.accepted, accepted.len() as u64);
    assert_eq!(stats.refused, (arrivals.len() - accepted.len()) as u64);
    // Each accepted event ended exactly once.
    assert_eq!(ends.len(), accepted.len());
    let ends: HashMap<_, _> = ends.iter().cloned().collect();
    assert_eq!(ends.len(), accepted.len());
    for id in accepted {
        let (routed, one, two, _) = script[&id];
        let good = |deed| match deed {
            Deed::Handle | Deed::Yield => Some(true),
            Deed::Sleep(millis) if millis < 20 => Some(true),
            // If the handler finishes in the same millisecond as the deadline, either outcome is valid.
            Deed::Sleep(20) => None,
            _ => Some(false),
        };
        let expected = match (routed, good(one), good(two)) {
            (false, ..) => Some(EventOutcome::Unhandled),
            (true, Some(false), _) | (true, _, Some(false)) => Some(EventOutcome::Dead),
            (true, Some(true), Some(true)) => Some(EventOutcome::Handled),
            _ => None,
        };
        assert!(
            expected.is_none_or(|expected| ends[&id] == expected),
            "{id}: {:?} {:?}",
            script[&id],
            ends[&id]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_accepted_event_ends_in_exactly_one_counted_outcome(
        arrivals in prop::collection::vec((any::<bool>(), deeds(), deeds(), 0_u64..8), 1..40),
        running in 1_usize..6,
        events in 1_usize..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(law_2(arrivals, running, events));
    }
}

#[test]
fn the_counts_balance_at_every_read_under_concurrent_load() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let turn = Arc::new(AtomicU64::new(0));
    let router = EventRouter::new().on_prefix("a", move |_: Event| async move {
        match turn.fetch_add(1, Ordering::Relaxed) % 4 {
            0 => return Err(HandlerError::from("failed")),
            1 => tokio::task::yield_now().await,
            2 => tokio::time::sleep(Duration::from_millis(1)).await,
            _ => {}
        }
        Ok(())
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(4),
        )
        .max_events(32)
        .build(router);
    let handle = inbox.handle();
    let (done, reader) = (Arc::new(AtomicBool::new(false)), handle.clone());
    let stop = Arc::clone(&done);
    let reader = std::thread::spawn(move || {
        let (mut reads, end) = (0, Instant::now() + Duration::from_secs(30));
        while !stop.load(Ordering::Relaxed) && Instant::now() < end {
            balanced(&reader.stats());
            reads += 1;
        }
        reads
    });
    let accepted = runtime.block_on(async {
        let senders = (0..4).map(|_| {
            let inbox = inbox.clone();
            tokio::spawn(async move {
                let mut accepted = 0;
                for _ in 0..500 {
                    accepted += u64::from(inbox.accept(typed("a")).await.is_ok());
                    tokio::task::yield_now().await;
                }
                accepted
            })
        });
        let accepted = futures_util::future::join_all(senders)
            .await
            .into_iter()
            .map(Result::unwrap)
            .sum::<u64>();
        inbox.handle().wait_idle().await;
        accepted
    });
    done.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 0);
    let stats = handle.stats();
    assert_eq!(
        (stats.accepted, stats.accepted + stats.refused),
        (accepted, 2000)
    );
    assert_eq!(stats.handled + stats.dead, accepted);
    assert!(matches!(
        stats,
        Stats {
            dead: 1..,
            handled: 1..,
            ..
        }
    ));
}

#[test]
fn outcome_names_contain_no_user_text() {
    let outcome = Outcome::Failed(HandlerError::from("s3cret"));
    assert_eq!(outcome.as_str(), "failed");
    assert_eq!(outcome.to_string(), "failed: s3cret");
}

/// The bug: a worker that found the queue empty released its slot a moment later. An event that arrived in between got
/// no worker.
#[test]
fn an_event_that_arrives_as_a_worker_ends_gets_another_worker() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().concurrency(1))
        .duplicate_window(Duration::ZERO)
        .build(EventRouter::new());
    let (sender, done) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        for _ in 0..20_000 {
            inbox.accept(typed("a")).await.unwrap();
            inbox.handle().wait_idle().await;
        }
        sender.send(inbox.handle().stats()).unwrap();
    });
    let stats = done
        .recv_timeout(Duration::from_secs(60))
        .expect("every event is delivered");
    assert_eq!(stats.unhandled, 20_000);
    runtime.shutdown_background();
}

/// An error whose `Display` panics.
#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("an error whose display panics")
    }
}

impl std::error::Error for Unspeakable {}

impl Drop for Unspeakable {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a panic in drop")
        }
    }
}

/// The bug: a panic in an error's `Display` or `Drop` unwound the worker after the guard that counts the event had
/// released the event.
#[tokio::test]
async fn an_error_that_panics_in_display_or_drop_affects_only_its_own_event() {
    let router = EventRouter::new()
        .on("a", |_: Event| async { Err::<(), _>(Unspeakable) })
        .on("b", noop);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(1),
        )
        .build(router);
    for event_type in ["a", "b", "a", "b"] {
        inbox.accept(typed(event_type)).await.unwrap();
    }
    inbox.handle().wait_idle().await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.dead, stats.bytes), (2, 2, 0));
    assert_eq!(
        inbox.handle().drain(Duration::from_secs(1)).await.remaining,
        0
    );
}

#[test]
fn a_runtime_built_from_a_handle_uses_its_own_timers() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let tokio = TokioRuntime::with_handle(runtime.handle().clone());
    // This thread hasn't entered a runtime.
    smol::block_on(tokio.sleep(Duration::from_millis(1)));
    let inbox = MemoryInbox::builder().build_with(
        tokio,
        EventRouter::new().on("a", |_: Event| pending::<()>()),
    );
    smol::block_on(async {
        inbox.accept(typed("a")).await.unwrap();
        assert_eq!(
            inbox
                .handle()
                .drain(Duration::from_millis(1))
                .await
                .remaining,
            1
        );
    });
}

#[tokio::test]
async fn a_drain_without_a_timer_doesnt_wait() {
    let inbox = MemoryInbox::builder().build_with(
        without_timers(),
        EventRouter::new().on("a", |_: Event| async {
            tokio::task::yield_now().await;
        }),
    );
    inbox.accept(typed("a")).await.unwrap();
    assert_eq!(
        inbox.handle().drain(Duration::from_secs(1)).await.remaining,
        1
    );
}

/// The bug: the inbox filled up, because each worker delivered one event per turn regardless of the number of senders.
#[tokio::test]
async fn an_inbox_keeps_up_with_more_senders_than_workers() {
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().concurrency(4))
        .max_events(1_000)
        .build(EventRouter::new().on("account.updated", |_: Event| async {}));
    let senders = (0..100).map(|_| {
        let inbox = inbox.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                let event = MockRequest::event("account.updated").to_event();
                assert_eq!(inbox.accept(event).await, Ok(Accepted::New));
                tokio::task::yield_now().await;
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().handled, 5_000);
}
