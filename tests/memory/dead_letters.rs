//! Dead letters: their content, their retention and their replay.

use std::future::{pending, ready};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    AcceptError, Accepted, DeadLetter, DeliverySettings, Endpoint, ErrorKind, Event, EventRouter,
    Handle, HandlerError, Inbox, MemoryInbox, MemoryInboxBuilder, Pattern, Report, RetryPolicy,
    Runtime, WebhookLayer,
};
use futures_util::FutureExt;
use tokio::sync::{Semaphore, mpsc};

use crate::support::runtime::TestRuntime;
use crate::support::{balanced, letters, wait_idle};

fn mock(event_type: &str, id: &str) -> MockRequest {
    MockRequest::event(event_type).message_id(id)
}

async fn accept(inbox: &MemoryInbox, event_type: &str, id: &str) {
    let accepted = inbox.accept(mock(event_type, id).to_event()).await;
    assert_eq!(accepted, Ok(Accepted::New), "{id}");
}

async fn all(inbox: &impl Inbox) -> Vec<DeadLetter> {
    letters(inbox).list(None, usize::MAX).await.unwrap()
}

/// Returns the `messageId` of each letter.
async fn names(inbox: &impl Inbox) -> Vec<String> {
    let names = |letter: &DeadLetter| letter.message_id().to_owned();
    all(inbox).await.iter().map(names).collect()
}

/// Returns each route of a letter with its failure reason.
fn ends(letter: &DeadLetter) -> Vec<(&str, Option<&str>)> {
    let ends = letter.routes().iter();
    ends.map(|end| (end.route(), end.reason())).collect()
}

/// A switch: while it is set, handlers fail.
#[derive(Clone, Default)]
struct Outage(Arc<AtomicBool>);

impl Outage {
    fn now() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn handler(
        &self,
    ) -> impl FnOnce(Event) -> std::future::Ready<Result<(), HandlerError>> + Clone + use<> {
        let outage = self.clone();
        move |_: Event| {
            ready(if outage.0.load(Ordering::Relaxed) {
                Err("an outage".into())
            } else {
                Ok(())
            })
        }
    }
}

/// Returns an inbox without retries. During the outage, every handler of `a` and of the event types below `a` fails.
fn single(outage: &Outage) -> MemoryInbox {
    MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build(EventRouter::new().on_prefix("a", outage.handler()))
}

/// A tokio runtime whose system time is set by the test.
#[derive(Clone)]
struct Dated(Arc<Mutex<SystemTime>>);

impl Dated {
    fn at(seconds: u64) -> Self {
        let dated = Self(Arc::new(Mutex::new(SystemTime::UNIX_EPOCH)));
        dated.set(seconds);
        dated
    }

    fn set(&self, seconds: u64) {
        *self.0.lock().unwrap() = date(seconds);
    }

    fn runtime(&self) -> TestRuntime {
        let dated = Arc::clone(&self.0);
        TestRuntime::tokio().on_system_time(move || *dated.lock().unwrap())
    }
}

fn date(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn a_letter_keeps_the_body_the_routes_the_reasons_the_attempts_and_the_times() {
    let system_time = Dated::at(1_000);
    let late = system_time.clone();
    let router = EventRouter::new()
        .on("a.b", |_: Event| async { Err::<(), _>("no database") })
        .on("a.*", |_: Event| async {})
        .on_prefix("a", |_: Event| async {
            Err::<(), _>(HandlerError::permanent("not mine"))
        })
        .on_any(|_: Event| async { panic!("on purpose") })
        .named("panics")
        .on_any(|_: Event| pending::<()>())
        .named("hangs")
        .on_any(|_: Event<u32>| async {})
        .named("mismatches")
        .on_any(move |event: Event| async move { late.set(2_000 + u64::from(event.attempt())) })
        .named("sees");
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::new().max_attempts(3)))
        .build_with(system_time.runtime(), router);
    let harness = Harness::inbox(inbox.clone());
    let request = mock("a.b", "m-1").data("s3cret").member("more", 7);
    harness.deliver(request.clone()).await.assert_status(200);

    let [letter] = &all(&inbox).await[..] else {
        panic!("expected exactly one dead letter")
    };
    assert_eq!(letter.message_id(), "m-1");
    assert_eq!(letter.body(), request.body_bytes());
    let event = letter.event().unwrap();
    assert_eq!(
        (event.id(), event.event_type().as_str(), event.raw_data()),
        ("m-1", "a.b", "\"s3cret\"")
    );
    let mut routes = ends(letter);
    routes.sort_unstable();
    let mismatch = "mismatched: ";
    assert!(routes[4].1.unwrap().starts_with(mismatch), "{routes:?}");
    routes[4].1 = Some(mismatch);
    assert_eq!(
        routes,
        [
            ("a.*", None),
            ("a.b", Some("failed: no database")),
            ("a[.*]", Some("failed: not mine")),
            ("hangs", Some("timed out")),
            ("mismatches", Some(mismatch)),
            ("panics", Some("panicked: on purpose")),
            ("sees", None),
        ]
    );
    assert_eq!((letter.attempts(), letter.cause()), (3, None));
    assert_eq!(letter.received_at(), date(1_000));
    // `sees` succeeded in the first attempt and didn't run again.
    assert_eq!(letter.dead_lettered_at(), date(2_001));
    assert_eq!(inbox.handle().stats().dead_letters, 1);
}

