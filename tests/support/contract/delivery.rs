//! The laws of delivery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use super::runs::{Runs, event};
use super::{InboxFactory, attempts};
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventFilter, EventRouter, EventState, HandlerError, RetryPolicy,
};

/// A retry runs only the routes that failed.
pub(crate) async fn only_routes_that_failed_run_again(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let failing = runs.clone();
    let router =
        EventRouter::new()
            .on_prefix("a", runs.noting("good"))
            .on("a", |event: Event| async move {
                failing.add("bad", &event);
                if event.attempt() < 3 {
                    Err("not yet")
                } else {
                    Ok(())
                }
            });
    let opened = factory.open(router, attempts(5)).await;
    opened.accept(event("a", "1")).await;
    let done = || runs.count("good") >= 1 && runs.count("bad") >= 3;
    opened.until("both routes have finished", done).await;
    assert_eq!(runs.attempts("good"), [1]);
    assert_eq!(runs.attempts("bad"), [1, 2, 3]);
}

/// A route that always fails runs as many times as the retry policy allows.
pub(crate) async fn attempts_end_after_the_maximum(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let failing = runs.clone();
    let router = EventRouter::new().on("a", |event: Event| async move {
        failing.add("bad", &event);
        Err::<(), _>("never")
    });
    let opened = factory.open(router, attempts(3)).await;
    opened.accept(event("a", "1")).await;
    opened
        .until("the route has run", || runs.count("bad") >= 3)
        .await;
    assert_eq!(runs.attempts("bad"), [1, 2, 3]);
}

/// A permanent error and a payload that can't be decoded aren't retried.
pub(crate) async fn a_permanent_failure_is_not_retried(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let (failing, mismatch) = (runs.clone(), runs.clone());
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            failing.add("permanent", &event);
            Err::<(), _>(HandlerError::permanent("no"))
        })
        .on_prefix("a", |event: Event| async move {
            mismatch.add("mismatch", &event);
            event.decode::<u64>()?;
            Ok::<_, HandlerError>(())
        });
    let opened = factory.open(router, attempts(5)).await;
    opened.accept(event("a", "1")).await;
    let tried = || runs.count("permanent") >= 1 && runs.count("mismatch") >= 1;
    opened.until("both routes have run", tried).await;
    assert_eq!(runs.attempts("permanent"), [1]);
    assert_eq!(runs.attempts("mismatch"), [1]);
}

/// A handler that panics, hangs or can't decode its payload affects no other route of this event or of the next
/// event.
pub(crate) async fn a_handler_affects_only_its_own_route(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new()
        .on("a", |_: Event| async { panic!("on purpose") })
        .named("panics")
        .on("a", |event: Event| {
            assert!(event.id().is_empty(), "on purpose");
            std::future::ready(())
        })
        .named("panics when it is called")
        .on("a", |_: Event| std::future::pending::<()>())
        .named("hangs")
        .on("a", |_: Event<u64>| async {})
        .named("mismatches")
        .on_prefix("a", runs.noting("good"));
    let delivery = attempts(1).attempt_timeout(Duration::from_millis(200));
    let opened = factory.open(router, delivery).await;
    opened.accept(event("a", "1")).await;
    opened.accept(event("a", "2")).await;
    opened
        .until("both routes have run", || runs.count("good") >= 2)
        .await;
    assert_eq!(runs.attempts("good"), [1, 1]);
}

/// A dead letter keeps the body and the reason. A replay runs the route that failed, and no finished route. The
/// test skips an inbox without dead letters.
pub(crate) async fn a_dead_letter_can_be_replayed_and_deleted(factory: &impl InboxFactory) {
    let (runs, mended) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on_prefix("a", runs.noting("good"))
        .on("a", |event: Event| async move {
            failing.add("bad", &event);
            if flag.load(Ordering::SeqCst) {
                Ok(())
            } else {
                Err("a reason")
            }
        })
        .named("bad");
    let opened = factory.open(router, attempts(2)).await;
    let Some(dead) = opened.dead_letters.clone() else {
        return;
    };
    let sent = [event("a", "1"), event("a", "2")];
    for event in &sent {
        opened.accept(event.clone()).await;
    }
    opened
        .until("both events are dead-lettered", || runs.count("bad") >= 4)
        .await;
    let letters = dead.list(None, 10).await;
    let letters = letters.expect("dead letters can be listed");
    assert_eq!(letters.len(), 2, "both letters are kept");
    for letter in &letters {
        let event = sent.iter().find(|event| event.id() == letter.message_id());
        let event = event.expect("a letter has the id of its event");
        assert_eq!(letter.body(), event.body());
        assert_eq!(letter.attempts(), 2);
        let end = letter.routes().iter().find(|end| end.route() == "bad");
        let reason = end.and_then(|end| end.reason());
        assert!(
            reason.is_some_and(|reason| reason.contains("a reason")),
            "{letter:?}"
        );
        let got = dead.get(letter.id()).await.expect("a letter can be read");
        assert_eq!(
            got.expect("the letter exists").message_id(),
            letter.message_id()
        );
    }
    mended.store(true, Ordering::SeqCst);
    let replayed = dead.replay(letters[0].id()).await;
    assert!(replayed.expect("a letter can be replayed"));
    opened
        .until("the route has run", || runs.count("bad") >= 5)
        .await;
    assert_eq!(runs.count("good"), 2, "a finished route doesn't run again");
    assert_eq!(
        runs.attempts("bad").last(),
        Some(&1),
        "attempts begin at 1 again"
    );
    let deleted = dead.delete(letters[1].id()).await;
    assert!(deleted.expect("a letter can be deleted"));
    let left = dead
        .list(None, 10)
        .await
        .expect("dead letters can be listed");
    assert!(left.is_empty(), "{left:?}");
    for letter in letters {
        let again = dead.replay(letter.id()).await;
        assert!(!again.expect("a replay of a missing letter is no error"));
    }
}

