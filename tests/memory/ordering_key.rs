//! Events with the same ordering key run one after another. Different keys run in parallel. An idle key uses no memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, DeliverySettings, Event, EventOutcome, EventRouter,
    HandlerError, Inbox, MemoryInbox, MemoryInboxBuilder, Pattern, RetryPolicy, Runtime, Stats,
    TokioRuntime,
};
use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::sync::{Barrier, Semaphore};

use crate::support::panics::panic_on_purpose;
use crate::support::runtime::TestRuntime;
use crate::support::subscriber::capture;
use crate::support::{key, keyed, letters, run_ready_tasks, wait_idle};

fn ordered() -> DeliverySettings {
    DeliverySettings::new()
        .retry(RetryPolicy::no_retry())
        .ordering_key(key)
}

#[track_caller]
fn accept(inbox: &MemoryInbox, id: &str, key: Option<&str>) {
    let accepted = inbox.accept(keyed(id, key)).now_or_never().unwrap();
    assert_eq!(accepted, Ok(Accepted::New), "{id}");
}

/// Returns the id of the event's letter.
async fn letter(inbox: &MemoryInbox, message_id: &str) -> u64 {
    let all = letters(inbox).list(None, usize::MAX).await.unwrap();
    let mut all = all.iter();
    let letter = all.find(|letter| letter.message_id() == message_id);
    letter.unwrap().id()
}

/// Replays the event's letter.
async fn replay(inbox: &MemoryInbox, message_id: &str) {
    let letter = letter(inbox, message_id).await;
    assert!(letters(inbox).replay(letter).await.unwrap());
}

/// Returns whether the counts satisfy law 2.
fn is_balanced(stats: &Stats) -> bool {
    stats.accepted + stats.recovered + stats.replayed
        == stats.handled + stats.unhandled + stats.dead + stats.in_flight()
}

/// The ids of the events, in the order in which their attempts started.
#[derive(Clone, Default)]
struct Starts(Arc<Mutex<Vec<String>>>);