#[tokio::test(start_paused = true)]
async fn only_dead_events_are_dead_lettered() {
    let outage = Outage::now();
    let late = outage.clone();
    let router = EventRouter::new()
        .on_prefix("a", outage.handler())
        .on("b", |_: Event| async {});
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().on_attempt(move |delivery| {
            if delivery.event().attempt() == 4 {
                late.end();
            }
        }))
        .build(router);
    for event_type in ["a", "b", "c"] {
        accept(&inbox, event_type, event_type).await;
    }
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.unhandled, stats.retried), (2, 1, 4));
    assert!(all(&inbox).await.is_empty());
}

#[test]
fn an_event_dropped_by_its_runtime_is_dead_lettered() {
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().concurrency(1))
        .build(
            EventRouter::new()
                .on("a", |_: Event| pending::<()>())
                .on("b", |_: Event| async { Err::<(), _>("not yet") })
                .on_any(|_: Event| async {}),
        );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        accept(&inbox, "b", "between two attempts").await;
        accept(&inbox, "a", "in an attempt").await;
        while (
            inbox.handle().stats().running,
            inbox.handle().stats().retrying,
        ) != (1, 1)
        {
            tokio::task::yield_now().await;
        }
    });
    drop(runtime);
    let all = all(&inbox).now_or_never().unwrap();
    let ends: Vec<_> = all.iter().map(ends).collect();
    assert_eq!(
        ends,
        [
            [("*", None), ("b", Some("dropped"))],
            [("a", Some("dropped")), ("*", None)]
        ]
    );
    balanced(&inbox.handle().stats());
}

#[tokio::test(start_paused = true)]
async fn the_oldest_letters_beyond_the_count_limit_are_dropped_and_counted() {
    let outage = Outage::now();
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .max_dead_letters(3)
        .build(EventRouter::new().on("a", outage.handler()));
    for id in ["1", "2", "3", "4", "5"] {
        accept(&inbox, "a", id).await;
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(names(&inbox).await, ["3", "4", "5"]);
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.dead, stats.dead_letters, stats.dead_letters_dropped),
        (5, 3, 2)
    );
}

