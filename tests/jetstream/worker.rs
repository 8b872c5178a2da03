//! The workers on JetStream: the route that runs an event, how many times the route runs, and how the event
//! ends.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::kit::{Log, Runs, balanced, delivery, inbox, send, set_up, settings, wait_idle, worker};
use crate::support::nats::{self, Server, until};
use crate::support::open_telemetry::{adopt, capture, collect};
use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, ErrorKind, Event, EventRouter, HandlerError, HealthProblemKind, Inbox,
    JetStreamInbox, JetStreamWorker, Pattern, RetryPolicy, StartAt, StreamSettings, WebhookLayer,
};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::Full;
use tokio::sync::{Notify, Semaphore};

/// Event types that would break a connection if a subject contained them unencoded, and similar types.
fn hostile() -> Vec<String> {
    let mut hostile: Vec<String> = [
        " ",
        "a b",
        "a\tb",
        "a\r\nb",
        "\0",
        "\u{1}",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{2000}",
        "\u{2003}",
        "\u{2028}",
        "\u{3000}",
        "\u{feff}",
        "*",
        ">",
        "a.*",
        "a.>",
        "*.b",
        ">.b",
        "$",
        "$JS.API.STREAM.DELETE.BOTISIMO",
        "a.$",
        "$.a",
        "a..b",
        ".",
        "..",
        ".a",
        "a.",
        "=",
        "=20",
        "=long",
        "=long.$",
        "a=b",
        "a/b",
        "a\\b",
        "\"",
        "'",
        "é",
        "日本語",
        "🦀",
        "%",
        "_INBOX.x",
        "-",
        "_",
    ]
    .map(str::to_owned)
    .into();
    hostile.extend([
        "x".repeat(255),
        "\u{1}".repeat(255),
        ".".repeat(255),
        "é".repeat(127),
    ]);
    hostile
}

#[tokio::test]
async fn each_route_gets_the_events_that_match_it() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let mut router = EventRouter::new()
        .on("a.b", runs.noting("exact"))
        .named("exact")
        .on("a.b.*", runs.noting("below"))
        .named("below")
        .on_prefix("a.b", runs.noting("prefix"))
        .named("prefix")
        .on("a. .*", runs.noting("space"))
        .named("space")
        .on("a..b", runs.noting("empty"))
        .named("empty")
        .on_any(runs.noting("any"))
        .named("any")
        .fallback(runs.noting("rest"))
        .named("rest");
    // The filter of this pattern would be too long.
    let long = "\u{1}".repeat(200);
    router = router
        .on_prefix(&long, runs.noting("long"))
        .named("long prefix");
    let types = [
        "a",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "a.bc",
        "a.b.",
        "a..b",
        "a.",
        "A.b",
        "a. ",
        "a. .b",
        "b",
        "$",
        "a.b.$",
        "a.$.b",
        "=long",
        "account.updated",
        &long,
        &format!("{long}.x"),
        &format!("a.b.{long}"),
        &format!("z.{long}"),
    ];
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (i, event_type) in types.iter().enumerate() {
        send(&inbox, event_type, &i.to_string()).await;
        for route in router.matching_routes(*event_type) {
            let name = if route.name() == "long prefix" {
                "long"
            } else {
                route.name()
            };
            expected
                .entry(name.to_owned())
                .or_default()
                .push(i.to_string());
        }
    }
    let count: usize = expected.values().map(Vec::len).sum();
    let worker = worker(&context)
        .deliver_fallback()
        .start(router)
        .await
        .unwrap();
    until("all routes have run", async || runs.count() >= count).await;
    assert_eq!(worker.drain(nats::TIMEOUT).await.remaining, 0);
    let mut ran: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (route, id, attempt) in runs.all() {
        assert_eq!(attempt, 1);
        ran.entry(route).or_default().push(id);
    }
    ran.values_mut()
        .chain(expected.values_mut())
        .for_each(|ids| ids.sort());
    assert_eq!(ran, expected);
    balanced(&worker.stats());
}