impl Starts {
    fn write(&self, event: &Event) {
        self.0.lock().unwrap().push(event.id().to_owned());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Returns a router whose handler fails for the ids in `bad` and succeeds for all others.
fn router(starts: &Starts, bad: &Arc<Mutex<Vec<&'static str>>>) -> EventRouter {
    let (starts, bad) = (starts.clone(), Arc::clone(bad));
    EventRouter::new().on("a", move |event: Event| async move {
        starts.write(&event);
        if bad.lock().unwrap().contains(&event.id()) {
            return Err("bad");
        }
        Ok(())
    })
}

fn bad(ids: &[&'static str]) -> Arc<Mutex<Vec<&'static str>>> {
    Arc::new(Mutex::new(ids.to_vec()))
}

#[tokio::test(start_paused = true)]
async fn events_of_one_key_run_one_after_another_in_the_order_of_acceptance() {
    let running: Arc<Mutex<HashMap<Option<String>, u32>>> = Arc::default();
    let (starts, counts) = (Starts::default(), Arc::clone(&running));
    let log = starts.clone();
    let most = Arc::new(AtomicU32::new(0));
    let peak = Arc::clone(&most);
    let router = EventRouter::new().on("a", move |event: Event| async move {
        log.write(&event);
        let key = key(&event);
        let now = {
            let mut counts = counts.lock().unwrap();
            *counts.entry(key.clone()).or_default() += 1;
            assert_eq!(counts[&key], 1, "two events of one key ran at once");
            counts.values().sum()
        };
        peak.fetch_max(now, Ordering::Relaxed);
        let number: u64 = event.id().parse().unwrap();
        // Later events sleep for less time, so without ordering they would overtake earlier events.
        tokio::time::sleep(Duration::from_millis(100 - number)).await;
        *counts.lock().unwrap().get_mut(&key).unwrap() -= 1;
    });
    let inbox = MemoryInbox::builder().delivery(ordered()).build(router);
    for number in 0..60 {
        accept(
            &inbox,
            &number.to_string(),
            Some(["x", "y", "z"][number % 3]),
        );
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().handled, 60);
    for key in 0..3 {
        let starts = starts.0.lock().unwrap();
        let numbers = starts.iter().map(|id| id.parse::<usize>().unwrap());
        let numbers: Vec<_> = numbers.filter(|number| number % 3 == key).collect();
        assert_eq!(numbers, (key..60).step_by(3).collect::<Vec<_>>());
    }
    assert_eq!(most.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn different_keys_and_events_without_a_key_run_in_parallel() {
    // Each handler waits until all six have started.
    let meet = Arc::new(Barrier::new(6));
    let router = EventRouter::new().on("a", move |_: Event| async move {
        meet.wait().await;
    });
    let inbox = MemoryInbox::builder().delivery(ordered()).build(router);
    // The empty string is a key.
    for (id, key) in [Some("x"), Some("y"), Some(""), None, None, None]
        .into_iter()
        .enumerate()
    {
        accept(&inbox, &id.to_string(), key);
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().handled, 6);
}

#[tokio::test(start_paused = true)]
async fn without_a_key_closure_events_run_in_parallel() {
    let meet = Arc::new(Barrier::new(3));
    let router = EventRouter::new().on("a", move |_: Event| async move {
        meet.wait().await;
    });
    let inbox = MemoryInbox::new(router);
    for id in ["1", "2", "3"] {
        accept(&inbox, id, Some("x"));
    }
    wait_idle(&inbox.handle()).await;
}

#[tokio::test(start_paused = true)]
async fn a_retrying_event_blocks_its_own_key_and_no_other() {
    let starts = Starts::default();
    let log = starts.clone();
    let router = EventRouter::new().on("a", move |event: Event| async move {
        log.write(&event);
        if event.id() == "1" && event.attempt() < 3 {
            return Err("not yet");
        }
        Ok(())
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            ordered()
                .retry(RetryPolicy::new().initial_delay(Duration::from_secs(100)))
                .concurrency(1),
        )
        .build(router);
    for (id, key) in [("1", "x"), ("2", "x"), ("3", "y"), ("4", "x"), ("5", "y")] {
        accept(&inbox, id, Some(key));
    }
    run_ready_tasks().await;
    assert_eq!(starts.take(), ["1", "3", "5"]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.retrying, stats.waiting, stats.running), (1, 2, 0));
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["1", "1", "2", "4"]);
    assert_eq!(inbox.handle().stats().handled, 5);
}

#[tokio::test(start_paused = true)]
async fn a_dead_or_unhandled_event_unblocks_its_key() {
    let starts = Starts::default();
    let inbox = MemoryInbox::builder()
        .delivery(ordered())
        .build(router(&starts, &bad(&["1", "2"])));
    for id in ["1", "2", "3"] {
        accept(&inbox, id, Some("x"));
    }
    let elsewhere = MockRequest::event("b").data("x").to_event();
    inbox.accept(elsewhere).await.unwrap();
    accept(&inbox, "4", Some("x"));
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["1", "2", "3", "4"]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.handled, stats.unhandled), (2, 2, 1));
}

/// Returns an inbox in which the dead event `1` blocks the key x. The events `2` and `3` wait for `1`.
async fn held(starts: &Starts, bad: &Arc<Mutex<Vec<&'static str>>>) -> MemoryInbox {
    let inbox = MemoryInbox::builder()
        .delivery(ordered().block_key_on_dead_letter())
        .build(router(starts, bad));
    for (id, key) in [("1", Some("x")), ("2", Some("x")), ("3", Some("x"))] {
        accept(&inbox, id, key);
    }
    for (id, key) in [("other", Some("y")), ("none", None)] {
        accept(&inbox, id, key);
    }
    run_ready_tasks().await;
    assert_eq!(starts.take(), ["1", "other", "none"]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.waiting, stats.in_flight(), stats.dead), (2, 2, 1));
    inbox
}

#[tokio::test(start_paused = true)]
async fn with_block_key_on_dead_letter_a_dead_event_blocks_its_key_until_a_successful_replay() {
    let (starts, bad) = (Starts::default(), bad(&["1"]));
    let inbox = held(&starts, &bad).await;
    // The replay fails, so the event is dead again.
    let id = letter(&inbox, "1").await;
    assert!(letters(&inbox).replay(id).await.unwrap());
    run_ready_tasks().await;
    assert_eq!(starts.take(), ["1"]);
    assert_eq!(inbox.handle().stats().waiting, 2);

    bad.lock().unwrap().clear();
    let pattern = Pattern::new("a").unwrap();
    assert_eq!(letters(&inbox).replay_matching(&pattern).await.unwrap(), 1);
    wait_idle(&inbox.handle()).await;
    // The replayed event runs before the events that it blocked.
    assert_eq!(starts.take(), ["1", "2", "3"]);
    assert!(is_balanced(&inbox.handle().stats()));
}

#[tokio::test(start_paused = true)]
async fn a_replayed_event_blocks_its_key_between_its_attempts_too() {
    let starts = Starts::default();
    let (log, runs) = (starts.clone(), Arc::new(AtomicU32::new(0)));
    let router = EventRouter::new().on("a", move |event: Event| async move {
        log.write(&event);
        if event.id() == "1" && runs.fetch_add(1, Ordering::Relaxed) < 3 {
            return Err("not yet");
        }
        Ok(())
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            ordered()
                .retry(RetryPolicy::new().max_attempts(2))
                .block_key_on_dead_letter(),
        )
        .build(router);
    for id in ["1", "2"] {
        accept(&inbox, id, Some("x"));
    }
    while inbox.handle().stats().dead < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let id = letter(&inbox, "1").await;
    assert!(letters(&inbox).replay(id).await.unwrap());
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["1", "1", "1", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn with_block_key_on_dead_letter_a_deleted_letter_unblocks_its_key() {
    let starts = Starts::default();
    let inbox = held(&starts, &bad(&["1", "2"])).await;
    assert!(
        letters(&inbox)
            .delete(letter(&inbox, "1").await)
            .await
            .unwrap()
    );
    run_ready_tasks().await;
    // The next event is dead too, and now blocks the key.
    assert_eq!(starts.take(), ["2"]);
    assert!(
        letters(&inbox)
            .delete(letter(&inbox, "2").await)
            .await
            .unwrap()
    );
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["3"]);
    // No letter blocks an idle key.
    accept(&inbox, "4", Some("x"));
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["4"]);
}

#[tokio::test(start_paused = true)]
async fn with_block_key_on_dead_letter_pruned_letters_unblock_their_keys() {
    let starts = Starts::default();
    let inbox = held(&starts, &bad(&["1"])).await;
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(letters(&inbox).prune(Duration::ZERO).await.unwrap(), 1);
    run_ready_tasks().await;
    assert_eq!(starts.take(), ["2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn with_block_key_on_dead_letter_dropped_letters_unblock_their_keys() {
    let bounds: [fn(MemoryInboxBuilder) -> MemoryInboxBuilder; 2] = [
        |builder| builder.max_dead_letters(1),
        |builder| builder.max_dead_letter_bytes(100),
    ];
    for bound in bounds {
        let starts = Starts::default();
        let inbox = bound(MemoryInbox::builder().delivery(ordered().block_key_on_dead_letter()))
            .build(router(&starts, &bad(&["1", "3"])));
        accept(&inbox, "1", Some("x"));
        accept(&inbox, "2", Some("x"));
        run_ready_tasks().await;
        assert_eq!(starts.take(), ["1"]);
        accept(&inbox, "3", Some("y"));
        wait_idle(&inbox.handle()).await;
        assert_eq!(starts.take(), ["3", "2"]);
        assert_eq!(inbox.handle().stats().dead_letters_dropped, 1);
    }
    // A letter that doesn't fit into the limits blocks nothing.
    for none in [
        MemoryInbox::builder().max_dead_letters(0),
        MemoryInbox::builder().max_dead_letter_bytes(10),
    ] {
        let starts = Starts::default();
        let inbox = none
            .delivery(ordered().block_key_on_dead_letter())
            .build(router(&starts, &bad(&["1"])));
        accept(&inbox, "1", Some("x"));
        accept(&inbox, "2", Some("x"));
        wait_idle(&inbox.handle()).await;
        assert_eq!(starts.take(), ["1", "2"]);
    }
}

#[tokio::test(start_paused = true)]
async fn block_key_on_dead_letter_ignores_events_without_a_key() {
    let starts = Starts::default();
    let inbox = MemoryInbox::builder()
        .delivery(ordered().block_key_on_dead_letter())
        .build(router(&starts, &bad(&["1", "2"])));
    for id in ["1", "2", "3"] {
        accept(&inbox, id, None);
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["1", "2", "3"]);
    replay(&inbox, "1").await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn without_block_key_on_dead_letter_a_replayed_event_runs_after_the_other_events_of_its_key()
{
    let (starts, bad, gate) = (Starts::default(), bad(&["1"]), Arc::new(Semaphore::new(0)));
    let (log, fails, pass) = (starts.clone(), Arc::clone(&bad), Arc::clone(&gate));
    let router = EventRouter::new().on("a", move |event: Event| async move {
        log.write(&event);
        pass.acquire().await.unwrap().forget();
        match fails.lock().unwrap().contains(&event.id()) {
            true => Err("bad"),
            false => Ok(()),
        }
    });
    let inbox = MemoryInbox::builder().delivery(ordered()).build(router);
    for id in ["1", "2", "3"] {
        accept(&inbox, id, Some("x"));
    }
    gate.add_permits(1);
    run_ready_tasks().await;
    assert_eq!(starts.take(), ["1", "2"]);
    bad.lock().unwrap().clear();
    replay(&inbox, "1").await;
    run_ready_tasks().await;
    assert_eq!(starts.take(), [""; 0], "the second event is still running");
    gate.add_permits(10);
    wait_idle(&inbox.handle()).await;
    assert_eq!(starts.take(), ["3", "1"]);
}

/// The bug: the inbox refused the replay, so the key stayed blocked until the dead event was lost.
#[tokio::test(start_paused = true)]
async fn an_inbox_full_of_blocked_events_accepts_the_replay_that_unblocks_them() {
    let bounds: [fn(MemoryInboxBuilder) -> MemoryInboxBuilder; 2] = [
        |builder| builder.max_events(3),
        |builder| builder.max_bytes(250),
    ];
    for bound in bounds {
        let (starts, bad) = (Starts::default(), bad(&["1", "none"]));
        let inbox = bound(MemoryInbox::builder().delivery(ordered().block_key_on_dead_letter()))
            .build(router(&starts, &bad));
        accept(&inbox, "none", None);
        wait_idle(&inbox.handle()).await;
        accept(&inbox, "1", Some("x"));
        run_ready_tasks().await;
        for id in ["2", "3", "4"] {
            accept(&inbox, id, Some("x"));
        }
        let refused = inbox.accept(keyed("5", Some("x"))).await;
        assert_eq!(refused, Err(AcceptError::new(AcceptErrorKind::Full)));
        starts.take();
        bad.lock().unwrap().clear();
        // The full inbox still refuses to replay a letter that blocks no event.
        let (first, none) = (letter(&inbox, "1").await, letter(&inbox, "none").await);
        assert!(letters(&inbox).replay(none).await.is_err());
        assert!(letters(&inbox).replay(first).await.unwrap());
        assert_eq!(inbox.handle().stats().in_flight(), 4);
        assert!(inbox.accept(keyed("5", None::<&str>)).await.is_err());
        wait_idle(&inbox.handle()).await;
        assert_eq!(starts.take(), ["1", "2", "3", "4"]);
        assert!(is_balanced(&inbox.handle().stats()));
    }
}

#[tokio::test(start_paused = true)]
async fn the_key_is_computed_once_for_each_event() {
    let computed = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&computed);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(
                    RetryPolicy::new()
                        .max_attempts(3)
                        .max_delay(Duration::from_millis(1)),
                )
                .ordering_key(move |event: &Event| {
                    count.fetch_add(1, Ordering::Relaxed);
                    key(event)
                }),
        )
        .build(router(&Starts::default(), &bad(&["1"])));
    for id in ["1", "2"] {
        accept(&inbox, id, Some("x"));
    }
    wait_idle(&inbox.handle()).await;
    replay(&inbox, "1").await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().retried, 4);
    assert_eq!(computed.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_key_closure_panics_has_no_key_and_the_panic_is_logged() {
    let (log, _guard) = capture("info");
    let meet = Arc::new(Barrier::new(2));
    let router = EventRouter::new().on("a", move |_: Event| async move {
        meet.wait().await;
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .ordering_key(|event: &Event| -> Option<&'static str> {
                    panic!("{}", event.raw_data())
                })
                .block_key_on_dead_letter(),
        )
        .build(router);
    for id in ["1", "2"] {
        accept(&inbox, id, Some("s3cret"));
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().handled, 2);
    let lines = log.text();
    assert_eq!(lines.matches("ordering_key").count(), 2, "{lines}");
    assert!(!lines.contains("s3cret"), "{lines}");
}

#[tokio::test(start_paused = true)]
async fn a_blocked_key_with_any_number_of_events_blocks_no_other_key() {
    let gate = Arc::new(Semaphore::new(0));
    let pass = Arc::clone(&gate);
    let router = EventRouter::new().on("a", move |event: Event| async move {
        if key(&event).as_deref() == Some("stuck") {
            pass.acquire().await.unwrap().forget();
        }
    });
    // The stuck key occupies one of the two concurrency slots.
    let inbox = MemoryInbox::builder()
        .delivery(ordered().concurrency(2))
        .build(router);
    for id in 0..5_000 {
        accept(&inbox, &format!("stuck {id}"), Some("stuck"));
    }
    for id in 0..1_000 {
        accept(&inbox, &format!("keyed {id}"), Some(&(id % 10).to_string()));
        accept(&inbox, &format!("none {id}"), None);
    }
    while inbox.handle().stats().handled < 2_000 {
        tokio::task::yield_now().await;
    }
    let stats = inbox.handle().stats();
    assert_eq!((stats.running, stats.waiting), (1, 4_999));
    gate.add_permits(5_000);
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().handled, 7_000);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_key_uses_no_concurrency() {
    for hold in [false, true] {
        let delivery = match hold {
            true => ordered().block_key_on_dead_letter(),
            false => ordered().retry(
                RetryPolicy::new()
                    .initial_delay(Duration::from_secs(1_000))
                    .max_delay(Duration::from_secs(1_000)),
            ),
        };
        let bad = bad(&["1"]);
        let inbox = MemoryInbox::builder()
            .delivery(delivery.concurrency(1))
            .build(router(&Starts::default(), &bad));
        accept(&inbox, "1", Some("x"));
        for id in 0..5_000 {
            accept(&inbox, &format!("stuck {id}"), Some("x"));
        }
        accept(&inbox, "other", Some("y"));
        while inbox.handle().stats().handled < 1 {
            tokio::task::yield_now().await;
        }
        let stats = inbox.handle().stats();
        assert_eq!((stats.waiting, stats.running), (5_000, 0));
        bad.lock().unwrap().clear();
        if hold {
            replay(&inbox, "1").await;
        }
        wait_idle(&inbox.handle()).await;
        assert_eq!(inbox.handle().stats().handled, 5_002);
    }
}

#[test]
fn idle_keys_use_no_memory() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    for hold in [false, true] {
        let delivery = if hold {
            ordered().block_key_on_dead_letter()
        } else {
            ordered()
        };
        let builder = MemoryInbox::builder()
            .delivery(delivery)
            .duplicate_window(Duration::ZERO);
        // One event of each key is dead-lettered. The event's letter is deleted or displaced by a newer letter.
        let router = EventRouter::new().on("a", |event: Event| {
            ready(if event.id() == "dies" {
                Err("bad")
            } else {
                Ok(())
            })
        });
        let inbox = builder.max_dead_letters(10).build(router);
        let mut number = 0;
        let mut run = |keys: u32| {
            allocation_counter::measure(|| {
                runtime.block_on(async {
                    for _ in 0..keys / 500 {
                        for _ in 0..500 {
                            number += 1;
                            let key = format!("a key that is as long as this {number:10}");
                            for id in ["first", "dies", "last"] {
                                accept(&inbox, id, Some(&key));
                            }
                        }
                        while inbox.handle().stats().in_flight() > 0 {
                            tokio::task::yield_now().await;
                            for letter in letters(&inbox).list(None, 5).await.unwrap() {
                                letters(&inbox).delete(letter.id()).await.unwrap();
                            }
                        }
                    }
                });
            })
        };
        // The first run grows the tables to the largest number of concurrent events.
        run(2_000);
        let grown = run(20_000).bytes_current;
        // The bound is 10 bytes per key, which is less than the length of a key.
        assert!(grown < 200_000, "20,000 idle keys still use {grown} bytes");
    }
}

#[tokio::test(start_paused = true)]
async fn drain_and_wait_idle_count_the_events_that_a_dead_event_blocks() {
    let starts = Starts::default();
    let inbox = held(&starts, &bad(&["1"])).await;
    let wait_idle = tokio::spawn(inbox.handle().wait_idle());
    run_ready_tasks().await;
    assert!(!wait_idle.is_finished());
    let id = letter(&inbox, "1").await;
    assert_eq!(
        inbox.handle().drain(Duration::from_secs(5)).await.remaining,
        2
    );
    assert!(letters(&inbox).replay(id).await.is_err());
    // `drain` and `wait_idle` end once the key is unblocked.
    let drain = tokio::spawn(inbox.handle().drain(Duration::from_secs(5)));
    run_ready_tasks().await;
    assert!(letters(&inbox).delete(id).await.unwrap());
    assert_eq!(drain.await.unwrap().remaining, 0);
    wait_idle.await.unwrap();
    assert_eq!(starts.take(), ["2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_makes_retries_due_keeps_the_order() {
    let starts = Starts::default();
    let log = starts.clone();
    let router = EventRouter::new().on("a", move |event: Event| async move {
        log.write(&event);
        if event.attempt() < 3 {
            Err("not yet")
        } else {
            Ok(())
        }
    });
    let retry = RetryPolicy::new().initial_delay(Duration::from_secs(1_000));
    let inbox = MemoryInbox::builder()
        .delivery(ordered().retry(retry))
        .build(router);
    for id in ["1", "2"] {
        accept(&inbox, id, Some("x"));
    }
    run_ready_tasks().await;
    let start = tokio::time::Instant::now();
    assert_eq!(
        inbox
            .handle()
            .drain(Duration::from_secs(60))
            .await
            .remaining,
        0
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(starts.take(), ["1", "1", "1", "2", "2", "2"]);
}

#[test]
fn a_new_runtime_runs_the_remaining_events_of_a_stopped_runtime_in_order() {
    for hold in [false, true] {
        let (starts, hang) = (Starts::default(), Arc::new(AtomicBool::new(true)));
        let (log, first) = (starts.clone(), Arc::clone(&hang));
        let router = EventRouter::new().on("a", move |event: Event| async move {
            log.write(&event);
            match (event.id(), first.load(Ordering::Relaxed)) {
                ("running", true) => pending().await,
                ("retrying", true) => Err("not yet"),
                _ => Ok(()),
            }
        });
        let delivery = ordered().retry(RetryPolicy::new());
        let delivery = if hold {
            delivery.block_key_on_dead_letter()
        } else {
            delivery
        };
        let inbox = MemoryInbox::builder().delivery(delivery).build(router);
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap()
        };
        runtime().block_on(async {
            accept(&inbox, "running", Some("x"));
            accept(&inbox, "retrying", Some("y"));
            for id in 0..4 {
                accept(&inbox, &id.to_string(), Some(["x", "y"][id % 2]));
            }
            let stats = || inbox.handle().stats();
            while (stats().running, stats().retrying) != (1, 1) {
                tokio::task::yield_now().await;
            }
        });
        // The stopped runtime dropped both events, so they are dead.
        let stats = inbox.handle().stats();
        assert!(is_balanced(&stats));
        assert_eq!((stats.dead, stats.waiting, stats.in_flight()), (2, 4, 4));
        assert_eq!(starts.take(), ["running", "retrying"]);
        hang.store(false, Ordering::Relaxed);
        runtime().block_on(async {
            if hold {
                let pattern = Pattern::new("a").unwrap();
                let replayed = letters(&inbox).replay_matching(&pattern).await.unwrap();
                assert_eq!(replayed, 2);
            }
            wait_idle(&inbox.handle()).await;
        });
        let starts = starts.take();
        let of = |ids: &[&str]| {
            let starts = starts.iter().filter(|id| ids.contains(&id.as_str()));
            starts.cloned().collect::<Vec<_>>()
        };
        let (x, y) = (of(&["running", "0", "2"]), of(&["retrying", "1", "3"]));
        match hold {
            false => assert_eq!((x, y), (of(&["0", "2"]), of(&["1", "3"]))),
            true => {
                assert_eq!(x, ["running", "0", "2"]);
                assert_eq!(y, ["retrying", "1", "3"]);
            }
        }
        assert_eq!(inbox.handle().stats().in_flight(), 0);
    }
}

#[test]
fn a_new_runtime_runs_the_remaining_events_of_a_stopped_multi_threaded_runtime() {
    let (hang, starts) = (Arc::new(AtomicBool::new(true)), Starts::default());
    let (first, log) = (Arc::clone(&hang), starts.clone());
    let router = EventRouter::new().on("a", move |event: Event| async move {
        log.write(&event);
        if first.load(Ordering::Relaxed) {
            pending::<()>().await;
        }
    });
    let inbox = MemoryInbox::builder().delivery(ordered()).build(router);
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let dropped = runtime();
    dropped.block_on(async {
        for id in 0..150 {
            accept(&inbox, &id.to_string(), Some(&(id % 50).to_string()));
        }
        while starts.0.lock().unwrap().len() < 50 {
            tokio::task::yield_now().await;
        }
    });
    drop(dropped);
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.running, stats.waiting), (50, 0, 100));
    hang.store(false, Ordering::Relaxed);
    runtime().block_on(inbox.handle().wait_idle());
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.handled, stats.in_flight()), (50, 100, 0));
}

/// The bug: an event relied on the worker of the event before it. If that worker couldn't be spawned, the inbox refused
/// the earlier event, and the later event had no worker.
#[tokio::test(start_paused = true)]
async fn an_event_behind_a_refused_event_gets_a_worker() {
    for (key, running) in [(Some("x"), 64), (Some("x"), 1), (None, 1)] {
        let (slot, starts) = (Arc::new(OnceLock::<MemoryInbox>::new()), Starts::default());
        let (inbox, asked) = (Arc::clone(&slot), AtomicBool::new(false));
        // The next event of the key arrives while the runtime fails to spawn the first worker.
        let runtime = TestRuntime::tokio().on_spawn(move |task| {
            if !asked.swap(true, Ordering::Relaxed) {
                accept(inbox.get().unwrap(), "2", key);
                panic!("no threads");
            }
            TokioRuntime::new().spawn(task);
        });
        let inbox = MemoryInbox::builder()
            .delivery(ordered().concurrency(running))
            .build_with(runtime, router(&starts, &bad(&[])));
        slot.set(inbox.clone()).unwrap();
        let refused = inbox.accept(keyed("1", key)).await;
        assert_eq!(refused, Err(AcceptError::new(AcceptErrorKind::Unavailable)));
        run_ready_tasks().await;
        assert_eq!(starts.take(), ["2"]);
        let stats = inbox.handle().stats();
        assert_eq!((stats.accepted, stats.handled, stats.refused), (1, 1, 1));
    }
}

/// The bug: events that waited for the aborted attempt's key or slot no longer had a worker.
#[tokio::test(start_paused = true)]
async fn an_event_behind_an_aborted_attempt_gets_a_worker() {
    for (key, running) in [(Some("x"), 64), (None, 1)] {
        let starts = Starts::default();
        let log = starts.clone();
        let router = EventRouter::new().on("a", move |event: Event| async move {
            log.write(&event);
            if event.id() == "1" {
                pending::<()>().await;
            }
        });
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let spawned = Arc::clone(&tasks);
        let runtime = TestRuntime::tokio().on_spawn(move |task| {
            let handle = tokio::spawn(task).abort_handle();
            spawned.lock().unwrap().push(handle);
        });
        let inbox = MemoryInbox::builder()
            .delivery(ordered().concurrency(running))
            .build_with(runtime, router);
        for id in ["1", "2", "3"] {
            accept(&inbox, id, key);
        }
        run_ready_tasks().await;
        assert_eq!(starts.take(), ["1"]);
        let tasks = std::mem::take(&mut *tasks.lock().unwrap());
        tasks.iter().for_each(tokio::task::AbortHandle::abort);
        run_ready_tasks().await;
        assert_eq!(starts.take(), ["2", "3"]);
        let stats = inbox.handle().stats();
        assert_eq!((stats.dead, stats.handled, stats.in_flight()), (1, 2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn all_keys_that_are_unblocked_at_once_get_workers() {
    // One large letter displaces the letters that block x and y. Both keys then run at once. The same
    // happens when letters are deleted or pruned.
    let meet = Arc::new(Barrier::new(2));
    let router = EventRouter::new().on("a", move |event: Event| async move {
        match event.id() {
            "x" | "y" | "large" => return Err("bad"),
            _ => _ = meet.wait().await,
        }
        Ok(())
    });
    let inbox = MemoryInbox::builder()
        .delivery(ordered().block_key_on_dead_letter())
        .max_dead_letter_bytes(1_000)
        .build(router);
    let hold = async || {
        for key in ["x", "y"] {
            accept(&inbox, key, Some(key));
        }
        run_ready_tasks().await;
        for key in ["x", "y"] {
            accept(&inbox, &format!("behind {key}"), Some(key));
        }
    };
    hold().await;
    let large = MockRequest::event("a").message_id("large").data("z");
    inbox.accept(large.padded(1_000).to_event()).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.dead_letters_dropped), (2, 2));
}

#[test]
fn a_key_with_many_events_doesnt_overflow_the_stack() {
    for drops in [false, true] {
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        let deliver = move || {
            let first = Arc::new(Mutex::new(None));
            let (keeps, kept) = (Arc::clone(&first), AtomicBool::new(false));
            // Stores the first task. Drops every later task, or runs it immediately.
            let runtime = TestRuntime::shut_down()
                .on_spawn(move |task| {
                    if !kept.swap(true, Ordering::Relaxed) {
                        *keeps.lock().unwrap() = Some(task);
                    } else if !drops {
                        smol::block_on(task);
                    }
                })
                .on_sleep(|_| Box::pin(ready(())));
            let fail = |_: Event| ready(Err::<(), _>("bad"));
            let inbox = MemoryInbox::builder()
                .delivery(ordered().retry(RetryPolicy::new().max_attempts(2)))
                .build_with(runtime, EventRouter::new().on("a", fail));
            for id in 0..5_000 {
                accept(&inbox, &id.to_string(), Some("x"));
            }
            let worker = first.lock().unwrap().take().unwrap();
            smol::block_on(worker);
            inbox.handle().stats()
        };
        let stats = thread.spawn(deliver).unwrap().join().unwrap();
        assert_eq!(
            (stats.dead, stats.retried, stats.in_flight()),
            (5_000, 5_000, 0)
        );
    }
}

#[test]
fn events_accepted_on_many_threads_keep_their_order() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let last: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let busy: Arc<[AtomicBool; 3]> = Arc::default();
    let wrong = Arc::new(AtomicU32::new(0));
    let mistakes = Arc::clone(&wrong);
    let router = EventRouter::new().on("a", move |event: Event| async move {
        let key: usize = key(&event).unwrap().parse().unwrap();
        if busy[key].swap(true, Ordering::SeqCst) {
            mistakes.fetch_add(1, Ordering::Relaxed);
        }
        // Each sender numbers its events.
        let (sender, number) = event.id().split_once(' ').unwrap();
        let number: u32 = number.parse().unwrap();
        if event.attempt() == 1 {
            let mut last = last.lock().unwrap();
            let before = last.insert(format!("{sender} {key}"), number);
            if before.is_some_and(|before| before > number) {
                mistakes.fetch_add(1, Ordering::Relaxed);
            }
        }
        tokio::task::yield_now().await;
        busy[key].store(false, Ordering::SeqCst);
        if (number + event.attempt()).is_multiple_of(5) {
            Err("bad")
        } else {
            Ok(())
        }
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            ordered()
                .retry(RetryPolicy::new().max_delay(Duration::from_micros(10)))
                .concurrency(8),
        )
        .build(router);
    runtime.block_on(async {
        let senders = (0..4).map(|sender| {
            let inbox = inbox.clone();
            tokio::spawn(async move {
                for number in 0..500 {
                    let key = (number % 3).to_string();
                    accept(&inbox, &format!("{sender} {number}"), Some(&key));
                    tokio::task::yield_now().await;
                }
            })
        });
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
        wait_idle(&inbox.handle()).await;
    });
    assert_eq!(wrong.load(Ordering::Relaxed), 0);
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.retried), (2_000, 400));
}

/// The behaviour of an attempt.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Handle,
    Sleep(u64),
    Fail,
    Permanent,
    Panic,
    Hang,
}

/// A step of the property test.
#[derive(Clone, Debug)]
enum Step {
    /// Accepts an event with this key. The event's attempts cycle through these behaviours.
    Arrive(Option<u8>, Vec<Deed>),
    Wait(u64),
    /// Replays the letter at this index, counted from the oldest.
    Replay(usize),
    ReplayAll,
    Delete(usize),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let deed = prop_oneof![
        3 => Just(Deed::Handle),
        1 => (1_u64..40).prop_map(Deed::Sleep),
        2 => Just(Deed::Fail),
        1 => Just(Deed::Permanent),
        1 => Just(Deed::Panic),
        1 => Just(Deed::Hang),
    ];
    prop::collection::vec(deed, 1..5)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = prop_oneof![1 => Just(None), 4 => (0_u8..3).prop_map(Some)];
    let step = prop_oneof![
        8 => (key, deeds()).prop_map(|(key, deeds)| Step::Arrive(key, deeds)),
        3 => (0_u64..60).prop_map(Step::Wait),
        1 => (200_u64..5_000).prop_map(Step::Wait),
        2 => (0_usize..4).prop_map(Step::Replay),
        1 => Just(Step::ReplayAll),
        1 => (0_usize..4).prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 1..60)
}

/// The inbox settings of one run.
#[derive(Clone, Copy, Debug)]
struct Rules {
    hold: bool,
    attempts: u32,
    running: usize,
    events: usize,
    letters: usize,
}

/// The expected state of a key: the event that runs or blocks the key, and the events that wait.
#[derive(Default)]
struct Lane {
    first: Option<usize>,
    /// Whether the first event has started since it was accepted or replayed.
    begun: bool,
    next: VecDeque<usize>,
}

impl Lane {
    /// Advances to the next event after the first event has ended or its letter is gone.
    fn pass(&mut self) {
        self.first = self.next.pop_front();
        self.begun = false;
    }

