//! Events of one key run one after another from disk, and other keys run in parallel.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, DeliverySettings, Event, EventRouter, HandlerError, Inbox, RetryPolicy, SqliteInbox,
};
use proptest::prelude::*;
use tokio::sync::Semaphore;

use crate::support::runtime::ManualClock;
use crate::support::sqlite::{InboxFile, LONG, Log, at_once, delivery, failing, gated, logging};
use crate::support::{balanced, event, key, keyed, until, wait_idle};

fn ordered() -> DeliverySettings {
    delivery().ordering_key(key)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_key_run_one_after_another_in_the_order_of_their_commits() {
    let (place, log) = (InboxFile::new(), Log::default());
    let running = Arc::new(Mutex::new(HashSet::new()));
    let write = log.clone();
    let router = EventRouter::new().on("a", move |event: Event| async move {
        let key = key(&event).unwrap();
        if !running.lock().unwrap().insert(key.clone()) {
            write.write("two events of one key run at once");
        }
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        write.run(&event);
        running.lock().unwrap().remove(&key);
    });
    let builder = place.inbox().delivery(ordered()).max_events_in_memory(8);
    let inbox = builder.open(router).await.unwrap();
    let accepting = (0..300).map(|i| {
        let (id, key) = (format!("{}-{i:03}", i % 7), format!("k{}", i % 7));
        inbox.accept(keyed(&id, &key))
    });
    futures_util::future::join_all(accepting).await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().handled, 300);
    assert_eq!(log.len(), 300);
    for key in 0..7 {
        let lines = log.lines();
        let of_key = lines
            .iter()
            .filter(|line| line.starts_with(&format!("{key}-")));
        assert!(of_key.is_sorted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retrying_event_blocks_only_its_own_key() {
    let (place, log, clock) = (InboxFile::new(), Log::default(), ManualClock::new());
    let router = || {
        let write = log.clone();
        EventRouter::new().on("a", move |event: Event| async move {
            write.run(&event);
            if event.id() == "1" && event.attempt() == 1 {
                return Err(HandlerError::retry_after(Duration::from_secs(100), "later"));
            }
            Ok(())
        })
    };
    let open = || {
        let retry = RetryPolicy::new().initial_delay(Duration::ZERO);
        place
            .inbox()
            .delivery(ordered().retry(retry))
            .open_with(clock.clone(), router())
    };
    let inbox = open().await.unwrap();
    for (id, key) in [("1", "k"), ("2", "k"), ("3", "other"), ("4", "k")] {
        inbox.accept(keyed(id, key)).await.unwrap();
    }
    inbox.accept(event("5")).await.unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().handled == 2 && handle.stats().retrying == 1).await;
    drop((inbox, handle));
    let inbox = open().await.unwrap();
    let handle = inbox.handle();
    inbox.accept(keyed("6", "k")).await.unwrap();
    inbox.accept(event("7")).await.unwrap();
    until(|| handle.stats().handled == 1).await;
    assert_eq!((handle.stats().waiting, handle.stats().retrying), (3, 1));
    let mut lines = log.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["1#1", "3#1", "5#1", "7#1"]);
    clock
        .advance_until(Duration::from_secs(1), || handle.stats().in_flight() == 0)
        .await;
    let lines = log.lines();
    assert_eq!(lines[4..], ["1#2", "2#1", "4#1", "6#1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_event_unblocks_its_key() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place
        .inbox()
        .delivery(ordered())
        .open(failing(&log))
        .await
        .unwrap();
    for id in ["1", "2", "3"] {
        inbox.accept(keyed(id, "k")).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.lines(), ["1#1", "2#1", "3#1"]);
}

/// Returns a router whose events with these ids become dead letters in their first run.
fn killing(log: &Log, ids: &'static [&'static str]) -> EventRouter {
    let (log, dead) = (log.clone(), Arc::new(Mutex::new(HashSet::new())));
    EventRouter::new().on("a", move |event: Event| async move {
        log.run(&event);
        let id = event.id().to_owned();
        if ids.contains(&&*id) && dead.lock().unwrap().insert(id) {
            return Err(HandlerError::permanent("no"));
        }
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_event_blocks_its_key_until_replayed_or_deleted_also_across_processes() {
    for (delete, reopen) in [(false, false), (false, true), (true, false), (true, true)] {
        let (place, log) = (InboxFile::new(), Log::default());
        let open = |ids| {
            place
                .inbox()
                .delivery(ordered().block_key_on_dead_letter())
                .open(killing(&log, ids))
        };
        let mut inbox = open(&["1"]).await.unwrap();
        for (id, key) in [("1", "k"), ("2", "k"), ("3", "other"), ("4", "k")] {
            inbox.accept(keyed(id, key)).await.unwrap();
        }
        let handle = inbox.handle();
        until(|| handle.stats().handled == 1 && handle.stats().dead_letters == 1).await;
        if reopen {
            drop((inbox, handle));
            inbox = open(&[]).await.unwrap();
        }
        let handle = inbox.handle();
        inbox.accept(keyed("5", "k")).await.unwrap();
        inbox.accept(keyed("6", "other")).await.unwrap();
        until(|| log.len() == 3).await;
        let letters = handle.dead_letters().unwrap();
        until(|| handle.stats().waiting == 3).await;
        let expected: &[_] = if delete {
            assert!(letters.delete(1).await.unwrap());
            &["2#1", "4#1", "5#1"]
        } else {
            assert!(letters.replay(1).await.unwrap());
            &["1#1", "2#1", "4#1", "5#1"]
        };
        wait_idle(&handle).await;
        let lines = log.lines();
        assert_eq!(&lines[3..], expected, "{delete} {reopen}");
        balanced(&handle.stats());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocking_letter_that_another_displaces_unblocks_its_key() {
    let (place, log) = (InboxFile::new(), Log::default());
    let builder = place
        .inbox()
        .delivery(ordered().block_key_on_dead_letter())
        .max_dead_letters(1);
    let inbox = builder.open(killing(&log, &["1", "3"])).await.unwrap();
    for (id, key) in [("1", "k"), ("2", "k"), ("3", "other"), ("4", "other")] {
        inbox.accept(keyed(id, key)).await.unwrap();
        until(|| inbox.handle().stats().running == 0).await;
    }
    until(|| log.len() == 3).await;
    let handle = inbox.handle();
    until(|| handle.stats().handled == 1).await;
    assert_eq!(log.lines(), ["1#1", "3#1", "2#1"]);
    let stats = handle.stats();
    assert_eq!(
        (
            stats.waiting,
            stats.dead_letters,
            stats.dead_letters_dropped
        ),
        (1, 1, 1)
    );
}

/// The bug: a process without `block_key_on_dead_letter` treated a key as blocked, and a replay ran concurrently
/// with the next event of its key.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_blocks_no_key_in_a_process_without_block_key_on_dead_letter() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place
        .inbox()
        .delivery(ordered().block_key_on_dead_letter())
        .open(killing(&log, &["1"]))
        .await
        .unwrap();
    inbox.accept(keyed("1", "k")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let inbox = place
        .inbox()
        .delivery(ordered())
        .open(gated(&log, &gate))
        .await
        .unwrap();
    for id in ["2", "3"] {
        inbox.accept(keyed(id, "k")).await.unwrap();
    }
    until(|| log.len() == 1).await;
    let handle = inbox.handle();
    assert!(handle.dead_letters().unwrap().replay(1).await.unwrap());
    // This event has another key. If the replayed event didn't wait for its key, it would have run by the time this event runs.
    inbox.accept(event("4")).await.unwrap();
    until(|| log.len() >= 2).await;
    assert_eq!((log.len(), handle.stats().running), (2, 2));
    gate.add_permits(9);
    wait_idle(&handle).await;
    let mut lines = log.lines();
    lines.retain(|line| line != "4#1");
    assert_eq!(lines, ["2#1", "3#1", "1#1"]);
}

/// The bug: if a letter that blocks its key was replayed before the loader had read the key, the events of the
/// key were lost until the next start.
#[tokio::test(flavor = "multi_thread")]
async fn the_replay_of_a_letter_that_wasnt_loaded_yet_loses_no_event() {
    let place = InboxFile::new();
    drop(
        place
            .inbox()
            .delivery(ordered())
            .open(EventRouter::new())
            .await
            .unwrap(),
    );
    // Event 1 waits behind letter 400 although event 1 is older, because event 1 was a letter and was replayed.
    let connection = place.closed().await;
    let body =
        |id: u32| format!(r#"{{"messageId":"{id}","timestamp":1,"eventType":"a","data":"k"}}"#);
    let mut bytes = 0;
    for id in 1..400_u32 {
        let key = if id == 1 {
            "k".to_owned()
        } else {
            format!("k{id}")
        };
        bytes += body(id).len();
        connection
            .execute(
                "INSERT INTO events (id, received_at, order_key, body) VALUES (?1, 0, ?2, ?3)",
                (id, key.as_bytes(), body(id)),
            )
            .unwrap();
    }
    let sql = "INSERT INTO dead_letters (id, message_id, event_type, received_at, dead_lettered_at, attempts, routes, order_key, blocks_key, body) VALUES (400, '400', 'a', 0, 0, 1, '[]', ?1, 1, ?2)";
    connection
        .execute(sql, (b"k".as_slice(), body(400)))
        .unwrap();
    let sql = "UPDATE totals SET next_id = 401, events = 399, event_bytes = ?1, dead_letters = 1, dead_letter_bytes = ?2";
    connection
        .execute(sql, (i64::try_from(bytes).unwrap(), body(400).len() as i64))
        .unwrap();
    drop(connection);
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let builder = place
        .inbox()
        .delivery(ordered().block_key_on_dead_letter().concurrency(1))
        .max_events_in_memory(4);
    let builder = builder.keep_dead_letters_for(Duration::from_secs(u64::MAX));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    until(|| log.len() == 1).await;
    assert!(
        inbox
            .handle()
            .dead_letters()
            .unwrap()
            .replay(400)
            .await
            .unwrap()
    );
    gate.add_permits(999);
    wait_idle(&inbox.handle()).await;
    let lines = log.lines();
    assert_eq!(lines.len(), 400);
    let at = |line: &str| lines.iter().position(|each| each == line).unwrap();
    assert!(at("1#1") < at("400#1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_key_with_thousands_of_events_blocks_no_other_key() {
    let (place, gate, log) = (
        InboxFile::new(),
        Arc::new(Semaphore::new(0)),
        Log::default(),
    );
    let router = || {
        let (gate, log) = (Arc::clone(&gate), log.clone());
        EventRouter::new().on("a", move |event: Event| async move {
            if key(&event).as_deref() == Some("stuck") && event.id() == "0" {
                gate.acquire().await.unwrap().forget();
            }
            log.run(&event);
        })
    };
    let open = || {
        place
            .inbox()
            .max_events_in_memory(64)
            .delivery(ordered().concurrency(4))
            .open(router())
    };
    let inbox = open().await.unwrap();
    let stuck = (0..5000).map(|i| inbox.accept(keyed(&i.to_string(), "stuck")));
    let answers = futures_util::future::join_all(stuck).await;
    let taken = answers
        .iter()
        .filter(|answer| **answer == Ok(Accepted::New))
        .count() as u64;
    // The inbox has accepted at least as many events as the writer's command channel holds.
    assert!(taken >= 4096, "{taken}");
    let others = async |inbox: &SqliteInbox, name: &str| {
        for i in 0..100 {
            inbox
                .accept(keyed(&format!("{name}-{i}"), name))
                .await
                .unwrap();
        }
        let ran = |line: &String| line.starts_with(name);
        until(|| log.lines().iter().filter(|line| ran(line)).count() == 100).await;
    };
    others(&inbox, "x").await;
    assert_eq!(inbox.handle().stats().waiting, taken - 1);
    let handle = inbox.handle();
    let _ = handle.drain(Duration::ZERO).await;
    drop((inbox, handle));
    gate.add_permits(1);
    drop(place.closed().await);
    // The first event has ended. The second event blocks the key in the next process.
    let inbox = open().await.unwrap();
    others(&inbox, "y").await;
    // The blocked events run in order.
    let stuck = || {
        let lines = log.lines();
        let number = |line: &String| line.strip_suffix("#1")?.parse::<u64>().ok();
        lines.iter().filter_map(number).collect::<Vec<_>>()
    };
    until(|| stuck().len() > 100).await;
    let stuck = stuck();
    assert!(stuck.iter().copied().eq(0..stuck.len() as u64));
    let _ = inbox.handle().drain(LONG).await;
    balanced(&inbox.handle().stats());
}

/// If the closure panics, the event has no key. An empty key is a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_closure_that_panics_gives_no_key_and_an_empty_key_is_a_key() {
    let (place, log, gate) = (
        InboxFile::new(),
        Log::default(),
        Arc::new(Semaphore::new(0)),
    );
    let builder =
        place
            .inbox()
            .delivery(delivery().ordering_key(|event: &Event| match event.id() {
                "panics" => panic!("order"),
                "none" => None,
                _ => Some(""),
            }));
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    for id in ["1", "2", "panics", "none"] {
        inbox.accept(event(id)).await.unwrap();
    }
    until(|| log.len() == 3).await;
    assert_eq!(
        place.count("SELECT count(*) FROM events WHERE order_key = x''"),
        2
    );
    gate.add_permits(9);
    wait_idle(&inbox.handle()).await;
    drop(inbox);
    // The next process finds the same keys.
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.len(), 4);
}

/// An event of the model: its key, how many times it fails, and whether it becomes a dead letter.
#[derive(Clone, Debug)]
struct Arriving {
    key: Option<u8>,
    failures: u32,
}

#[derive(Clone, Debug)]
enum Step {
    Arrive(Vec<Arriving>),
    Reopen,
}

const ATTEMPTS: u32 = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let arrival = (prop::option::weighted(0.8, 0..4_u8), 0..=ATTEMPTS)
        .prop_map(|(key, failures)| Arriving { key, failures });
    let step = prop_oneof![
        4 => prop::collection::vec(arrival, 1..12).prop_map(Step::Arrive),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..7)
}

/// Runs the steps, and returns the runs of each key as `number#attempt`. Here, an event without a key has its
/// own key.
async fn run(steps: &[Step], holds: bool, memory: usize) -> BTreeMap<String, Vec<String>> {
    let place = InboxFile::new();
    let arrivals: Arc<Mutex<Vec<Arriving>>> = Arc::default();
    let ran: Arc<Mutex<BTreeMap<String, Vec<String>>>> = Arc::default();
    let running: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let name = |number: usize, arrival: &Arriving| match arrival.key {
        Some(key) => format!("key {key}"),
        None => format!("number {number}"),
    };
    let router = || {
        let (arrivals, ran, running) = (
            Arc::clone(&arrivals),
            Arc::clone(&ran),
            Arc::clone(&running),
        );
        EventRouter::new().on("a", move |event: Event| async move {
            let number: usize = event.id().parse()?;
            let arrival = arrivals.lock().unwrap()[number].clone();
            let name = name(number, &arrival);
            assert_eq!(
                running
                    .lock()
                    .unwrap()
                    .insert(name.clone(), event.attempt()),
                None
            );
            tokio::task::yield_now().await;
            let line = format!("{number}#{}", event.attempt());
            ran.lock()
                .unwrap()
                .entry(name.clone())
                .or_default()
                .push(line);
            running.lock().unwrap().remove(&name);
            if event.attempt() <= arrival.failures {
                Err("not yet".into())
            } else {
                Ok::<_, HandlerError>(())
            }
        })
    };
    let open = async || {
        let delivery = delivery()
            .retry(at_once(ATTEMPTS))
            .concurrency(3)
            .ordering_key(|event: &Event| event.decode::<Option<String>>().ok().flatten());
        let delivery = if holds {
            delivery.block_key_on_dead_letter()
        } else {
            delivery
        };
        let builder = place.inbox().delivery(delivery);
        let builder = builder.max_events_in_memory(memory);
        builder.open(router()).await.unwrap()
    };
    let mut inbox = open().await;
    for step in steps {
        balanced(&inbox.handle().stats());
        match step {
            Step::Arrive(batch) => {
                let accepting = batch.iter().map(|arrival| {
                    let number = {
                        let mut arrivals = arrivals.lock().unwrap();
                        arrivals.push(arrival.clone());
                        arrivals.len() - 1
                    };
                    let event = MockRequest::event("a")
                        .message_id(number.to_string())
                        .data(arrival.key.map(|key| key.to_string()));
                    inbox.accept(event.to_event())
                });
                for answer in futures_util::future::join_all(accepting).await {
                    assert_eq!(answer, Ok(Accepted::New));
                }
            }
            Step::Reopen => {
                drop(inbox);
                inbox = open().await;
            }
        }
    }
    let handle = inbox.handle();
    let letters = handle.dead_letters().unwrap();
    // The blocked events run after the letter is deleted.
    for _ in 0..20_000 {
        if handle.stats().in_flight() == 0 {
            break;
        }
        for letter in letters.list(None, 99).await.unwrap() {
            letters.delete(letter.id()).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let stats = handle.stats();
    assert_eq!(stats.in_flight(), 0, "{stats:?}");
    balanced(&stats);
    assert_eq!(place.count("SELECT count(*) FROM events"), 0);
    let ran = ran.lock().unwrap();
    ran.clone()
}

/// Returns the expected runs of each key. Events run in the order of arrival, and each event ends before the
/// next one starts.
fn model(steps: &[Step]) -> BTreeMap<String, Vec<String>> {
    let mut ran: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let batches = steps.iter().filter_map(|step| match step {
        Step::Arrive(batch) => Some(batch),
        Step::Reopen => None,
    });
    for (number, arrival) in batches.flatten().enumerate() {
        let name = match arrival.key {
            Some(key) => format!("key {key}"),
            None => format!("number {number}"),
        };
        let last = (arrival.failures + 1).min(ATTEMPTS);
        let lines = (1..=last).map(|attempt| format!("{number}#{attempt}"));
        ran.entry(name).or_default().extend(lines);
    }
    ran
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn keys_stay_in_order_through_random_events_failures_and_reopenings(
        steps in steps(),
        holds in any::<bool>(),
        memory in 1_usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let ran = runtime.block_on(run(&steps, holds, memory));
        prop_assert_eq!(ran, model(&steps));
    }
}