#[tokio::test]
async fn hostile_event_types_and_ids_are_handled_once_and_nothing_disconnects() {
    let server = Server::start().await;
    let (front, back) = (server.context().await, server.context().await);
    let runs = Runs::default();
    let inbox = inbox(&front).await;
    let worker = worker(&back)
        .start(EventRouter::new().on_any(runs.noting("any")))
        .await
        .unwrap();
    let hostile = hostile();
    for (i, event_type) in hostile.iter().enumerate() {
        let id = format!("{}{i}", event_type.chars().take(60).collect::<String>());
        send(&inbox, event_type, &id).await;
        let copy = MockRequest::event(event_type.as_str())
            .message_id(&id)
            .to_event();
        assert_eq!(
            inbox.accept(copy).await,
            Ok(Accepted::Duplicate),
            "{event_type:?}"
        );
    }
    // The events with the longest types have a second consumer, whose acknowledgements also count.
    until("all events have run", async || {
        runs.count() >= hostile.len()
    })
    .await;
    wait_idle(&worker, hostile.len() as u64).await;
    let mut times: HashMap<String, u32> = HashMap::new();
    for (_, id, attempt) in runs.all() {
        assert_eq!(attempt, 1, "{id:?}");
        *times.entry(id).or_default() += 1;
    }
    assert_eq!(times.len(), hostile.len());
    assert!(times.values().all(|times| *times == 1));
    for context in [front, back] {
        let connects = &context.client().statistics().connects;
        assert_eq!(connects.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn of_a_thousand_copies_through_two_receivers_one_is_handled() {
    let server = Server::start().await;
    let contexts = [server.context().await, server.context().await];
    let inboxes = [inbox(&contexts[0]).await, inbox(&contexts[1]).await];
    let runs = Runs::default();
    let worker = worker(&contexts[0]).start(EventRouter::new().on_any(runs.noting("any")));
    let worker = worker.await.unwrap();
    let copy = MockRequest::event("a").message_id("1").to_event();
    let copies = (0..1000).map(|i| inboxes[i % 2].accept(copy.clone()));
    futures_util::future::join_all(copies).await;
    send(&inboxes[0], "a", "2").await;
    wait_idle(&worker, 2).await;
    let ids: Vec<_> = runs.all().into_iter().map(|run| run.1).collect();
    assert_eq!(ids, ["1", "2"]);
    assert_eq!(worker.stats().taken, 2);
}

#[tokio::test]
async fn events_that_wait_long_are_warned_of() {
    let log = Log::capture();
    let server = Server::start().await;
    let context = server.context().await;
    let short = StreamSettings::new()
        .max_age(Duration::from_secs(12))
        .create_if_missing();
    let builder = JetStreamInbox::builder(context.clone()).stream(short.clone());
    let inbox = builder.open().await.unwrap();
    send(&inbox, "a", "1").await;
    let sent = std::time::Instant::now();
    until("the event has waited", async || {
        sent.elapsed() > Duration::from_millis(6100)
    })
    .await;
    let runs = Runs::default();
    let worker = worker(&context).stream(short);
    let worker = worker.start(EventRouter::new().on("a", runs.noting("a")));
    let worker = worker.await.unwrap();
    wait_idle(&worker, 1).await;
    let warnings = log.count("events are waiting longer than half of the stream's `max_age`");
    assert_eq!(warnings, 1, "{}", log.text());
    let late: Vec<_> = worker.health().problems().to_vec();
    assert_eq!(late[0].kind(), HealthProblemKind::EventsDelayed);
    assert_eq!((late.len(), late[0].route()), (1, Some("a")));
    // An event in time ends the problem.
    send(&inbox, "a", "2").await;
    wait_idle(&worker, 2).await;
    assert!(worker.health().is_ok());
}

#[tokio::test]
async fn only_the_route_that_failed_runs_again() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let failing = runs.clone();
    let router = EventRouter::new()
        .on("account.updated", runs.noting("good"))
        .named("good")
        .on("account.updated", |event: Event| async move {
            failing.add("bad", &event);
            if event.attempt() < 3 {
                Err("not yet")
            } else {
                Ok(())
            }
        })
        .named("bad");
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, "account.updated", "1").await;
    wait_idle(&worker, 2).await;
    assert_eq!(runs.of("good"), [("1".to_owned(), 1)]);
    let bad = [1, 2, 3].map(|attempt| ("1".to_owned(), attempt));
    assert_eq!(runs.of("bad"), bad);
    let stats = worker.stats();
    assert_eq!(
        (stats.taken, stats.acked, stats.retried, stats.dead),
        (4, 2, 2, 0)
    );
}

#[tokio::test]
async fn a_panic_a_hang_and_a_wrong_payload_affect_only_their_own_route() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async { panic!("oh") })
        .named("panics")
        .on("account.updated", |_: Event| std::future::pending::<()>())
        .named("hangs")
        .on("account.updated", |_: Event<u32>| async {})
        .named("mismatches")
        .on("account.updated", runs.noting("good"))
        .named("good");
    let worker = worker(&context)
        .delivery(
            delivery()
                .retry(RetryPolicy::no_retry())
                .attempt_timeout(Duration::from_millis(200)),
        )
        .start(router)
        .await
        .unwrap();
    send(&inbox, "account.updated", "1").await;
    wait_idle(&worker, 4).await;
    assert_eq!(runs.of("good"), [("1".to_owned(), 1)]);
    let letters = worker.dead_letters().list(None, 10).await.unwrap();
    let ends: BTreeMap<_, _> = letters
        .iter()
        .flat_map(|letter| letter.routes())
        .map(|end| (end.route(), end.reason().unwrap()))
        .collect();
    assert_eq!(ends["panics"], "panicked: oh");
    assert_eq!(ends["hangs"], "timed out");
    assert!(ends["mismatches"].starts_with("mismatched: "), "{ends:?}");
    assert_eq!(ends.len(), 3);
}