    fn push(&mut self, event: usize) {
        self.next.push_back(event);
        if self.first.is_none() {
            self.pass();
        }
    }
}

struct Model {
    rules: Rules,
    script: Vec<(Option<u8>, Vec<Deed>)>,
    lanes: HashMap<u8, Lane>,
    /// The number of runs of each event: in total, and since the event was accepted or last replayed.
    runs: Vec<(usize, u32)>,
    /// The events that are running.
    running: Vec<usize>,
    /// The events with a stored letter, in the order in which they were dead-lettered.
    letters: Vec<usize>,
    dropped: u64,
    counts: BTreeMap<&'static str, u64>,
    wrong: Vec<String>,
}

impl Model {
    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn lane(&mut self, event: usize) -> Option<&mut Lane> {
        let key = self.script[event].0?;
        Some(self.lanes.entry(key).or_default())
    }

    fn accept(&mut self, event: usize) {
        self.count("accepted");
        if let Some(lane) = self.lane(event) {
            lane.push(event);
        }
    }

    /// Records the start of an attempt, and returns its behaviour.
    fn start(&mut self, event: usize, attempt: u32) -> Deed {
        if let Some(lane) = self.lane(event) {
            let (first, begun) = (lane.first, lane.begun);
            lane.begun = true;
            if first != Some(event) || begun != (attempt > 1) {
                self.wrong(format!(
                    "{event} started attempt {attempt}, but {first:?} is first"
                ));
            }
        }
        let key = self.script[event].0;
        let same = |other: &&usize| key.is_some() && self.script[**other].0 == key;
        if let Some(other) = self.running.iter().find(same) {
            self.wrong.push(format!("{event} overlaps {other}"));
        }
        self.running.push(event);
        if self.running.len() > self.rules.running {
            self.wrong(format!("{:?} ran at once", self.running));
        }
        let (ever, round) = &mut self.runs[event];
        let deeds = &self.script[event].1;
        let deed = deeds[*ever % deeds.len()];
        *ever += 1;
        *round += 1;
        if *round != attempt {
            let what = format!("run {round} of {event} is attempt {attempt}");
            self.wrong(what);
        }
        deed
    }