/// The bug: if an old event was replayed and dead-lettered again, the inbox dropped the event's letter first because of
/// its low number.
#[tokio::test(start_paused = true)]
async fn the_oldest_letter_is_the_letter_dead_lettered_first() {
    let outage = Outage::now();
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .max_dead_letters(2)
        .build(EventRouter::new().on_prefix("a", outage.handler()));
    for id in ["m-1", "m-2"] {
        accept(&inbox, "a", id).await;
        wait_idle(&inbox.handle()).await;
    }
    let first = all(&inbox).await[0].id();
    assert!(letters(&inbox).replay(first).await.unwrap());
    wait_idle(&inbox.handle()).await;
    accept(&inbox, "a", "m-3").await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(names(&inbox).await, ["m-1", "m-3"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_reason_is_cut_at_a_character_boundary() {
    let router = EventRouter::new().on("a", |_: Event| async {
        Err::<(), HandlerError>(HandlerError::permanent("é".repeat(1_000)))
    });
    let inbox = MemoryInbox::new(router);
    accept(&inbox, "a", "m-1").await;
    wait_idle(&inbox.handle()).await;
    let letters = all(&inbox).await;
    let reason = letters[0].routes()[0].reason().unwrap();
    assert_eq!(reason.len(), 1024);
    assert!(reason.starts_with("failed: éé") && reason.ends_with("é"));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_letters_beyond_the_byte_limit_are_dropped_and_counted() {
    let outage = Outage::now();
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .max_dead_letter_bytes(1000)
        .build(EventRouter::new().on("a", outage.handler()));
    let die = async |id: &str, bytes| {
        let event = mock("a", id).padded(bytes).to_event();
        inbox.accept(event).await.unwrap();
        wait_idle(&inbox.handle()).await;
    };
    for (id, bytes) in [("1", 300), ("2", 300), ("3", 400)] {
        die(id, bytes).await;
    }
    assert_eq!(names(&inbox).await, ["1", "2", "3"]);
    die("4", 301).await;
    assert_eq!(names(&inbox).await, ["3", "4"]);
    assert_eq!(inbox.handle().stats().dead_letters_dropped, 2);
    // Deleting or replaying a letter frees space.
    let ids: Vec<_> = all(&inbox).await.iter().map(DeadLetter::id).collect();
    assert!(letters(&inbox).delete(ids[0]).await.unwrap());
    outage.end();
    assert!(letters(&inbox).replay(ids[1]).await.unwrap());
    wait_idle(&inbox.handle()).await;
    outage.0.store(true, Ordering::Relaxed);
    for id in ["5", "6"] {
        die(id, 500).await;
    }
    assert_eq!(names(&inbox).await, ["5", "6"]);
    assert_eq!(inbox.handle().stats().dead_letters_dropped, 2);
}

/// The bug: a letter larger than the limit displaced all others, and then the inbox dropped it too.
#[tokio::test(start_paused = true)]
async fn a_letter_larger_than_the_byte_limit_displaces_no_other() {
    let outage = Outage::now();
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .max_dead_letter_bytes(1000)
        .build(EventRouter::new().on("a", outage.handler()));
    for (id, bytes) in [("1", 500), ("2", 500), ("large", 1001)] {
        let event = mock("a", id).padded(bytes).to_event();
        inbox.accept(event).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    assert_eq!(names(&inbox).await, ["1", "2"]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead_letters, stats.dead_letters_dropped), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn with_a_limit_of_0_no_letter_is_stored_and_the_hook_runs() {
    let outage = Outage::now();
    let told = Arc::new(AtomicU32::new(0));
    let tell = Arc::clone(&told);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .on_dead_letter(move |_| {
                    tell.fetch_add(1, Ordering::Relaxed);
                }),
        )
        .max_dead_letters(0)
        .build(EventRouter::new().on("a", outage.handler()));
    for id in ["1", "2"] {
        accept(&inbox, "a", id).await;
    }
    wait_idle(&inbox.handle()).await;
    assert!(all(&inbox).await.is_empty());
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.dead, stats.dead_letters, stats.dead_letters_dropped),
        (2, 0, 2)
    );
    assert_eq!(told.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn pages_are_in_the_order_of_acceptance() {
    let gate = Arc::new(Semaphore::new(0));
    let opened = Arc::clone(&gate);
    let router = EventRouter::new().on("a", move |event: Event| async move {
        // The event accepted first is dead-lettered last.
        if event.id() == "0" {
            gate.acquire().await.unwrap().forget();
        }
        Err::<(), _>("failed")
    });
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build(router);
    for id in 0..7 {
        accept(&inbox, "a", &id.to_string()).await;
    }
    while inbox.handle().stats().dead < 6 {
        tokio::task::yield_now().await;
    }
    opened.add_permits(1);
    wait_idle(&inbox.handle()).await;

    let dead = letters(&inbox);
    let (mut pages, mut last) = (Vec::new(), None);
    loop {
        let page = dead.list(last, 3).await.unwrap();
        let Some(letter) = page.last() else { break };
        last = Some(letter.id());
        assert!(page.is_sorted_by_key(DeadLetter::id));
        let names = page.iter().map(|letter| letter.message_id().to_owned());
        pages.push(names.collect::<Vec<_>>().join(" "));
    }
    assert_eq!(pages, ["0 1 2", "3 4 5", "6"]);
    assert!(dead.list(None, 0).await.unwrap().is_empty());
    assert!(dead.list(Some(u64::MAX), 3).await.unwrap().is_empty());

    // The next page starts after an id even if the letter with that id is gone.
    let first = dead.list(None, 3).await.unwrap();
    for letter in &first {
        assert!(dead.delete(letter.id()).await.unwrap());
    }
    let next = dead.list(Some(first[2].id()), 1).await.unwrap();
    assert_eq!(next[0].message_id(), "3");
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_found_by_its_id_until_it_is_deleted() {
    let outage = Outage::now();
    let inbox = single(&outage);
    for id in ["1", "2"] {
        accept(&inbox, "a", id).await;
    }
    wait_idle(&inbox.handle()).await;
    let dead = letters(&inbox);
    let ids: Vec<_> = all(&inbox).await.iter().map(DeadLetter::id).collect();
    for (id, name) in ids.iter().zip(["1", "2"]) {
        assert_eq!(dead.get(*id).await.unwrap().unwrap().message_id(), name);
    }
    assert!(dead.delete(ids[0]).await.unwrap());
    assert!(dead.get(ids[0]).await.unwrap().is_none());
    assert!(!dead.delete(ids[0]).await.unwrap());
    assert!(!dead.replay(ids[0]).await.unwrap());
    assert_eq!(names(&inbox).await, ["2"]);
    // The event stays dead, and its letter doesn't count as dropped.
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.dead_letters, stats.replayed), (2, 1, 0));
    assert_eq!(stats.dead_letters_dropped, 0);
    balanced(&stats);
}

#[tokio::test(start_paused = true)]
async fn a_replayed_event_isnt_a_duplicate_and_its_letter_is_gone() {
    let gate = Arc::new(Semaphore::new(0));
    let pass = Arc::clone(&gate);
    let outage = Outage::now();
    let failing = outage.clone();
    let router = EventRouter::new().on("a", move |_: Event| async move {
        gate.acquire().await.unwrap().forget();
        match failing.0.load(Ordering::Relaxed) {
            true => Err("an outage"),
            false => Ok(()),
        }
    });
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build(router);
    let (handle, dead) = (inbox.handle(), letters(&inbox));
    accept(&inbox, "a", "1").await;
    pass.add_permits(1);
    handle.wait_idle().await;
    balanced(&handle.stats());
    let letter = all(&inbox).await.remove(0);
    outage.end();

    assert!(dead.replay(letter.id()).await.unwrap());
    let stats = handle.stats();
    balanced(&stats);
    let size = letter.body().len() as u64;
    assert_eq!((stats.accepted, stats.replayed, stats.dead), (1, 1, 1));
    assert_eq!(
        (stats.in_flight(), stats.bytes, stats.dead_letters),
        (1, size, 0)
    );
    // The event is being delivered, so it can't be replayed again.
    assert!(dead.get(letter.id()).await.unwrap().is_none());
    assert!(!dead.replay(letter.id()).await.unwrap());
    // A copy is still a duplicate.
    let copy = inbox.accept(mock("a", "1").to_event()).await;
    assert_eq!(copy, Ok(Accepted::Duplicate));

    pass.add_permits(1);
    handle.wait_idle().await;
    let stats = handle.stats();
    balanced(&stats);
    assert_eq!((stats.handled, stats.dead, stats.bytes), (1, 1, 0));
    assert_eq!((stats.duplicates, stats.replayed), (1, 1));
    assert!(all(&inbox).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_replay_runs_only_unfinished_routes_and_starts_at_attempt_1() {
    let (sender, mut runs) = mpsc::unbounded_channel();
    let outage = Outage::now();
    let run = |name: &'static str| {
        let sender = sender.clone();
        move |event: &Event| sender.send(format!("{name} {}", event.attempt())).unwrap()
    };
    let (done, fails, permanent) = (run("done"), run("fails"), run("permanent"));
    let (failing, refusing) = (outage.clone(), outage.clone());
    let router = EventRouter::new()
        .on("a", move |event: Event| async move { done(&event) })
        .on_prefix("a", move |event: Event| async move {
            fails(&event);
            failing.handler()(event).await
        })
        .on_any(move |event: Event| async move {
            permanent(&event);
            let outcome = refusing.handler()(event).await;
            outcome.map_err(|_| HandlerError::permanent("an outage"))
        });
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::new().max_attempts(2)))
        .build(router);
    let mut ran = || std::iter::from_fn(|| runs.try_recv().ok()).collect::<Vec<_>>();
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(ran(), ["done 1", "fails 1", "permanent 1", "fails 2"]);

    // The event is dead-lettered again, with the results of all its routes.
    let first = all(&inbox).await.remove(0);
    assert!(letters(&inbox).replay(first.id()).await.unwrap());
    wait_idle(&inbox.handle()).await;
    assert_eq!(ran(), ["fails 1", "permanent 1", "fails 2"]);
    let second = all(&inbox).await.remove(0);
    assert_eq!(ends(&second), ends(&first));
    assert_eq!((first.attempts(), second.attempts()), (2, 2));
    assert_eq!(second.received_at(), first.received_at());
    assert!(second.dead_lettered_at() >= first.dead_lettered_at());

    outage.end();
    assert!(letters(&inbox).replay(second.id()).await.unwrap());
    wait_idle(&inbox.handle()).await;
    assert_eq!(ran(), ["fails 1", "permanent 1"]);
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.accepted, stats.replayed, stats.dead, stats.handled),
        (1, 2, 2, 1)
    );
    balanced(&stats);
}

#[tokio::test(start_paused = true)]
async fn a_replay_runs_the_routes_that_match_when_it_starts() {
    let fails = |_: Event| async { Err::<(), _>("failed") };
    let first = EventRouter::new()
        .on("a", |_: Event| async {})
        .named("done")
        .on("a", fails)
        .named("repaired")
        .on("a", fails)
        .named("removed");
    let second = EventRouter::new()
        .on("a", fails)
        .named("done")
        .on("a", |_: Event| async {})
        .named("repaired")
        .on("a", |_: Event| async {})
        .named("added");
    let current = Arc::new(Mutex::new(first));
    let router = Arc::clone(&current);
    let service = tower::service_fn(move |event: Event| {
        let mut router = router.lock().unwrap().clone();
        tower::Service::call(&mut router, event)
    });
    let (sender, mut reports) = mpsc::unbounded_channel();
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .on_attempt(move |delivery| sender.send(delivery.report().to_string()).unwrap()),
        )
        .build(service);
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    *current.lock().unwrap() = second;
    let id = all(&inbox).await[0].id();
    assert!(letters(&inbox).replay(id).await.unwrap());
    wait_idle(&inbox.handle()).await;
    reports.try_recv().unwrap();
    assert_eq!(
        reports.try_recv().unwrap(),
        "repaired handled, added handled"
    );
    assert_eq!(inbox.handle().stats().handled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_by_pattern_accepts_exact_below_and_prefix_patterns() {
    let types = ["a", "a.b", "a.b.c", "a.b.c.d", "a.bc"];
    for (pattern, replayed) in [
        (Pattern::new("a.b").unwrap(), &["a.b"][..]),
        (Pattern::new("a.b.*").unwrap(), &["a.b.c", "a.b.c.d"]),
        (
            Pattern::prefix("a.b").unwrap(),
            &["a.b", "a.b.c", "a.b.c.d"],
        ),
        (Pattern::new("x").unwrap(), &[]),
    ] {
        let outage = Outage::now();
        let (sender, mut ran) = mpsc::unbounded_channel();
        let inbox = single(&outage);
        for event_type in types {
            accept(&inbox, event_type, event_type).await;
        }
        wait_idle(&inbox.handle()).await;
        outage.end();
        inbox.handle().on_attempt(move |delivery| {
            sender.send(delivery.event().id().to_owned()).unwrap();
        });
        let count = letters(&inbox).replay_matching(&pattern).await.unwrap();
        assert_eq!(count, replayed.len() as u64, "{pattern}");
        wait_idle(&inbox.handle()).await;
        // The inbox replays the oldest letter first.
        let ran: Vec<_> = std::iter::from_fn(|| ran.try_recv().ok()).collect();
        assert_eq!(ran, replayed, "{pattern}");
        let left = types.iter().filter(|each| !replayed.contains(each));
        assert_eq!(names(&inbox).await, left.copied().collect::<Vec<_>>());
        let stats = inbox.handle().stats();
        assert_eq!((stats.replayed, stats.handled), (count, count));
        balanced(&stats);
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_by_pattern_replays_each_letter_once_even_if_it_fails_again() {
    let outage = Outage::now();
    let inbox = single(&outage);
    for id in ["1", "2", "3"] {
        accept(&inbox, "a", id).await;
    }
    wait_idle(&inbox.handle()).await;
    let pattern = Pattern::new("a").unwrap();
    assert_eq!(letters(&inbox).replay_matching(&pattern).await.unwrap(), 3);
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.replayed, stats.dead, stats.dead_letters), (3, 6, 3));
    assert_eq!(names(&inbox).await, ["1", "2", "3"]);
}

/// Returns an inbox that runs the outage's handler for `a`, and a handler that never ends for `hang`.
fn hanging(outage: &Outage, builder: MemoryInboxBuilder) -> MemoryInbox {
    let router = EventRouter::new()
        .on_prefix("a", outage.handler())
        .on("hang", |_: Event| pending::<()>());
    builder
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build(router)
}

#[tokio::test(start_paused = true)]
async fn a_replay_into_a_full_inbox_is_refused_and_the_letter_stays() {
    let outage = Outage::now();
    let inbox = hanging(&outage, MemoryInbox::builder().max_events(3));
    let dead = letters(&inbox);
    for id in ["1", "2", "3"] {
        accept(&inbox, "a", id).await;
    }
    wait_idle(&inbox.handle()).await;
    for id in ["4", "5", "6"] {
        accept(&inbox, "hang", id).await;
    }
    let id = all(&inbox).await[0].id();
    let error = dead.replay(id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "the inbox is full");
    assert_eq!(names(&inbox).await, ["1", "2", "3"]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.replayed, stats.in_flight()), (0, 3));
    balanced(&stats);
}

#[tokio::test(start_paused = true)]
async fn a_replay_by_pattern_replays_the_oldest_letters_that_fit() {
    let outage = Outage::now();
    let inbox = hanging(&outage, MemoryInbox::builder().max_events(3));
    for id in ["1", "2", "3"] {
        accept(&inbox, "a", id).await;
    }
    wait_idle(&inbox.handle()).await;
    outage.end();
    accept(&inbox, "hang", "4").await;
    let pattern = Pattern::prefix("a").unwrap();
    let error = letters(&inbox).replay_matching(&pattern).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    assert_eq!(names(&inbox).await, ["3"]);
    while inbox.handle().stats().handled < 2 {
        tokio::task::yield_now().await;
    }
    let stats = inbox.handle().stats();
    assert_eq!((stats.replayed, stats.in_flight()), (2, 1));
    balanced(&stats);
    // The byte limit applies to a replayed letter as it does to a new event.
    assert_eq!(letters(&inbox).replay_matching(&pattern).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_replay_beyond_the_byte_limit_is_refused() {
    let outage = Outage::now();
    let inbox = hanging(&outage, MemoryInbox::builder().max_bytes(1000));
    let sized = |event_type, bytes| mock(event_type, event_type).padded(bytes).to_event();
    inbox.accept(sized("a", 600)).await.unwrap();
    inbox.accept(sized("a.b", 500)).await.unwrap_err();
    wait_idle(&inbox.handle()).await;
    inbox.accept(sized("a.b", 500)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    inbox.accept(sized("hang", 500)).await.unwrap();
    outage.end();
    let ids: Vec<_> = all(&inbox).await.iter().map(DeadLetter::id).collect();
    assert!(letters(&inbox).replay(ids[0]).await.is_err());
    assert!(letters(&inbox).replay(ids[1]).await.unwrap());
    assert_eq!(inbox.handle().stats().bytes, 1000);
    assert_eq!(names(&inbox).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_replay_during_a_drain_is_refused_and_the_letter_stays() {
    let outage = Outage::now();
    let inbox = single(&outage);
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    let _ = inbox.handle().drain(Duration::ZERO).await;
    let dead = letters(&inbox);
    let id = all(&inbox).await[0].id();
    for error in [
        dead.replay(id).await.unwrap_err(),
        dead.replay_matching(&Pattern::new("a").unwrap())
            .await
            .unwrap_err(),
    ] {
        let source = std::error::Error::source(&error).unwrap();
        assert_eq!(
            (error.kind(), source.to_string().as_str()),
            (ErrorKind::Inbox, "the inbox is draining")
        );
    }
    assert_eq!(names(&inbox).await, ["1"]);
    assert_eq!(inbox.handle().stats().replayed, 0);
    // Deleting a letter needs no space.
    assert!(dead.delete(id).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_is_dropped_unpolled_replays_nothing() {
    let outage = Outage::now();
    let inbox = single(&outage);
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    let (dead, id) = (letters(&inbox), all(&inbox).await[0].id());
    drop(dead.replay(id));
    drop(dead.delete(id));
    assert_eq!(names(&inbox).await, ["1"]);
    assert_eq!(dead.replay(id).now_or_never().unwrap().ok(), Some(true));
}

#[tokio::test(start_paused = true)]
async fn letters_are_pruned_by_their_dead_lettering_time() {
    let system_time = Dated::at(0);
    let outage = Outage::now();
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build_with(
            system_time.runtime(),
            EventRouter::new().on("a", outage.handler()),
        );
    let prune = async |seconds| {
        let pruned = letters(&inbox).prune(Duration::from_secs(seconds)).await;
        pruned.unwrap()
    };
    for seconds in [100, 200, 300] {
        tokio::time::advance(Duration::from_secs(100)).await;
        system_time.set(seconds);
        accept(&inbox, "a", &seconds.to_string()).await;
        wait_idle(&inbox.handle()).await;
    }
    tokio::time::advance(Duration::from_secs(100)).await;
    system_time.set(400);
    assert_eq!(prune(301).await, 0);
    assert_eq!(prune(299).await, 1);
    assert_eq!(names(&inbox).await, ["200", "300"]);
    // Setting the system clock back or ahead changes no letter's age.
    for seconds in [0, 1_000_000] {
        system_time.set(seconds);
        assert_eq!(prune(201).await, 0);
    }
    assert_eq!(prune(0).await, 2);
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.dead_letters), (3, 0));
    assert_eq!(stats.dead_letters_dropped, 0);
}

#[tokio::test(start_paused = true)]
async fn the_hook_runs_for_each_dead_letter_and_a_panic_in_it_changes_nothing() {
    let (first, mut told) = mpsc::unbounded_channel();
    let second = first.clone();
    let outage = Outage::now();
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .on_dead_letter(|_| panic!("a hook"))
                .on_dead_letter(move |letter| first.send(letter.clone()).unwrap()),
        )
        .build(
            EventRouter::new()
                .on("a", outage.handler())
                .on("b", |_: Event| async {}),
        );
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    inbox
        .handle()
        .on_dead_letter(move |letter| second.send(letter.clone()).unwrap());
    for (event_type, id) in [("b", "2"), ("c", "3"), ("a", "4")] {
        accept(&inbox, event_type, id).await;
    }
    wait_idle(&inbox.handle()).await;
    let kept = all(&inbox).await;
    letters(&inbox).replay(kept[0].id()).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let told: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
    let ids: Vec<_> = told.iter().map(DeadLetter::message_id).collect();
    // The hook added through the handle runs after the first hook.
    assert_eq!(ids, ["1", "4", "4", "1", "1"]);
    assert_eq!(told[0].id(), kept[0].id());
    assert_eq!(ends(&told[0]), [("a", Some("failed: an outage"))]);
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.dead_letters), (3, 2));
}

/// The bug: the hook ran before the letter was stored, and found no letter.
#[tokio::test(start_paused = true)]
async fn the_hook_runs_after_the_letter_is_stored_and_before_its_event_is_counted() {
    let slot: Arc<OnceLock<MemoryInbox>> = Arc::default();
    let (mine, outage) = (Arc::clone(&slot), Outage::now());
    let (sender, mut seen) = mpsc::unbounded_channel();
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .on_dead_letter(move |letter| {
                    let inbox = mine.get().unwrap();
                    let got = letters(inbox).get(letter.id()).now_or_never().unwrap();
                    let stats = inbox.handle().stats();
                    balanced(&stats);
                    let kept = got.unwrap().map(|got| got.message_id().to_owned());
                    sender.send((kept, stats.dead, stats.in_flight())).unwrap();
                }),
        )
        .build(EventRouter::new().on("a", outage.handler()));
    slot.set(inbox.clone()).unwrap();
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(seen.try_recv(), Ok((Some("1".to_owned()), 0, 1)));
    assert_eq!(inbox.handle().stats().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn a_hook_can_replay_and_delete_its_letter() {
    for hold in [false, true] {
        let slot: Arc<OnceLock<MemoryInbox>> = Arc::default();
        let (mine, outage) = (Arc::clone(&slot), Outage::now());
        let deaths = AtomicU32::new(0);
        let delivery = DeliverySettings::new()
            .retry(RetryPolicy::no_retry())
            .ordering_key(|event: &Event| Some(event.event_type().as_str().to_owned()))
            .on_dead_letter(move |letter| {
                let dead = letters(mine.get().unwrap());
                let done = match deaths.fetch_add(1, Ordering::Relaxed) {
                    0..3 => dead.replay(letter.id()).now_or_never(),
                    _ => dead.delete(letter.id()).now_or_never(),
                };
                assert_eq!(done.unwrap().ok(), Some(true));
            });
        let delivery = if hold {
            delivery.block_key_on_dead_letter()
        } else {
            delivery
        };
        let inbox = MemoryInbox::builder()
            .delivery(delivery)
            .build(EventRouter::new().on("a", outage.handler()));
        slot.set(inbox.clone()).unwrap();
        for id in ["1", "2"] {
            accept(&inbox, "a", id).await;
        }
        wait_idle(&inbox.handle()).await;
        let stats = inbox.handle().stats();
        assert_eq!((stats.replayed, stats.dead, stats.dead_letters), (3, 5, 0));
        balanced(&stats);
    }
}

#[tokio::test(start_paused = true)]
async fn the_handles_of_layers_and_endpoints_have_letters_and_hooks() {
    let router = || EventRouter::new().on("a", |_: Event| async { Err::<(), _>("failed") });
    let inbox = || {
        MemoryInbox::builder()
            .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
            .build(router())
    };
    let layer = WebhookLayer::new("/webhooks/botisimo", inbox());
    let layered = tower::Layer::layer(
        &layer,
        tower::service_fn(async |_| {
            Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<
                bytes::Bytes,
            >::default()))
        }),
    );
    let endpoint = Endpoint::new(inbox());
    let (behind_layer, behind_endpoint) = (layer.handle(), endpoint.handle());
    let harnesses = [
        (
            Harness::service(layered, behind_layer.clone()),
            behind_layer,
        ),
        (
            Harness::service(endpoint, behind_endpoint.clone()),
            behind_endpoint,
        ),
    ];
    for (harness, handle) in harnesses {
        let (sender, mut told) = mpsc::unbounded_channel();
        handle.on_dead_letter(move |letter| sender.send(letter.message_id().to_owned()).unwrap());
        harness.deliver(mock("a", "1")).await.assert_status(200);
        assert_eq!(told.try_recv().unwrap(), "1");
        let dead = handle.dead_letters().unwrap();
        let id = dead.list(None, 1).await.unwrap()[0].id();
        assert!(dead.replay(id).await.unwrap());
        handle.wait_idle().await;
        let stats = handle.stats();
        assert_eq!((stats.replayed, stats.dead_letters), (1, 1));
        assert!(dead.delete(id).await.unwrap());
    }
}

/// An inbox that wraps another inbox.
#[derive(Clone)]
struct Wrapper<I>(I);

impl<I: Inbox> Inbox for Wrapper<I> {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        self.0.accept(event)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.0.runtime()
    }

    fn handle(&self) -> Handle {
        self.0.handle()
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrapping_inbox_exposes_the_letters_of_its_inner_inbox() {
    let outage = Outage::now();
    let inbox = Wrapper(Wrapper(single(&outage)));
    let (sender, mut told) = mpsc::unbounded_channel();
    let harness = Harness::inbox(inbox.clone());
    inbox
        .handle()
        .on_dead_letter(move |letter| sender.send(letter.id()).unwrap());
    harness.deliver(mock("a", "1")).await.assert_status(200);
    assert_eq!(names(&inbox).await, ["1"]);
    outage.end();
    assert!(
        letters(&inbox)
            .replay(told.try_recv().unwrap())
            .await
            .unwrap()
    );
    wait_idle(&inbox.handle()).await;
    assert_eq!(inbox.handle().stats().handled, 1);
}

/// A regression test: earlier, the debug output of a route's result included the reason.
#[tokio::test(start_paused = true)]
async fn no_debug_output_shows_a_body_or_a_reason() {
    let router = EventRouter::new()
        .on("a", |_: Event| async { Err::<(), _>("s3cret reason") })
        .on_any(|_: Event| async { panic!("s3cret panic") });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .ordering_key(|_: &Event| Some("s3cret key"))
                .block_key_on_dead_letter(),
        )
        .build(router);
    let event = mock("a", "1").data("s3cret data").to_event();
    inbox.accept(event).await.unwrap();
    while inbox.handle().stats().dead < 1 {
        tokio::task::yield_now().await;
    }
    let _ = inbox.handle().drain(Duration::ZERO).await;
    let (dead, letter) = (letters(&inbox), all(&inbox).await.remove(0));
    let error = dead.replay(letter.id()).await.unwrap_err();
    let written = [
        format!("{letter:?} {letter:#?}"),
        format!("{:?} {:#?}", letter.routes(), letter.routes()),
        format!("{dead:?} {:?} {inbox:?}", inbox.handle()),
        format!("{error} {error:?} {:?}", std::error::Error::source(&error)),
    ];
    for text in &written {
        assert!(!text.contains("s3cret"), "{text}");
    }
    // The debug output identifies the event. `Display` shows the reasons.
    assert!(written[0].contains("\"1\"") && written[0].contains("\"a\""));
    assert!(written[1].contains("\"a\""), "{}", written[1]);
    assert_eq!(
        letter.to_string(),
        "a 1 dead after 1 attempt: a failed: s3cret reason, * panicked: s3cret panic"
    );
}

/// The bug: attempts and letters displayed the sender's strings unescaped, including line breaks.
#[tokio::test]
async fn attempts_and_letters_display_on_one_line_with_any_name() {
    let written = Arc::new(Mutex::new(Vec::new()));
    let write = Arc::clone(&written);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .on_attempt(move |delivery| write.lock().unwrap().push(delivery.to_string())),
        )
        .build(EventRouter::new().on_any(|_: Event| async { Err::<(), _>("no") }));
    accept(&inbox, "a\r\nWARN b", "1\n\u{1b}[31m2 é").await;
    wait_idle(&inbox.handle()).await;
    let letter = all(&inbox).await.remove(0).to_string();
    let named = r"a\r\nWARN b 1\n\u{1b}[31m2 é dead";
    assert_eq!(*written.lock().unwrap(), [format!("{named}: * failed: no")]);
    assert_eq!(letter, format!("{named} after 1 attempt: * failed: no"));
}

#[tokio::test]
async fn stats_and_letters_serialize_under_the_names_of_their_fields_and_without_the_body() {
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build(
            EventRouter::new()
                .on("a", |_: Event| async { Err::<(), _>("no") })
                .on_any(|_: Event| async {}),
        );
    let event = mock("a", "1").data(serde_json::json!("s3cret")).to_event();
    inbox.accept(event).await.expect("the inbox has space");
    wait_idle(&inbox.handle()).await;

    let stats = inbox.handle().stats();
    let json = serde_json::to_value(stats).expect("stats serialize");
    assert_eq!((&json["accepted"], &json["dead"]), (&1.into(), &1.into()));
    let members: Vec<_> = stats.iter().map(|(name, _)| name.to_owned()).collect();
    let debug = format!("{stats:?}");
    for name in &members {
        assert!(
            debug.contains(&format!("{name}: {}", json[name])),
            "{debug}"
        );
    }
    assert_eq!(members.len(), debug.matches(": ").count(), "{debug}");

    let letter = all(&inbox).await.remove(0);
    let json = serde_json::to_value(&letter).expect("a letter serializes");
    assert_eq!(json["message_id"], "1");
    assert_eq!(json["event_type"], "a");
    assert_eq!(
        json["routes"],
        serde_json::json!([
            {"route": "a", "reason": "failed: no"},
            {"route": "*", "reason": null},
        ])
    );
    assert!(json["ended_at"].is_u64(), "{json}");
    assert!(!json.to_string().contains("s3cret"), "{json}");
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

#[tokio::test(start_paused = true)]
async fn if_an_errors_display_fails_the_reason_names_its_kind() {
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build(EventRouter::new().on("a", |_: Event| async { Err::<(), _>(Unspeakable) }));
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(ends(&all(&inbox).await[0]), [("a", Some("failed"))]);
}

/// If a layer runs a failed route in no further attempt, the route counts as dropped. Before a fix, each attempt added the
/// success of the layer to the route's reason.
#[tokio::test(start_paused = true)]
async fn a_route_that_a_layer_hid_from_the_event_counts_as_dropped() {
    let router = EventRouter::new().on("a", |_: Event| async { Err::<(), _>("failed") });
    let attempts = Arc::new(AtomicU32::new(0));
    let service = tower::service_fn(move |event: Event| {
        let first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        let mut router = router.clone();
        async move {
            if first {
                tower::Service::call(&mut router, event).await
            } else {
                Ok(Report::default())
            }
        }
    });
    let inbox = MemoryInbox::new(service);
    accept(&inbox, "a", "1").await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(
        ends(&all(&inbox).await[0]),
        [("service", None), ("a", Some("dropped"))]
    );
}

#[test]
fn the_counts_balance_at_every_read_while_letters_are_added_and_removed() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let turn = Arc::new(AtomicU64::new(0));
    let router = EventRouter::new().on("a", move |_: Event| async move {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        if turn.is_multiple_of(3) {
            Ok(())
        } else {
            Err("failed")
        }
    });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(4)
                .ordering_key(|event: &Event| event.id().get(..1).map(str::to_owned))
                .block_key_on_dead_letter(),
        )
        .max_events(16)
        .max_dead_letters(8)
        .build(router);
    let (handle, stop) = (inbox.handle(), Arc::new(AtomicBool::new(false)));
    let (reader, stopped) = (handle.clone(), Arc::clone(&stop));
    let reader = std::thread::spawn(move || {
        let mut reads = 0_u64;
        while !stopped.load(Ordering::Relaxed) {
            let stats = reader.stats();
            balanced(&stats);
            assert!(stats.dead_letters <= 8, "{stats:?}");
            reads += 1;
        }
        reads
    });
    runtime.block_on(async {
        let senders = (0..3).map(|sender| {
            let inbox = inbox.clone();
            tokio::spawn(async move {
                for i in 0..500 {
                    let id = format!("{}-{sender}-{i}", i % 5);
                    let _ = inbox.accept(mock("a", &id).to_event()).await;
                    tokio::task::yield_now().await;
                }
            })
        });
        let keepers = (0..2).map(|keeper| {
            let (dead, stopped) = (letters(&inbox), Arc::clone(&stop));
            tokio::spawn(async move {
                while !stopped.load(Ordering::Relaxed) {
                    for (i, letter) in dead.list(None, 3).await.unwrap().iter().enumerate() {
                        let done = if (i + keeper) % 2 == 0 {
                            dead.replay(letter.id()).await
                        } else {
                            dead.delete(letter.id()).await
                        };
                        drop(done);
                    }
                    tokio::task::yield_now().await;
                }
            })
        });
        let keepers: Vec<_> = keepers.collect();
        for sender in senders.collect::<Vec<_>>() {
            sender.await.unwrap();
        }
        // Until `stop` is set, the keepers replay or delete the letters that still block other events. A replay may follow, so the
        // inbox may already be busy again.
        inbox.handle().wait_idle().await;
        stop.store(true, Ordering::Relaxed);
        for keeper in keepers {
            keeper.await.unwrap();
        }
        // Delete the letters that remain after the last replays.
        for letter in all(&inbox).await {
            letters(&inbox).delete(letter.id()).await.unwrap();
        }
        wait_idle(&inbox.handle()).await;
    });
    assert!(reader.join().unwrap() > 0);
    let stats = handle.stats();
    balanced(&stats);
    assert_eq!(
        (stats.in_flight(), stats.bytes, stats.dead_letters),
        (0, 0, 0)
    );
    assert!(
        stats.replayed > 0 && stats.dead > stats.replayed,
        "{stats:?}"
    );
}