#[tokio::test]
async fn dead_letters_can_be_listed_replayed_and_deleted() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let mended = Arc::new(AtomicU32::new(0));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on_any(runs.noting("good"))
        .on_prefix("poll", |event: Event| async move {
            failing.add("bad", &event);
            if flag.load(Ordering::Relaxed) == 0 {
                return Err(HandlerError::from("a reason of\r\nseveral lines, é"));
            }
            Ok(())
        })
        .named("bad");
    let told = Arc::new(AtomicU32::new(0));
    let tell = Arc::clone(&told);
    let worker = worker(&context)
        .delivery(
            delivery()
                .retry(
                    RetryPolicy::new()
                        .max_attempts(2)
                        .initial_delay(Duration::ZERO),
                )
                .on_dead_letter(move |_| {
                    tell.fetch_add(1, Ordering::Relaxed);
                }),
        )
        .start(router)
        .await
        .unwrap();
    let dead = worker.dead_letters();
    let request = MockRequest::event("poll.created").message_id("1").data("é");
    let event = request.to_event();
    inbox.accept(event.clone()).await.unwrap();
    send(&inbox, "poll.updated", "2").await;
    send(&inbox, "poll", "3").await;
    wait_idle(&worker, 6).await;
    assert_eq!(worker.stats().dead, 3);
    until("the hook is called", async || {
        told.load(Ordering::Relaxed) == 3
    })
    .await;

    let letters = dead.list(None, 10).await.unwrap();
    assert_eq!(letters.len(), 3);
    let letter = letters
        .iter()
        .find(|letter| letter.message_id() == "1")
        .unwrap();
    assert_eq!(letter.body(), event.body());
    assert_eq!(letter.event().unwrap().event_type(), event.event_type());
    assert_eq!(letter.attempts(), 2);
    assert_eq!(letter.routes().len(), 1);
    let end = &letter.routes()[0];
    assert_eq!(
        (end.route(), end.reason()),
        ("bad", Some("failed: a reason of\r\nseveral lines, é"))
    );
    let millis = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_millis()
    };
    assert_eq!(millis(letter.received_at()), millis(event.received_at()));
    assert!(letter.dead_lettered_at() >= letter.received_at());
    // Letters can be listed by page and found by id.
    let first = dead.list(None, 1).await.unwrap();
    let rest = dead.list(Some(first[0].id()), 10).await.unwrap();
    assert_eq!((first.len(), rest.len()), (1, 2));
    assert_eq!(
        dead.get(letter.id()).await.unwrap().unwrap().message_id(),
        "1"
    );
    assert!(dead.get(u64::MAX / 2).await.unwrap().is_none());

    // A replay runs only the failed route, and its attempts restart at 1.
    mended.store(1, Ordering::Relaxed);
    assert!(dead.replay(letter.id()).await.unwrap());
    assert!(!dead.replay(letter.id()).await.unwrap());
    until("the route has run", async || runs.of("bad").len() == 7).await;
    assert_eq!(runs.of("bad")[6], ("1".to_owned(), 1));
    assert_eq!(
        dead.replay_matching(&Pattern::new("poll.*").unwrap())
            .await
            .unwrap(),
        1
    );
    until("the route has run", async || runs.of("bad").len() == 8).await;
    wait_idle(&worker, 10).await;
    assert_eq!(runs.of("good").len(), 3);
    assert_eq!(worker.stats().replayed, 2);

    let left = dead.list(None, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].message_id(), "3");
    assert_eq!(dead.prune(Duration::from_secs(3600)).await.unwrap(), 0);
    assert!(dead.delete(left[0].id()).await.unwrap());
    assert!(!dead.delete(left[0].id()).await.unwrap());
    assert!(dead.list(None, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn of_an_event_type_that_is_too_long_all_routes_share_a_letter_and_the_failed_one_is_replayed()
 {
    let (_server, context, inbox) = set_up("").await;
    let (runs, mended) = (Runs::default(), Arc::new(AtomicU32::new(0)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on("a.*", runs.noting("good"))
        .on_prefix("a", |event: Event| async move {
            failing.add("bad", &event);
            match flag.load(Ordering::Relaxed) {
                0 => Err(HandlerError::permanent("no")),
                _ => Ok(()),
            }
        })
        .named("bad")
        .on("b", runs.noting("other"))
        .on_any(runs.noting("any"));
    let worker = worker(&context).start(router).await.unwrap();
    let long = format!("a.{}", "\u{1}".repeat(250));
    send(&inbox, &long, "1").await;
    wait_idle(&worker, 2).await;
    let dead = worker.dead_letters();
    let letters = dead.list(None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let ends: BTreeMap<_, _> = letters[0]
        .routes()
        .iter()
        .map(|end| (end.route(), end.reason()))
        .collect();
    assert_eq!(
        ends,
        BTreeMap::from([("a.*", None), ("bad", Some("failed: no"))])
    );
    mended.store(1, Ordering::Relaxed);
    assert!(dead.replay(letters[0].id()).await.unwrap());
    wait_idle(&worker, 4).await;
    assert_eq!(runs.of("bad").len(), 2);
    assert_eq!(
        (
            runs.of("good").len(),
            runs.of("any").len(),
            runs.of("other").len()
        ),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn letters_are_pruned_by_age() {
    let (_server, context, inbox) = set_up("").await;
    let router = EventRouter::new().on_any(|_: Event| async { Err(HandlerError::permanent("no")) });
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    send(&inbox, "a", "2").await;
    wait_idle(&worker, 2).await;
    let dead = worker.dead_letters();
    until("some time has passed", async || {
        dead.prune(Duration::ZERO).await.unwrap() > 0
    })
    .await;
    until("both letters are deleted", async || {
        dead.prune(Duration::ZERO).await.unwrap();
        dead.list(None, 10).await.unwrap().is_empty()
    })
    .await;
}

#[tokio::test]
async fn the_trace_context_of_an_event_reaches_its_handler_its_dead_letter_and_its_replay() {
    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (_server, context, inbox) = set_up("").await;
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let traces = Arc::clone(&seen);
    let router = EventRouter::new().on_any(|event: Event| async move {
        let traceparent = event.traceparent().map(str::to_owned);
        traces.lock().unwrap().push(traceparent);
        Err::<(), _>(HandlerError::permanent("no"))
    });
    let worker = worker(&context).start(router).await.unwrap();
    let traced = MockRequest::event("a").header("traceparent", TRACEPARENT);
    assert_eq!(inbox.accept(traced.to_event()).await, Ok(Accepted::New));
    wait_idle(&worker, 1).await;
    let dead = worker.dead_letters();
    let letter = dead.list(None, 10).await.unwrap().remove(0);
    assert_eq!(letter.event().unwrap().traceparent(), Some(TRACEPARENT));
    assert!(dead.replay(letter.id()).await.unwrap());
    wait_idle(&worker, 2).await;
    let traced = Some(TRACEPARENT.to_owned());
    assert_eq!(*seen.lock().unwrap(), [traced.clone(), traced]);
    send(&inbox, "a", "untraced").await;
    wait_idle(&worker, 3).await;
    assert_eq!(seen.lock().unwrap()[2], None);
}

#[tokio::test]
async fn each_group_has_its_own_letters() {
    let (_server, context, inbox) = set_up("").await;
    let router = EventRouter::new().on_any(|_: Event| async { Err(HandlerError::permanent("no")) });
    let team = worker(&context).start(router.clone()).await.unwrap();
    let mail = JetStreamWorker::builder(context.clone(), "mail").stream(settings());
    let mail = mail.start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&team, 1).await;
    wait_idle(&mail, 1).await;
    let letters = team.dead_letters().list(None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(
        mail.dead_letters()
            .get(letters[0].id())
            .await
            .unwrap()
            .is_none()
    );
    assert!(!mail.dead_letters().delete(letters[0].id()).await.unwrap());
    assert!(!mail.dead_letters().replay(letters[0].id()).await.unwrap());
    assert_eq!(mail.dead_letters().list(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_route_that_stalls_affects_no_other_route() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let (waiting, started) = (Arc::clone(&gate), runs.clone());
    let router = EventRouter::new()
        .on_any(runs.noting("quick"))
        .on_prefix("a", |event: Event| async move {
            started.add("slow", &event);
            waiting.acquire().await.unwrap().forget();
        })
        .named("slow")
        .concurrency(2);
    let worker = worker(&context).start(router).await.unwrap();
    for id in 0..20 {
        send(&inbox, "a", &id.to_string()).await;
    }
    until("the other routes have run", async || {
        runs.of("quick").len() == 20
    })
    .await;
    until("the route uses all its permits", async || {
        runs.of("slow").len() == 2
    })
    .await;
    until("no more events run", async || worker.stats().running == 2).await;
    gate.add_permits(20);
    wait_idle(&worker, 40).await;
    assert_eq!(runs.of("slow").len(), 20);
}

#[tokio::test]
async fn a_handler_may_take_longer_than_ack_wait() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, gate) = (Runs::default(), Arc::new(Notify::new()));
    let (waiting, started) = (Arc::clone(&gate), runs.clone());
    let router = EventRouter::new().on("a", |event: Event| async move {
        started.add("slow", &event);
        waiting.notified().await;
    });
    let start = || {
        worker(&context)
            .ack_wait(Duration::from_secs(3))
            .start(router.clone())
    };
    let (one, other) = (start().await.unwrap(), start().await.unwrap());
    let signs = context
        .client()
        .subscribe("$JS.ACK.BOTISIMO.team-a.>")
        .await;
    let mut signs = signs.unwrap();
    send(&inbox, "a", "1").await;
    until("the handler has begun", async || runs.count() == 1).await;
    // The worker sends three progress signals within one `ack_wait`, so four signals take longer than one
    // `ack_wait`.
    for _ in 0..4 {
        let sign = tokio::time::timeout(nats::TIMEOUT, signs.next()).await;
        assert_eq!(sign.unwrap().unwrap().payload, "+WPI");
    }
    assert_eq!(runs.count(), 1);
    gate.notify_one();
    until("the handler has ended", async || {
        one.stats().acked + other.stats().acked == 1
    })
    .await;
    assert_eq!(one.stats().taken + other.stats().taken, 1);
}

#[tokio::test]
async fn a_drain_returns_events_at_once_to_another_worker() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let (waiting, started) = (Arc::clone(&gate), runs.clone());
    let router = EventRouter::new().on("a", |event: Event| async move {
        started.add("one", &event);
        waiting.acquire().await.unwrap().forget();
    });
    // Without the drain, the server wouldn't redeliver these events during the test.
    let start = || worker(&context).ack_wait(Duration::from_secs(600));
    let one = start()
        .delivery(delivery().concurrency(1))
        .start(router)
        .await
        .unwrap();
    send(&inbox, "a", "1").await;
    until("the handler has begun", async || runs.count() == 1).await;
    assert_eq!(one.drain(Duration::ZERO).await.remaining, 1);
    for id in 2..12 {
        send(&inbox, "a", &id.to_string()).await;
    }
    let other = start()
        .start(EventRouter::new().on("a", runs.noting("other")))
        .await
        .unwrap();
    until("the other worker has run the events", async || {
        runs.of("other").len() == 10
    })
    .await;
    gate.add_permits(1);
    assert_eq!(one.drain(nats::TIMEOUT).await.remaining, 0);
    wait_idle(&other, 10).await;
    let stats = one.stats();
    balanced(&stats);
    assert_eq!((stats.acked, stats.running), (1, 0));
    assert_eq!(runs.of("one").len(), 1);
}

#[tokio::test]
async fn an_event_that_arrives_during_a_drain_is_returned_without_an_attempt() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let start = || {
        worker(&context)
            .ack_wait(Duration::from_secs(600))
            .start(router.clone())
    };
    let one = start().await.unwrap();
    // Wait until the server has received the worker's pull, which the next event then answers.
    let consumer: PullConsumer = context
        .get_consumer_from_stream("team-a", "BOTISIMO")
        .await
        .unwrap();
    until("it pulls", async || {
        consumer.get_info().await.unwrap().num_waiting > 0
    })
    .await;
    let drained = tokio::spawn(one.drain(nats::TIMEOUT));
    // The drain starts at its first poll.
    tokio::task::yield_now().await;
    send(&inbox, "a", "1").await;
    assert_eq!(drained.await.unwrap().remaining, 0);
    let stats = one.stats();
    balanced(&stats);
    assert_eq!((stats.taken, stats.returned), (1, 1));
    assert_eq!(runs.count(), 0);
    let other = start().await.unwrap();
    wait_idle(&other, 1).await;
    // The first worker's delivery counts, although the worker returned the event, so this attempt has the number 2.
    assert_eq!(runs.all(), [("a".to_owned(), "1".to_owned(), 2)]);
}

#[tokio::test]
async fn each_group_gets_every_event_and_its_workers_share_them() {
    let (_server, context, inbox) = set_up("").await;
    let (team, mail) = (Runs::default(), Runs::default());
    let start = |group: &str, runs: &Runs| {
        let builder = JetStreamWorker::builder(context.clone(), group).stream(settings());
        builder.start(EventRouter::new().on_any(runs.noting("any")))
    };
    let one = start("team", &team).await.unwrap();
    let other = start("team", &team).await.unwrap();
    let third = start("mail", &mail).await.unwrap();
    for id in 0..50 {
        send(&inbox, "a", &id.to_string()).await;
    }
    wait_idle(&third, 50).await;
    until("both groups are done", async || {
        one.stats().acked + other.stats().acked == 50
    })
    .await;
    assert_eq!((team.count(), mail.count()), (50, 50));
}

#[tokio::test]
async fn a_group_begins_with_the_oldest_event_and_a_route_added_later_with_the_next_event() {
    let (_server, context, inbox) = set_up("").await;
    send(&inbox, "a", "1").await;
    let runs = Runs::default();
    let first = EventRouter::new().on("a", runs.noting("first"));
    let one = worker(&context).start(first.clone()).await.unwrap();
    wait_idle(&one, 1).await;
    assert_eq!(one.drain(nats::TIMEOUT).await.remaining, 0);
    let both = first.on_prefix("a", runs.noting("second"));
    let two = worker(&context).start(both.clone()).await.unwrap();
    send(&inbox, "a", "2").await;
    wait_idle(&two, 2).await;
    assert_eq!(runs.of("first").len(), 2);
    assert_eq!(runs.of("second"), [("2".to_owned(), 1)]);
    // Both starting points can be set.
    let third = both.on_any(runs.noting("third"));
    let three = worker(&context).new_routes(StartAt::Beginning);
    let three = three.start(third).await.unwrap();
    wait_idle(&three, 2).await;
    assert_eq!(runs.of("third").len(), 2);
    let late = JetStreamWorker::builder(context.clone(), "late").stream(settings());
    let late = late.first_start(StartAt::Now);
    let late = late
        .start(EventRouter::new().on("a", runs.noting("late")))
        .await
        .unwrap();
    send(&inbox, "a", "3").await;
    wait_idle(&late, 1).await;
    assert_eq!(runs.of("late"), [("3".to_owned(), 1)]);
}

#[tokio::test]
async fn workers_that_start_a_group_at_the_same_time_lose_nothing() {
    let (_server, context, inbox) = set_up("").await;
    send(&inbox, "a", "1").await;
    let runs = Runs::default();
    let router = EventRouter::new()
        .on("a", runs.noting("exact"))
        .on_prefix("a", runs.noting("prefix"))
        .on_any(runs.noting("any"));
    let start = || worker(&context).start(router.clone());
    let started = futures_util::future::join_all((0..6).map(|_| start())).await;
    started.into_iter().for_each(|worker| drop(worker.unwrap()));
    until("all routes have run", async || runs.count() == 3).await;
}

#[tokio::test]
async fn a_consumer_that_differs_is_an_error_and_stays_unchanged() {
    let server = Server::start().await;
    let context = server.context().await;
    inbox(&context).await;
    let router = EventRouter::new().on("a", |_: Event| async {});
    let first = worker(&context).start(router.clone()).await.unwrap();
    // A running worker would restore the consumer.
    assert_eq!(first.drain(nats::TIMEOUT).await.remaining, 0);
    let consumer: PullConsumer = context
        .get_consumer_from_stream("team-a", "BOTISIMO")
        .await
        .unwrap();
    let before = consumer.cached_info().config.clone();
    let error = worker(&context)
        .route_max_ack_pending("a", 7)
        .start(router.clone())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    let text = error.to_string();
    assert!(text.contains("max_ack_pending is 10000, not 7"), "{text}");
    let error = worker(&context)
        .ack_wait(Duration::from_secs(7))
        .start(router.clone())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("ack_wait is 30s, not 7s"),
        "{error}"
    );
    // This route has the name of the earlier route and another pattern.
    let other = EventRouter::new().on("b", |_: Event| async {}).named("a");
    let error = worker(&context).start(other).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(r#"filter_subject is ["botisimo.a.$"], not ["botisimo.b.$"]"#),
        "{text}"
    );
    let consumer: PullConsumer = context
        .get_consumer_from_stream("team-a", "BOTISIMO")
        .await
        .unwrap();
    assert_eq!(consumer.cached_info().config, before);
    // If a consumer has several filters, `filter_subject` shows none of them.
    context
        .delete_consumer_from_stream("team-a", "BOTISIMO")
        .await
        .unwrap();
    let config = pull::Config {
        durable_name: Some("team-a".to_owned()),
        filter_subjects: vec!["botisimo.a.$".to_owned(), "botisimo.b.$".to_owned()],
        max_ack_pending: 10_000,
        ack_wait: Duration::from_secs(30),
        deliver_policy: DeliverPolicy::All,
        ..pull::Config::default()
    };
    context
        .create_consumer_on_stream(config, "BOTISIMO")
        .await
        .unwrap();
    let error = worker(&context).start(router).await.unwrap_err();
    assert!(error.to_string().contains("filter_subject is"), "{error}");
}

#[tokio::test]
async fn the_fallback_gets_nothing_without_deliver_fallback() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let router = EventRouter::new()
        .on("a", runs.noting("a"))
        .fallback(runs.noting("rest"));
    let one = worker(&context).start(router.clone()).await.unwrap();
    send(&inbox, "b", "1").await;
    send(&inbox, "a", "2").await;
    wait_idle(&one, 1).await;
    assert_eq!(one.drain(nats::TIMEOUT).await.remaining, 0);
    assert_eq!(runs.all(), [("a".to_owned(), "2".to_owned(), 1)]);
    let two = worker(&context)
        .deliver_fallback()
        .new_routes(StartAt::Beginning);
    let two = two.start(router).await.unwrap();
    wait_idle(&two, 2).await;
    assert_eq!(runs.of("rest"), [("1".to_owned(), 1)]);
}

#[tokio::test]
async fn a_worker_with_an_ordering_key_doesnt_start() {
    let server = Server::start().await;
    let context = server.context().await;
    let error = worker(&context)
        .delivery(delivery().ordering_key(|event: &Event| Some(event.id().to_owned())))
        .start(EventRouter::new())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    let text = error.to_string();
    assert!(text.contains("remove `ordering_key`"), "{text}");
}

#[tokio::test]
async fn a_worker_with_a_route_that_runs_once_per_key_doesnt_start() {
    let (_server, context, _inbox) = set_up("").await;
    let router = EventRouter::new()
        .on("a", |_: Event| async {})
        .named("announce")
        .once_per(Duration::from_secs(60), |event| Some(event.id().to_owned()));
    let error = worker(&context).start(router).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Inbox);
    let text = error.to_string();
    let expected =
        "doesn't support `once_per`, which the route \"announce\" has: remove the option";
    assert!(text.contains(expected), "{text}");
}

#[tokio::test]
async fn names_and_settings_without_a_route_are_errors() {
    let server = Server::start().await;
    let context = server.context().await;
    let router = EventRouter::new().on("a", |_: Event| async {});
    for group in ["", "a-b", "a.b", "é", &"g".repeat(65)] {
        let builder = JetStreamWorker::builder(context.clone(), group).stream(settings());
        let error = builder.start(router.clone()).await.unwrap_err();
        assert!(
            error.to_string().starts_with("a group is 1 to 64"),
            "{error}"
        );
    }
    let error = worker(&context)
        .route_max_ack_pending("b", 1)
        .start(router.clone())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Route);
    let elsewhere = StreamSettings::new().name("ELSEWHERE");
    let error = worker(&context)
        .stream(elsewhere)
        .start(router)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no stream ELSEWHERE: create it, or set `create_if_missing`"
    );
}