    fn stop(&mut self, event: usize) {
        self.running.retain(|running| *running != event);
    }

    /// Records the end of an attempt. If there is an outcome, the event has ended too.
    fn end(&mut self, event: usize, event_outcome: Option<EventOutcome>) {
        let (ever, round) = self.runs[event];
        let deeds = &self.script[event].1;
        let expected = match deeds[(ever - 1) % deeds.len()] {
            Deed::Handle | Deed::Sleep(_) => Some(EventOutcome::Handled),
            Deed::Permanent => Some(EventOutcome::Dead),
            _ if round == self.rules.attempts => Some(EventOutcome::Dead),
            _ => None,
        };
        if event_outcome != expected {
            self.wrong(format!(
                "{event} ended {event_outcome:?} after {round} runs"
            ));
        }
        match event_outcome {
            None => self.count("retried"),
            Some(EventOutcome::Dead) => {
                self.count("dead");
                if !self.rules.hold {
                    self.pass(event);
                }
                self.letters.push(event);
                while self.letters.len() > self.rules.letters {
                    let oldest = self.letters.remove(0);
                    self.dropped += 1;
                    self.let_go(oldest);
                }
            }
            Some(_) => {
                self.count("handled");
                self.pass(event);
            }
        }
    }

    fn pass(&mut self, event: usize) {
        if let Some(lane) = self.lane(event) {
            lane.pass();
        }
    }

