//! The event log: the states, the attempts and the filters of events, the bounds of the log, and replays.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    Accepted, DeliverySettings, ErrorKind, Event, EventFilter, EventLog, EventOutcome, EventRecord,
    EventRouter, EventState, EventType, HandlerError, Inbox, MemoryInbox, MemoryInboxBuilder,
    Pattern, Replay, RetryPolicy,
};
use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::sync::Semaphore;

use crate::support::runtime::TestRuntime;
use crate::support::{balanced, keyed, run_ready_tasks, sized, wait_idle};

const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn accept(inbox: &MemoryInbox, event: Event) {
    let accepted = inbox.accept(event).now_or_never();
    assert_eq!(accepted, Some(Ok(Accepted::New)));
}

fn mock(event_type: &str, id: &str) -> Event {
    MockRequest::event(event_type).message_id(id).to_event()
}

fn log(inbox: &MemoryInbox) -> EventLog {
    inbox.handle().events()
}

#[track_caller]
fn list(inbox: &MemoryInbox, filter: &EventFilter) -> Vec<EventRecord> {
    let listed = log(inbox).list(filter, usize::MAX).now_or_never();
    listed.unwrap().unwrap()
}

/// Returns the message ids of the events that match, newest first.
#[track_caller]
fn names(inbox: &MemoryInbox, filter: &EventFilter) -> String {
    let listed = list(inbox, filter);
    let names: Vec<_> = listed.iter().map(EventRecord::message_id).collect();
    names.join(" ")
}

/// Returns each event with its state, newest first.
#[track_caller]
fn states(inbox: &MemoryInbox) -> String {
    let listed = list(inbox, &EventFilter::new());
    let states = listed
        .iter()
        .map(|record| format!("{} {}", record.message_id(), record.state()));
    states.collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn find(inbox: &MemoryInbox, message_id: &str) -> EventRecord {
    let mut found = list(inbox, &EventFilter::new().message_id(message_id));
    assert_eq!(found.len(), 1, "{message_id} is listed once: {found:?}");
    found.remove(0)
}

async fn replay(inbox: &MemoryInbox, message_id: &str, routes: Replay) -> bool {
    let id = find(inbox, message_id).id();
    log(inbox).replay(id, routes).await.unwrap()
}

fn only(route: &str) -> Replay {
    Replay::Only(route.to_owned())
}

/// Returns each attempt with its number and the results of its routes.
fn attempts(record: &EventRecord) -> Vec<String> {
    let history = record.history().iter();
    let attempt = |attempt: &botisimo_webhooks::AttemptRecord| {
        let results = attempt.routes().iter();
        let results = results.map(|result| format!("{} {}", result.route(), result.outcome()));
        format!(
            "{}: {}",
            attempt.number(),
            results.collect::<Vec<_>>().join(", ")
        )
    };
    history.map(attempt).collect()
}

fn builder(attempts: u32) -> MemoryInboxBuilder {
    let retry = RetryPolicy::new().max_attempts(attempts).seed(1);
    MemoryInbox::builder().delivery(DeliverySettings::new().retry(retry))
}

/// The runs of each route.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<Vec<String>>>);

impl Runs {
    /// Returns a handler that notes its run.
    fn handler(
        &self,
        route: &'static str,
    ) -> impl FnOnce(Event) -> std::future::Ready<()> + Clone + Send + Sync + 'static {
        let runs = self.clone();
        move |event| {
            let mut runs = runs.0.lock().unwrap();
            runs.push(format!("{route} {}", event.id()));
            std::future::ready(())
        }
    }

    fn take(&self) -> Vec<String> {
        let mut runs = std::mem::take(&mut *self.0.lock().unwrap());
        runs.sort();
        runs
    }
}