#[tokio::test]
async fn routes_of_any_name_have_a_consumer() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let mut router = EventRouter::new();
    let mut names = hostile();
    names.push("n".repeat(5000));
    names.push("n".repeat(5001));
    names.push(String::new());
    for name in &names {
        router = router.on("a", runs.noting("ran")).named(name.as_str());
    }
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&worker, names.len() as u64).await;
    assert_eq!(runs.count(), names.len());
}

#[tokio::test]
async fn a_body_that_cant_be_decoded_is_a_dead_letter() {
    let server = Server::start().await;
    let context = server.context().await;
    inbox(&context).await;
    let runs = Runs::default();
    let worker = worker(&context)
        .start(EventRouter::new().on_any(runs.noting("any")))
        .await
        .unwrap();
    context
        .publish("botisimo.a.$", "{\"no\": \"event\"}".into())
        .await
        .unwrap()
        .await
        .unwrap();
    wait_idle(&worker, 1).await;
    let letters = worker.dead_letters().list(None, 10).await.unwrap();
    assert_eq!(letters[0].body(), "{\"no\": \"event\"}");
    assert_eq!(
        letters[0].cause(),
        Some("it can't be decoded: `messageId` is missing")
    );
    assert!(letters[0].event().is_err());
    let error = worker
        .dead_letters()
        .replay(letters[0].id())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Envelope);
    assert_eq!(runs.count(), 0);
}