    /// Records that the letter is permanently gone.
    fn let_go(&mut self, event: usize) {
        if self.rules.hold {
            self.pass(event);
        }
    }

    fn replay(&mut self, event: usize) {
        self.count("replayed");
        self.runs[event].1 = 0;
        self.letters.retain(|letter| *letter != event);
        let hold = self.rules.hold;
        match self.lane(event) {
            Some(lane) if hold => lane.begun = false,
            Some(lane) => lane.push(event),
            None => {}
        }
    }

    fn delete(&mut self, event: usize) {
        self.letters.retain(|letter| *letter != event);
        self.let_go(event);
    }

    /// Returns the number of events that letters still block after all other events have run.
    fn held_back(&self) -> u64 {
        self.lanes.values().map(|lane| lane.next.len() as u64).sum()
    }
}

/// Records the end of a run, even if the run is dropped or panics.
struct Stop(Arc<Mutex<Model>>, usize);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.lock().unwrap().stop(self.1);
    }
}

fn number(event: &Event) -> usize {
    event.id().parse().unwrap()
}

fn modelled(rules: Rules, model: &Arc<Mutex<Model>>) -> MemoryInbox {
    let (run, end) = (Arc::clone(model), Arc::clone(model));
    let router = EventRouter::new().on("a", move |event: Event| async move {
        let number = number(&event);
        let deed = run.lock().unwrap().start(number, event.attempt());
        let _stop = Stop(run, number);
        match deed {
            Deed::Handle => Ok(()),
            Deed::Sleep(millis) => {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                Ok(())
            }
            Deed::Fail => Err(HandlerError::from("failed")),
            Deed::Permanent => Err(HandlerError::permanent("failed")),
            Deed::Panic => panic_on_purpose(),
            Deed::Hang => pending().await,
        }
    });
    let delivery = DeliverySettings::new()
        .ordering_key(|event: &Event| event.decode::<Option<u8>>().unwrap().map(|key| [key]))
        .retry(RetryPolicy::new().max_attempts(rules.attempts).seed(7))
        .attempt_timeout(Duration::from_millis(50))
        .concurrency(rules.running)
        .on_attempt(move |attempt| {
            let event = number(attempt.event());
            end.lock().unwrap().end(event, attempt.event_outcome());
        });
    let delivery = if rules.hold {
        delivery.block_key_on_dead_letter()
    } else {
        delivery
    };
    MemoryInbox::builder()
        .delivery(delivery)
        .max_events(rules.events)
        .max_dead_letters(rules.letters)
        .build(router)
}