/// A route with `fresh_within` skips a stale event and ends as stale before a retry that would start too late. There is no dead
/// letter.
pub(crate) async fn a_stale_event_is_skipped_and_reaches_other_routes(factory: &impl InboxFactory) {
    let hour = Duration::from_secs(3600);
    let runs = Runs::default();
    let late = runs.clone();
    let router = EventRouter::new()
        .on("a", runs.noting("announce"))
        .named("announce")
        .fresh_within(hour)
        .on("a", move |event: Event| async move {
            late.add("late", &event);
            Err::<(), _>(HandlerError::retry_after(hour, "not now"))
        })
        .named("late")
        .fresh_within(hour * 24)
        .on("a", runs.noting("archive"))
        .named("archive");
    // A delay of an hour is within the limit of `late` only for a fresh event.
    let retry = RetryPolicy::new().max_attempts(2).max_delay(hour);
    let delivery = DeliverySettings::new().retry(retry);
    let opened = factory.open(router, delivery).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let sent = now.unwrap() - hour * 24 + hour / 2;
    let event = MockRequest::event("a").message_id("1");
    let event = event.member("timestamp", sent.as_millis() as u64);
    opened.accept(event.to_event()).await;
    let done = || runs.count("archive") >= 1 && runs.count("late") >= 1;
    opened.until("the routes have run", done).await;
    (opened.wait_idle)().await;
    assert_eq!(runs.count("announce"), 0);
    assert_eq!((runs.count("late"), runs.count("archive")), (1, 1));
    let listed = opened.events.list(&EventFilter::new(), 10).await;
    let listed = listed.expect("events can be listed");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state(), EventState::Handled);
    let filter = EventFilter::new().outcome("skipped");
    let skipped = opened.events.list(&filter, 10);
    assert_eq!(skipped.await.expect("events can be listed").len(), 1);
    let attempts = listed[0].history().iter().flat_map(|each| each.routes());
    let mut reasons: Vec<_> = attempts.map(|each| (each.route(), each.reason())).collect();
    reasons.sort_unstable();
    let expected = [
        ("announce", Some("skipped: stale")),
        ("archive", None),
        ("late", Some("failed: not now")),
    ];
    assert_eq!(reasons, expected);
    let letters = opened.dead_letters.as_ref().expect("it has dead letters");
    assert_eq!(letters.list(None, 9).await.unwrap().len(), 0);
}

/// A route with `max_attempts` or `retry` has its own number of attempts. Its failure doesn't end the retries of other routes.
pub(crate) async fn each_route_has_its_own_number_of_attempts(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let failing = |route: &'static str| {
        let runs = runs.clone();
        move |event: Event| {
            runs.add(route, &event);
            std::future::ready(Err::<(), _>("no"))
        }
    };
    let retry = RetryPolicy::new().max_attempts(4);
    let router = EventRouter::new()
        .on("a", failing("once"))
        .named("once")
        .max_attempts(1)
        .on("a", failing("four"))
        .named("four")
        .retry(retry.initial_delay(Duration::ZERO))
        .on("a", failing("default"))
        .named("default");
    let opened = factory.open(router, attempts(2)).await;
    opened.accept(event("a", "1")).await;
    let done = || runs.count("four") >= 4 && runs.count("default") >= 2;
    opened.until("the routes have run", done).await;
    (opened.wait_idle)().await;
    assert_eq!(runs.attempts("once"), [1]);
    assert_eq!(runs.attempts("default"), [1, 2]);
    assert_eq!(runs.attempts("four"), [1, 2, 3, 4]);
    let letters = opened.dead_letters.as_ref().expect("it has dead letters");
    let letters = letters.list(None, 9).await.expect("letters can be listed");
    let failed = letters.iter().flat_map(|letter| letter.routes());
    let mut failed: Vec<_> = failed.map(|each| (each.route(), each.reason())).collect();
    failed.sort_unstable();
    let expected = ["default", "four", "once"].map(|route| (route, Some("failed: no")));
    assert_eq!(failed, expected);
}

/// A route that reaches its own timeout fails. A route with a timeout above the attempt's timeout may run longer.
pub(crate) async fn a_route_that_reaches_its_own_timeout_fails_alone(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let long = runs.clone();
    let attempt_timeout = Duration::from_millis(50);
    let router = EventRouter::new()
        .on("a", |_: Event| std::future::pending::<()>())
        .named("short")
        .timeout(Duration::from_millis(20))
        .on("a", |_: Event| std::future::pending::<()>())
        .named("default")
        .on("a", move |event: Event| async move {
            tokio::time::sleep(attempt_timeout * 4).await;
            long.add("long", &event);
        })
        .named("long")
        .timeout(Duration::from_secs(600));
    let delivery = attempts(1).attempt_timeout(attempt_timeout);
    let opened = factory.open(router, delivery).await;
    opened.accept(event("a", "1")).await;
    let done = || runs.count("long") >= 1;
    opened.until("the long route has run", done).await;
    (opened.wait_idle)().await;
    let letters = opened.dead_letters.as_ref().expect("it has dead letters");
    let letters = letters.list(None, 9).await.expect("letters can be listed");
    let results = letters.iter().flat_map(|letter| letter.routes());
    let failed = results.filter(|result| result.is_failure());
    let mut failed: Vec<_> = failed.map(|each| (each.route(), each.reason())).collect();
    failed.sort_unstable();
    let expected = ["default", "short"].map(|route| (route, Some("timed out")));
    assert_eq!(failed, expected);
}