#[tokio::test]
async fn an_event_whose_attempts_never_end_is_dead_lettered() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let build = || worker(&context).delivery(delivery().retry(RetryPolicy::new().max_attempts(2)));
    let idle = build().start(router.clone()).await.unwrap();
    assert_eq!(idle.drain(nats::TIMEOUT).await.remaining, 0);
    send(&inbox, "a", "1").await;
    // To the server, it looks as if the event's worker crashed at each delivery.
    let consumer: PullConsumer = context
        .get_consumer_from_stream("team-a", "BOTISIMO")
        .await
        .unwrap();
    for _ in 0..2 + 5 {
        let mut messages = consumer
            .fetch()
            .max_messages(1)
            .expires(nats::TIMEOUT)
            .messages()
            .await
            .unwrap();
        let message = messages.next().await.unwrap().unwrap();
        message.ack_with(AckKind::Nak(None)).await.unwrap();
    }
    let worker = build().start(router).await.unwrap();
    wait_idle(&worker, 1).await;
    assert_eq!((worker.stats().dead, runs.count()), (1, 0));
    let letters = worker.dead_letters().list(None, 10).await.unwrap();
    assert_eq!(
        letters[0].cause(),
        Some("it was delivered 7 times and never finished")
    );
    // A replay is a new message, so it starts at attempt 1.
    assert!(worker.dead_letters().replay(letters[0].id()).await.unwrap());
    wait_idle(&worker, 2).await;
    assert_eq!(runs.all(), [("a".to_owned(), "1".to_owned(), 1)]);
}