/// Compares the inbox with the model.
fn compare(inbox: &MemoryInbox, model: &Arc<Mutex<Model>>) {
    let (stats, model) = (inbox.handle().stats(), model.lock().unwrap());
    assert!(is_balanced(&stats), "{stats:?}");
    assert_eq!(model.wrong, [""; 0]);
    let count = |what| model.counts.get(what).copied().unwrap_or_default();
    assert_eq!(
        [
            stats.accepted,
            stats.replayed,
            stats.handled,
            stats.dead,
            stats.retried
        ],
        ["accepted", "replayed", "handled", "dead", "retried"].map(count)
    );
    assert_eq!(stats.dead_letters, model.letters.len() as u64);
    assert_eq!(stats.dead_letters_dropped, model.dropped);
    let bound = model.rules.events + model.rules.letters;
    assert!(
        stats.in_flight() + stats.dead_letters <= bound as u64,
        "{stats:?}"
    );
}

/// Waits until all unblocked events have run, and asserts that the model blocks the rest.
async fn come_to_rest(inbox: &MemoryInbox, model: &Arc<Mutex<Model>>) {
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    compare(inbox, model);
    let (stats, model) = (inbox.handle().stats(), model.lock().unwrap());
    assert_eq!((stats.running, stats.retrying), (0, 0));
    assert_eq!(stats.waiting, model.held_back(), "{stats:?}");
    assert!(model.rules.hold || stats.waiting == 0);
}