#[tokio::test(start_paused = true)]
async fn each_event_is_listed_once_and_in_its_state() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let router = EventRouter::new()
        .on("ok", |_: Event| async {})
        .on("slow", move |_: Event| async move {
            opened.acquire().await.unwrap().forget();
        })
        .on("bad", |_: Event| async { Err::<(), _>("no") });
    let retry = RetryPolicy::new().max_attempts(2);
    let delivery = DeliverySettings::new().concurrency(1).retry(retry);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);

    for (event_type, id) in [
        ("ok", "1"),
        ("none", "2"),
        ("bad", "3"),
        ("slow", "4"),
        ("ok", "5"),
    ] {
        accept(&inbox, mock(event_type, id));
    }
    assert_eq!(
        states(&inbox),
        "5 waiting, 4 waiting, 3 waiting, 2 waiting, 1 waiting"
    );
    run_ready_tasks().await;
    assert_eq!(
        states(&inbox),
        "5 waiting, 4 running, 3 retrying, 2 unhandled, 1 handled"
    );
    let (waiting, running, retrying) = (find(&inbox, "5"), find(&inbox, "4"), find(&inbox, "3"));
    assert_eq!(
        (waiting.attempts(), running.attempts(), retrying.attempts()),
        (0, 1, 1)
    );
    assert_eq!((waiting.ended_at(), running.ended_at()), (None, None));
    assert_eq!(attempts(&retrying), ["1: bad failed"]);
    assert_eq!(retrying.routes()[0].reason(), Some("failed: no"));

    // The retry is due, but the only worker is busy.
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(
        states(&inbox),
        "5 waiting, 4 running, 3 waiting, 2 unhandled, 1 handled"
    );
    gate.add_permits(1);
    wait_idle(&inbox.handle()).await;
    assert_eq!(
        states(&inbox),
        "5 handled, 4 handled, 3 dead, 2 unhandled, 1 handled"
    );
    let dead = find(&inbox, "3");
    assert_eq!(
        dead.to_string(),
        "bad 3 dead after 2 attempts: bad failed: no"
    );
    assert_eq!(
        find(&inbox, "1").to_string(),
        "ok 1 handled after 1 attempt"
    );
    assert!(dead.ended_at() >= Some(dead.received_at()));
    let all = list(&inbox, &EventFilter::new());
    let ids: Vec<_> = all.iter().map(EventRecord::id).collect();
    assert_eq!(ids, [5, 4, 3, 2, 1]);
    let got = log(&inbox).get(4).await.unwrap().unwrap();
    assert_eq!((got.message_id(), got.state()), ("4", EventState::Handled));
    assert!(log(&inbox).get(6).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_record_has_each_attempt_with_its_times_and_the_result_of_each_route_that_ran() {
    let router = EventRouter::new()
        .on("a", |_: Event| async { tokio::time::sleep(SECOND).await })
        .named("good")
        .on_prefix("a", |event: Event| async move {
            tokio::time::sleep(2 * SECOND).await;
            match event.attempt() {
                1 => Err(HandlerError::from("x".repeat(2_000))),
                2 => panic!("on purpose"),
                _ => Ok(()),
            }
        })
        .named("flaky");
    let inbox = builder(3).build(router);
    let before = SystemTime::now();
    accept(&inbox, mock("a", "1"));
    wait_idle(&inbox.handle()).await;

    let record = find(&inbox, "1");
    assert_eq!(record.state(), EventState::Handled);
    assert_eq!(
        attempts(&record),
        [
            "1: good handled, flaky failed",
            "2: flaky panicked",
            "3: flaky handled"
        ]
    );
    assert_eq!(record.attempts(), 3);
    let durations: Vec<_> = record
        .history()
        .iter()
        .map(|each| each.duration())
        .collect();
    assert_eq!(durations, [2 * SECOND; 3]);
    // The clock that measures attempts is paused, but the system time isn't.
    let started = record.history()[0].started_at();
    assert!(started <= SystemTime::now() && started > before - 60 * SECOND);
    let reason = record.history()[0].routes()[1].reason().unwrap();
    assert!(
        reason.starts_with("failed: xxx") && reason.len() <= 1024,
        "{}",
        reason.len()
    );
    let results: Vec<_> = record
        .routes()
        .iter()
        .map(|each| (each.route(), each.reason()))
        .collect();
    assert_eq!(results, [("good", None), ("flaky", None)]);
    let json = serde_json::to_value(&record).unwrap();
    assert_eq!(json["state"], "handled");
    assert_eq!(json["history"][0]["duration"], 2.0);
    assert_eq!(json["history"][1]["routes"][0]["route"], "flaky");
    assert!(!format!("{record:?}").contains("xxx"));
}

#[tokio::test(start_paused = true)]
async fn pages_start_at_the_newest_event_and_new_events_do_not_shift_them() {
    let inbox = builder(1).build(EventRouter::new().on_any(|_: Event| async {}));
    for id in 1..=5 {
        accept(&inbox, mock("a", &id.to_string()));
    }
    let (mut filter, mut pages) = (EventFilter::new(), Vec::new());
    loop {
        let page = log(&inbox).list(&filter, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        filter = filter.before(last.id());
        pages.push(page.iter().map(|record| record.id()).collect::<Vec<_>>());
        accept(&inbox, mock("a", &format!("new {}", pages.len())));
        run_ready_tasks().await;
    }
    assert_eq!(pages, [vec![5, 4], vec![3, 2], vec![1]]);
    assert!(
        log(&inbox)
            .list(&EventFilter::new(), 0)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(start_paused = true)]
async fn each_condition_of_a_filter_selects_events() {
    let router = EventRouter::new()
        .on("a.b", |event: Event| async move {
            match event.attempt() {
                1 => Err("not yet"),
                _ => Ok(()),
            }
        })
        .named("flaky")
        .on_prefix("a", |_: Event| async {})
        .named("good")
        .on("c", |_: Event| pending::<()>())
        .named("hangs");
    let delivery = DeliverySettings::new().retry(RetryPolicy::new().max_attempts(2));
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    for (event_type, id) in [
        ("a.b", "1"),
        ("a", "2"),
        ("a.c", "3"),
        ("c", "4"),
        ("d", "5"),
    ] {
        accept(&inbox, mock(event_type, id));
    }
    wait_idle(&inbox.handle()).await;
    accept(&inbox, mock("c", "6"));
    run_ready_tasks().await;

    let matches = |filter: EventFilter| names(&inbox, &filter);
    let new = EventFilter::new;
    assert_eq!(matches(new()), "6 5 4 3 2 1");
    assert_eq!(matches(EventFilter::dead()), "4");
    assert_eq!(matches(new().state(EventState::Running)), "6");
    assert_eq!(
        matches(
            new()
                .state(EventState::Running)
                .state(EventState::Unhandled)
        ),
        "6 5"
    );
    assert_eq!(
        matches(new().event_type(Pattern::prefix("a").unwrap())),
        "3 2 1"
    );
    assert_eq!(
        matches(new().event_type(Pattern::new("a.*").unwrap())),
        "3 1"
    );
    assert_eq!(matches(new().event_type(EventType::from("a"))), "2");
    assert_eq!(matches(new().route("good")), "3 2 1");
    assert_eq!(matches(new().route("flaky")), "1");
    assert_eq!(matches(new().route("nobody")), "");
    assert_eq!(matches(new().outcome("failed")), "1");
    assert_eq!(matches(new().outcome("handled")), "3 2 1");
    assert_eq!(matches(new().outcome("timed out")), "4");
    assert_eq!(
        matches(new().route("good").outcome("failed")),
        "",
        "another route failed"
    );
    assert_eq!(matches(new().reason("failed")), "1");
    assert_eq!(matches(new().reason("timed")), "4");
    assert_eq!(matches(new().reason("no such text")), "");
    assert_eq!(
        matches(new().route("good").reason("failed")),
        "",
        "another route failed"
    );
    assert_eq!(matches(new().message_id("3")), "3");
    assert_eq!(matches(new().before(3)), "2 1");
    assert_eq!(
        matches(new().before(3).route("flaky").outcome("failed")),
        "1"
    );
    let received_at = find(&inbox, "3").received_at();
    assert!(names(&inbox, &new().since(received_at)).starts_with("6 5 4 3"));
    assert_eq!(matches(new().since(received_at).until(received_at)), "");
    assert_eq!(matches(new().until(SystemTime::UNIX_EPOCH)), "");
    assert_eq!(matches(new().since(SystemTime::UNIX_EPOCH)), "6 5 4 3 2 1");
}

#[tokio::test(start_paused = true)]
async fn the_last_hour_of_one_route_is_replayed_and_only_that_route_runs() {
    let runs = Runs::default();
    let router = EventRouter::new()
        .on_prefix("stream", runs.handler("announce"))
        .named("announce")
        .on_any(runs.handler("accounts"))
        .named("accounts");
    // The minutes since the epoch, by the system time.
    let minutes = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&minutes);
    let date = |minutes| SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minutes);
    let runtime = TestRuntime::tokio().on_system_time(move || date(clock.load(Ordering::Relaxed)));
    let inbox = builder(1).build_with(runtime, router);
    let harness = Harness::inbox(inbox.clone());
    for (event_type, id, minute) in [
        ("stream", "old", 0),
        ("stream", "1", 70),
        ("other", "2", 80),
        ("stream.x", "3", 90),
    ] {
        minutes.store(minute, Ordering::Relaxed);
        let event = MockRequest::event(event_type).message_id(id);
        harness.deliver(event).await.assert_status(200);
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(runs.take().len(), 7);

    let filter = EventFilter::new().route("announce").since(date(60));
    assert_eq!(names(&inbox, &filter), "3 1");
    let events = log(&inbox);
    let replayed = events.replay_matching(&filter, only("announce")).await;
    assert_eq!(replayed.unwrap(), 2);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(runs.take(), ["announce 1", "announce 3"]);
    assert_eq!((stats.accepted, stats.replayed, stats.handled), (4, 2, 5));
    let record = find(&inbox, "1");
    assert_eq!(
        attempts(&record),
        [
            "1: announce handled, accounts handled",
            "1: announce handled"
        ]
    );
    assert_eq!((record.attempts(), record.routes().len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_replay_runs_the_remaining_routes_or_all_or_only_one() {
    let (runs, failing) = (Runs::default(), Arc::new(AtomicU64::new(1)));
    let (failed, noted) = (Arc::clone(&failing), runs.clone());
    let router = EventRouter::new()
        .on("a", runs.handler("good"))
        .named("good")
        .on_prefix("a", move |event: Event| async move {
            noted.handler("bad")(event).await;
            match failed.load(Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err("down"),
            }
        })
        .named("bad");
    let inbox = builder(1).build(router);
    accept(&inbox, mock("a", "1"));
    let handle = inbox.handle();
    wait_idle(&handle).await;
    assert_eq!(runs.take(), ["bad 1", "good 1"]);

    // Another route failed, so the event stays dead.
    assert!(replay(&inbox, "1", only("good")).await);
    let stats = wait_idle(&handle).await;
    assert_eq!((runs.take(), stats.dead), (vec!["good 1".to_owned()], 2));
    let reasons: Vec<_> = find(&inbox, "1")
        .routes()
        .iter()
        .map(|each| each.reason().map(str::to_owned))
        .collect();
    assert_eq!(reasons, [Some("failed: down".to_owned()), None]);

    assert!(replay(&inbox, "1", Replay::Remaining).await);
    wait_idle(&handle).await;
    assert_eq!(
        (runs.take(), find(&inbox, "1").state()),
        (vec!["bad 1".to_owned()], EventState::Dead)
    );

    failing.store(0, Ordering::Relaxed);
    assert!(replay(&inbox, "1", Replay::All).await);
    let stats = wait_idle(&handle).await;
    assert_eq!(runs.take(), ["bad 1", "good 1"]);
    assert_eq!(
        (
            stats.dead,
            stats.handled,
            stats.replayed,
            stats.dead_letters
        ),
        (3, 1, 3, 0)
    );
    assert_eq!(find(&inbox, "1").state(), EventState::Handled);

    // Every route has handled the event.
    assert!(replay(&inbox, "1", Replay::Remaining).await);
    wait_idle(&handle).await;
    assert_eq!(runs.take(), [""; 0]);
    assert_eq!(
        attempts(&find(&inbox, "1")),
        [
            "1: good handled, bad failed",
            "1: good handled",
            "1: bad failed",
            "1: good handled, bad handled",
            "1: ",
        ]
    );
    // The inbox doesn't treat a replayed event as a duplicate, but a copy is still a duplicate.
    assert_eq!(inbox.accept(mock("a", "1")).await, Ok(Accepted::Duplicate));
}

#[tokio::test(start_paused = true)]
async fn a_replay_of_one_route_that_fails_retries_only_that_route() {
    let (runs, failing) = (Runs::default(), Arc::new(AtomicU64::new(0)));
    let (failed, noted) = (Arc::clone(&failing), runs.clone());
    let router = EventRouter::new()
        .on_any(runs.handler("good"))
        .named("good")
        .on("a", move |event: Event| async move {
            noted.handler("bad")(event).await;
            match failed.load(Ordering::Relaxed) {
                0 => Ok(()),
                _ => Err("down"),
            }
        })
        .named("bad");
    let inbox = builder(2).build(router);
    accept(&inbox, mock("a", "1"));
    wait_idle(&inbox.handle()).await;
    runs.take();

    failing.store(1, Ordering::Relaxed);
    assert!(replay(&inbox, "1", only("bad")).await);
    wait_idle(&inbox.handle()).await;
    assert_eq!(runs.take(), ["bad 1", "bad 1"]);
    let dead = find(&inbox, "1");
    assert_eq!((dead.state(), dead.attempts()), (EventState::Dead, 2));
    let failed: Vec<_> = dead
        .routes()
        .iter()
        .map(|each| (each.route(), each.outcome()))
        .collect();
    assert_eq!(failed, [("good", "handled"), ("bad", "failed")]);
}

#[tokio::test(start_paused = true)]
async fn events_in_flight_and_other_routes_are_not_replayed_and_a_wrong_name_is_an_error() {
    let router = EventRouter::new()
        .on("a", |_: Event| pending::<()>())
        .named("hangs")
        .on("b", |_: Event| async {})
        .named("good");
    let inbox = builder(1).build(router);
    accept(&inbox, mock("a", "1"));
    accept(&inbox, mock("b", "2"));
    assert!(!replay(&inbox, "2", Replay::All).await, "it waits");
    run_ready_tasks().await;
    assert!(!replay(&inbox, "1", Replay::All).await, "it runs");
    let events = log(&inbox);
    assert!(!events.delete(1).await.unwrap(), "it runs");
    assert!(
        !replay(&inbox, "2", only("hangs")).await,
        "the route doesn't match the event"
    );
    assert!(!events.replay(99, Replay::All).await.unwrap());
    for error in [
        events.replay(2, only("typo")).await.unwrap_err(),
        events
            .replay_matching(&EventFilter::new(), only("typo"))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Route);
        assert!(error.to_string().contains("\"typo\""), "{error}");
    }
    // One event matches the filter and the route.
    let all = EventFilter::new();
    let replayed = events.replay_matching(&all, only("good")).await;
    assert_eq!(replayed.unwrap(), 1);
    run_ready_tasks().await;
    assert_eq!(states(&inbox), "2 handled, 1 running");
    balanced(&inbox.handle().stats());
}

#[tokio::test(start_paused = true)]
async fn a_replay_needs_space_and_is_refused_while_the_inbox_drains() {
    let router = EventRouter::new()
        .on("a", |_: Event| async {})
        .on("b", |_: Event| pending::<()>());
    let inbox = builder(1).max_events(1).build(router);
    accept(&inbox, mock("a", "1"));
    wait_idle(&inbox.handle()).await;
    accept(&inbox, mock("b", "2"));
    let events = log(&inbox);
    let error = events.replay(1, Replay::All).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    assert_eq!(find(&inbox, "1").state(), EventState::Handled);
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().drain(SECOND).await.remaining, 0);
    events.replay(1, Replay::All).await.unwrap_err();
    assert_eq!(states(&inbox), "2 dead, 1 handled");
}

#[tokio::test(start_paused = true)]
async fn a_replayed_event_waits_behind_the_events_of_its_key() {
    let runs = Runs::default();
    let router = EventRouter::new().on_any(runs.handler("all"));
    let delivery = DeliverySettings::new().ordering_key(crate::support::key);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    accept(&inbox, keyed("1", "k"));
    wait_idle(&inbox.handle()).await;
    accept(&inbox, keyed("2", "k"));
    accept(&inbox, keyed("3", "k"));
    assert!(replay(&inbox, "1", Replay::All).await);
    assert_eq!(states(&inbox), "3 waiting, 2 waiting, 1 waiting");
    wait_idle(&inbox.handle()).await;
    let order = runs.0.lock().unwrap().clone();
    assert_eq!(order, ["all 1", "all 2", "all 3", "all 1"]);
}

#[tokio::test(start_paused = true)]
async fn ended_events_are_deleted_and_the_others_stay() {
    let router = EventRouter::new()
        .on("a", |_: Event| async {})
        .on("b", |_: Event| async { Err::<(), _>("no") });
    let inbox = builder(1).build(router);
    for (event_type, id) in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "4"), ("c", "5")] {
        accept(&inbox, mock(event_type, id));
    }
    wait_idle(&inbox.handle()).await;
    let events = log(&inbox);
    assert!(events.delete(1).await.unwrap());
    assert!(!events.delete(1).await.unwrap());
    assert_eq!(names(&inbox, &EventFilter::new()), "5 4 3 2");
    assert_eq!(
        events.delete_matching(&EventFilter::dead()).await.unwrap(),
        2
    );
    assert_eq!(inbox.handle().stats().dead_letters, 0);
    assert_eq!(names(&inbox, &EventFilter::new()), "5 3");
    assert_eq!(inbox.accept(mock("a", "1")).await, Ok(Accepted::Duplicate));
}

#[tokio::test(start_paused = true)]
async fn the_log_keeps_the_events_that_ended_last_within_its_limits() {
    let router = || EventRouter::new().on("a", |_: Event| async {});
    let run = async |builder: MemoryInboxBuilder, sizes: &[usize]| {
        let inbox = builder.build(router());
        for (id, size) in sizes.iter().enumerate() {
            accept(&inbox, sized(&id.to_string(), *size));
            wait_idle(&inbox.handle()).await;
        }
        names(&inbox, &EventFilter::new())
    };
    assert_eq!(
        run(builder(1).max_handled_events(2), &[100; 4]).await,
        "3 2"
    );
    assert_eq!(run(builder(1).max_handled_events(0), &[100; 4]).await, "");
    assert_eq!(
        run(builder(1).max_handled_bytes(250), &[100; 4]).await,
        "3 2"
    );
    // An event above the limit displaces no other event.
    assert_eq!(
        run(builder(1).max_handled_bytes(250), &[100, 251, 150]).await,
        "2 0"
    );
    assert_eq!(
        run(builder(1), &[100; 1_002]).await.split(' ').count(),
        1_000
    );
}

/// Without limits, endless attempts and large errors would fill the memory.
#[tokio::test(start_paused = true)]
async fn a_record_keeps_the_newest_25_attempts_and_errors_within_the_byte_limit() {
    let router = EventRouter::new().on("a", |event: Event| async move {
        let digit = char::from(b'a' + u8::try_from(event.attempt() % 26).unwrap());
        Err::<(), _>(digit.to_string().repeat(2_000))
    });
    let retry = RetryPolicy::new().max_attempts(60).max_delay(SECOND);
    let delivery = DeliverySettings::new().retry(retry);
    let text = |record: &EventRecord| {
        let results = record.history().iter().flat_map(|attempt| attempt.routes());
        results
            .map(|result| result.reason().unwrap().len())
            .sum::<usize>()
    };
    for (bytes, least, most) in [
        (16 << 20, 25 * 1024, 25 * 1024),
        (5_000, 4 * 1024, 4 * 1024 + 21 * 6),
    ] {
        let inbox = MemoryInbox::builder().delivery(delivery.clone());
        let inbox = inbox.max_handled_bytes(bytes).build(router.clone());
        accept(&inbox, mock("a", "1"));
        tokio::time::sleep(5 * SECOND).await;
        while find(&inbox, "1").attempts() < 40 {
            tokio::time::sleep(SECOND).await;
        }
        let record = find(&inbox, "1");
        assert_eq!(record.history().len(), 25);
        assert!(
            record
                .history()
                .iter()
                .all(|each| each.routes()[0].outcome() == "failed")
        );
        assert!((least..=most).contains(&text(&record)), "{}", text(&record));
        wait_idle(&inbox.handle()).await;
        let dead = find(&inbox, "1");
        assert_eq!((dead.attempts(), dead.history().len()), (60, 25));
    }
    // The same error twice takes space once, so both attempts keep it.
    let router = EventRouter::new().on("a", |_: Event| async { Err::<(), _>("x".repeat(2_000)) });
    let inbox = MemoryInbox::builder()
        .delivery(delivery)
        .max_handled_bytes(2_000)
        .build(router);
    accept(&inbox, mock("a", "1"));
    wait_idle(&inbox.handle()).await;
    assert_eq!(text(&find(&inbox, "1")), 25 * 1024);
}

/// A step of the property test.
#[derive(Clone, Debug)]
enum Step {
    Accept(&'static str, usize),
    /// Lets the slow handlers that are running finish.
    Release,
    Sleep(u64),
    Replay(u64, bool),
    Delete(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let event_type = prop::sample::select(vec!["ok", "slow", "bad", "flaky", "none"]);
    prop_oneof![
        6 => (event_type, 100_usize..900).prop_map(|(event_type, size)| Step::Accept(event_type, size)),
        1 => Just(Step::Release),
        1 => (0_u64..3).prop_map(Step::Sleep),
        2 => (1_u64..30, any::<bool>()).prop_map(|(id, one)| Step::Replay(id, one)),
        1 => (1_u64..30).prop_map(Step::Delete),
    ]
}

/// The events that ended: the handled events in the order of their ends, and the dead letters.
#[derive(Default)]
struct Model {
    handled: VecDeque<(u64, EventState)>,
    dead: BTreeMap<u64, ()>,
    /// The ids of accepted events by their message ids.
    ids: BTreeMap<String, u64>,
}

impl Model {
    fn compare(&self, listed: &[EventRecord], handled: &BTreeMap<u64, &EventRecord>, bytes: usize) {
        let dead = listed
            .iter()
            .filter(|each| each.state() == EventState::Dead);
        let dead = dead.map(EventRecord::id);
        assert!(dead.eq(self.dead.keys().rev().copied()), "{listed:?}");
        let expected: BTreeMap<_, _> = self.handled.iter().copied().collect();
        for (id, record) in handled {
            assert_eq!(expected.get(id), Some(&record.state()), "{listed:?}");
        }
        // Without evictions by size, the log has exactly the events of the model.
        if bytes > 1 << 20 {
            assert_eq!(handled.len(), expected.len(), "{listed:?}");
        }
    }
}

/// Runs the steps, and after each step compares the log with the counts and with the model.
async fn against_the_model(steps: Vec<Step>, limit: usize, bytes: usize) {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let router = EventRouter::new()
        .on("ok", |_: Event| async {})
        .named("ok")
        .on("slow", move |_: Event| async move {
            opened.acquire().await.unwrap().forget();
        })
        .on("bad", |_: Event| async { Err::<(), _>("no") })
        .on("flaky", |event: Event| async move {
            match event.attempt() {
                1 => Err("not yet"),
                _ => Ok(()),
            }
        });
    let model = Arc::new(Mutex::new(Model::default()));
    let seen = Arc::clone(&model);
    let delivery = DeliverySettings::new()
        .concurrency(2)
        .attempt_timeout(Duration::from_secs(1_000))
        .retry(RetryPolicy::new().max_attempts(2))
        .on_attempt(move |attempt| {
            let mut model = seen.lock().unwrap();
            let id = model.ids[attempt.event().id()];
            match attempt.event_outcome() {
                None => {}
                Some(EventOutcome::Dead) => drop(model.dead.insert(id, ())),
                Some(outcome) => model.handled.push_back((id, outcome.into())),
            }
            while model.handled.len() > limit {
                model.handled.pop_front();
            }
        });
    let inbox = MemoryInbox::builder()
        .delivery(delivery)
        .max_handled_events(limit)
        .max_handled_bytes(bytes)
        .build(router);
    let (handle, events, mut accepted) = (inbox.handle(), log(&inbox), 0);
    for step in steps {
        match step {
            Step::Accept(event_type, size) => {
                accepted += 1;
                let id = accepted.to_string();
                model.lock().unwrap().ids.insert(id.clone(), accepted);
                let event = MockRequest::event(event_type).message_id(id).padded(size);
                accept(&inbox, event.to_event());
            }
            Step::Release => gate.add_permits(2),
            Step::Sleep(seconds) => {
                tokio::time::sleep(SECOND * u32::try_from(seconds).unwrap()).await;
            }
            Step::Replay(id, one) => {
                let routes = if one { only("ok") } else { Replay::All };
                if events.replay(id, routes).await.unwrap() {
                    let mut model = model.lock().unwrap();
                    model.dead.remove(&id);
                    model.handled.retain(|(handled, _)| *handled != id);
                }
            }
            Step::Delete(id) => {
                if events.delete(id).await.unwrap() {
                    let mut model = model.lock().unwrap();
                    model.dead.remove(&id);
                    model.handled.retain(|(handled, _)| *handled != id);
                }
            }
        }
        // At each point the counts and the log agree, whether or not the workers have run.
        for _ in 0..3 {
            let (stats, listed) = (handle.stats(), list(&inbox, &EventFilter::new()));
            balanced(&stats);
            assert!(
                listed.is_sorted_by(|newer, older| newer.id() > older.id()),
                "{listed:?}"
            );
            let count = |state| listed.iter().filter(|each| each.state() == state).count() as u64;
            assert_eq!(count(EventState::Waiting), stats.waiting, "{listed:?}");
            assert_eq!(count(EventState::Running), stats.running, "{listed:?}");
            assert_eq!(count(EventState::Retrying), stats.retrying, "{listed:?}");
            assert_eq!(count(EventState::Dead), stats.dead_letters, "{listed:?}");
            let handled = listed
                .iter()
                .filter(|each| matches!(each.state(), EventState::Handled | EventState::Unhandled));
            let handled: BTreeMap<_, _> = handled.map(|each| (each.id(), each)).collect();
            assert!(handled.len() <= limit, "{listed:?}");
            let kept: usize = handled.values().map(|each| each.body().len()).sum();
            assert!(kept <= bytes, "{listed:?}");
            model.lock().unwrap().compare(&listed, &handled, bytes);
            tokio::task::yield_now().await;
        }
        run_ready_tasks().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_log_stays_within_its_bounds_and_lists_each_event_once_in_its_state(
        steps in prop::collection::vec(step(), 1..40),
        limit in 0_usize..6,
        bytes in prop::sample::select(vec![0, 1_000, 2_000, 16 << 20]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(against_the_model(steps, limit, bytes));
    }
}