#[tokio::test]
async fn layers_of_tower_wrap_the_router() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let router = EventRouter::new()
        .on_any(runs.noting("quick"))
        .on("a", |_: Event| std::future::pending::<()>());
    let worker = worker(&context).delivery(delivery().retry(RetryPolicy::no_retry()));
    let worker = worker.start_layered(router, |router| {
        tower::ServiceBuilder::new()
            .timeout(Duration::from_millis(200))
            .service(router)
    });
    let worker = worker.await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    assert_eq!(runs.count(), 1);
    let letters = worker.dead_letters().list(None, 10).await.unwrap();
    assert_eq!(
        letters[0].routes()[0].reason(),
        Some("failed: request timed out")
    );
}

#[tokio::test]
async fn hooks_run_after_each_attempt() {
    let (_server, context, inbox) = set_up("").await;
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&told);
    let router = EventRouter::new().on("a", |event: Event| async move {
        if event.attempt() == 1 {
            Err("no")
        } else {
            Ok(())
        }
    });
    let worker = worker(&context)
        .delivery(
            delivery().on_attempt(move |delivery| log.lock().unwrap().push(delivery.to_string())),
        )
        .start(router)
        .await
        .unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 1).await;
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 2);
    assert!(
        told[0].starts_with("a 1 will be retried in 0.0ns: a failed: no"),
        "{told:?}"
    );
    assert_eq!(told[1], "a 1 handled: a handled");
}