async fn nth(inbox: &MemoryInbox, place: usize) -> Option<(u64, usize)> {
    let all = letters(inbox).list(None, usize::MAX).await.unwrap();
    let letter = all.get(place % all.len().max(1))?;
    Some((letter.id(), letter.message_id().parse().unwrap()))
}

async fn against_the_model(rules: Rules, steps: Vec<Step>) {
    let model = Arc::new(Mutex::new(Model {
        rules,
        script: Vec::new(),
        lanes: HashMap::new(),
        runs: Vec::new(),
        running: Vec::new(),
        letters: Vec::new(),
        dropped: 0,
        counts: BTreeMap::new(),
        wrong: Vec::new(),
    }));
    let inbox = modelled(rules, &model);
    for step in steps {
        match step {
            Step::Arrive(key, deeds) => {
                let number = {
                    let mut model = model.lock().unwrap();
                    model.script.push((key, deeds));
                    model.runs.push((0, 0));
                    model.script.len() - 1
                };
                let event = MockRequest::event("a")
                    .message_id(number.to_string())
                    .data(key);
                let full = inbox.handle().stats().in_flight() >= rules.events as u64;
                let accepted = inbox.accept(event.to_event()).await;
                assert_eq!(accepted.is_err(), full);
                if !full {
                    model.lock().unwrap().accept(number);
                }
            }
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            Step::Replay(place) => {
                let Some((id, number)) = nth(&inbox, place).await else {
                    continue;
                };
                let full = inbox.handle().stats().in_flight() >= rules.events as u64;
                let replayed = letters(&inbox).replay(id).await;
                let mut model = model.lock().unwrap();
                let holds = rules.hold && model.script[number].0.is_some();
                assert_eq!(replayed.ok(), (holds || !full).then_some(true));
                if holds || !full {
                    model.replay(number);
                }
            }
            Step::ReplayAll => {
                let mut before = model.lock().unwrap().letters.clone();
                before.sort_unstable();
                let _ = letters(&inbox)
                    .replay_matching(&Pattern::new("a").unwrap())
                    .await;
                let left = letters(&inbox).list(None, usize::MAX).await.unwrap();
                let left: Vec<usize> = left
                    .iter()
                    .map(|letter| letter.message_id().parse().unwrap())
                    .collect();
                let mut model = model.lock().unwrap();
                for number in before.into_iter().filter(|number| !left.contains(number)) {
                    model.replay(number);
                }
            }
            Step::Delete(place) => {
                if let Some((id, number)) = nth(&inbox, place).await {
                    assert!(letters(&inbox).delete(id).await.unwrap());
                    model.lock().unwrap().delete(number);
                }
            }
        }
        compare(&inbox, &model);
    }
    come_to_rest(&inbox, &model).await;
    // Once no letter blocks a key, every event ends.
    while let Some((id, number)) = nth(&inbox, 0).await {
        assert!(letters(&inbox).delete(id).await.unwrap());
        model.lock().unwrap().delete(number);
        come_to_rest(&inbox, &model).await;
    }
    let stats = inbox.handle().stats();
    assert_eq!((stats.in_flight(), stats.bytes), (0, 0));
    wait_idle(&inbox.handle()).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn order_dead_letters_and_replays_match_the_model(
        steps in steps(),
        hold in any::<bool>(),
        attempts in 1_u32..4,
        running in 1_usize..5,
        events in 1_usize..20,
        letters in 0_usize..6,
    ) {
        let rules = Rules { hold, attempts, running, events, letters };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(against_the_model(rules, steps));
    }
}