#[tokio::test]
async fn a_retry_is_returned_with_its_delay() {
    let (_server, context, inbox) = set_up("").await;
    let router = EventRouter::new().on("a", |_: Event| async {
        Err::<(), _>(HandlerError::retry_after(Duration::from_secs(7), "not now"))
    });
    let _worker = worker(&context).start(router).await.unwrap();
    let acks = context
        .client()
        .subscribe("$JS.ACK.BOTISIMO.team-a.>")
        .await;
    let mut acks = acks.unwrap();
    send(&inbox, "a", "1").await;
    let returned = loop {
        let ack = tokio::time::timeout(nats::TIMEOUT, acks.next()).await;
        let ack = String::from_utf8(ack.unwrap().unwrap().payload.to_vec()).unwrap();
        if ack.starts_with("-NAK") {
            break ack;
        }
    };
    assert!(returned.contains("7000000000"), "{returned}");
}

/// The bug: the client's own double acknowledgement mistook the answer "no responders" for success.
#[tokio::test]
async fn an_acknowledgement_without_a_reply_doesnt_count() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, gate) = (Runs::default(), Arc::new(Notify::new()));
    let (waiting, started) = (Arc::clone(&gate), runs.clone());
    let router = EventRouter::new().on("a", |event: Event| async move {
        started.add("a", &event);
        waiting.notified().await;
    });
    let worker = worker(&context).ack_wait(Duration::from_secs(1));
    let worker = worker.start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    until("the handler has begun", async || runs.count() == 1).await;
    let events = context.get_stream("BOTISIMO").await.unwrap();
    events.delete_consumer("team-a").await.unwrap();
    gate.notify_one();
    until("the worker gets an answer or stops waiting", async || {
        let stats = worker.stats();
        stats.running == 0 && stats.acked + stats.retried > 0
    })
    .await;
    // The worker recreates the consumer. The server redelivers the event, and the worker doesn't run it.
    until("the worker has acknowledged the event", async || {
        worker.stats().acked == 1
    })
    .await;
    assert_eq!(runs.count(), 1);
    balanced(&worker.stats());
}

/// The bug: `replay_all` never returned, because each replayed letter became a new letter.
#[tokio::test]
async fn each_letter_of_a_pattern_is_replayed_once_even_if_it_fails_again() {
    let (_server, context, inbox) = set_up("").await;
    let router = EventRouter::new().on("a", |_: Event| async {
        Err::<(), _>(HandlerError::permanent("no"))
    });
    let worker = worker(&context).start(router).await.unwrap();
    for id in ["1", "2", "3"] {
        send(&inbox, "a", id).await;
    }
    until("all events are dead", async || worker.stats().dead == 3).await;
    let letters = worker.dead_letters();
    let pattern = Pattern::new("a").unwrap();
    let replayed = letters.replay_matching(&pattern);
    let replayed = tokio::time::timeout(nats::TIMEOUT, replayed).await;
    assert_eq!(replayed.unwrap().unwrap(), 3);
    until("all events are dead again", async || {
        worker.stats().dead == 6
    })
    .await;
}

/// The receiver and the worker may be in different processes, so only the stored `traceparent` connects them.
#[tokio::test]
async fn an_attempt_is_a_child_of_the_span_of_the_request_that_another_process_received() {
    let (spans, _guard) = collect();
    let (_server, context, inbox) = set_up("").await;
    let layer = WebhookLayer::new("/", inbox).capture_traceparent(capture);
    let request: http::Request<Full<Bytes>> = MockRequest::event("a").build();
    let call = tower::ServiceExt::oneshot(layer.endpoint(), request);
    let call = tracing::Instrument::instrument(call, tracing::info_span!("request"));
    assert_eq!(call.await.unwrap().status(), 200);
    let worker = worker(&context).delivery(delivery().adopt_traceparent(adopt));
    let router = EventRouter::new().on("a", |_: Event| async {});
    let worker = worker.start(router).await.unwrap();
    wait_idle(&worker, 1).await;
    let (request, attempt) = (spans.one("request"), spans.one("attempt"));
    let context = request.span_context;
    assert_eq!(attempt.span_context.trace_id(), context.trace_id());
    assert_eq!(attempt.parent_span_id, context.span_id());
}
