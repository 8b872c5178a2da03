//! Attempts of an inbox on disk continue from one process to the next.

use std::time::Duration;

use botisimo_webhooks::{
    Event, EventRouter, HandlerError, Inbox, Report, RetryPolicy, SqliteInbox,
};

use crate::support::runtime::ManualClock;
use crate::support::sqlite::{InboxFile, LONG, Log, at_once, delivery, logging};
use crate::support::{balanced, event, until, wait_idle};

/// Returns a handler that logs its runs as `name#attempt` and returns the result of `ends`.
fn route<R>(
    log: &Log,
    name: &'static str,
    ends: impl Fn(u32) -> R + Clone + Send + Sync + 'static,
) -> impl FnOnce(Event) -> std::future::Ready<R> + Clone + Send + Sync + 'static {
    let log = log.clone();
    move |event: Event| {
        log.write(format!("{name}#{}", event.attempt()));
        std::future::ready(ends(event.attempt()))
    }
}

fn failed(_: u32) -> Result<(), HandlerError> {
    Err("not yet".into())
}

fn slowly(attempts: u32) -> RetryPolicy {
    let hour = Duration::from_secs(3600);
    RetryPolicy::new()
        .max_attempts(attempts)
        .initial_delay(hour)
        .max_delay(hour)
}

/// Runs the first attempt of an event, which fails, and closes the inbox.
async fn waits(place: &InboxFile, clock: &ManualClock, router: EventRouter) {
    let builder = place.inbox().delivery(delivery().retry(slowly(4)));
    let inbox = builder.open_with(clock.clone(), router).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().retrying == 1).await;
    balanced(&handle.stats());
    drop((inbox, handle));
    drop(place.closed().await);
}

async fn reopened(place: &InboxFile, clock: &ManualClock, router: EventRouter) -> SqliteInbox {
    let builder = place.inbox().delivery(delivery().retry(slowly(4)));
    builder.open_with(clock.clone(), router).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_continues_at_the_next_attempt() {
    let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
    let router = || {
        EventRouter::new()
            .on("a", route(&log, "fails", failed))
            .on_any(route(&log, "works", |_| ()))
            .on_prefix(
                "a",
                route(&log, "dies", |_| {
                    Err::<(), _>(HandlerError::permanent("no"))
                }),
            )
    };
    waits(&place, &clock, router()).await;
    assert_eq!(log.len(), 3);
    let inbox = reopened(&place, &clock, router()).await;
    let handle = inbox.handle();
    assert_eq!(handle.stats().recovered, 1);
    until(|| handle.stats().retrying == 1).await;
    // The attempt isn't due yet, and other events don't wait for it.
    inbox.accept(event("2")).await.unwrap();
    until(|| handle.stats().retrying == 2).await;
    assert_eq!(log.counts()["fails#1"], 2);
    assert_eq!(log.counts().get("fails#2"), None);
    clock
        .advance_until(Duration::from_secs(60), || handle.stats().in_flight() == 0)
        .await;
    let counts = log.counts();
    for (line, count) in [
        ("fails#1", 2),
        ("fails#2", 2),
        ("fails#3", 2),
        ("fails#4", 2),
    ] {
        assert_eq!(counts[line], count, "{line}");
    }
    // Finished routes didn't run again, whether they succeeded or failed.
    assert_eq!(
        (counts["works#1"], counts["dies#1"], counts.len()),
        (2, 2, 6)
    );
    let letters = handle.dead_letters().unwrap().list(None, 9).await.unwrap();
    for letter in &letters {
        assert_eq!(letter.attempts(), 4);
        let ends = letter
            .routes()
            .iter()
            .map(|end| (end.route(), end.reason()));
        let mut ends: Vec<_> = ends.collect();
        ends.sort_unstable();
        assert_eq!(
            ends,
            [
                ("*", None),
                ("a", Some("failed: not yet")),
                ("a[.*]", Some("failed: no"))
            ]
        );
    }
    assert_eq!(letters.len(), 2);
    balanced(&handle.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_starts_when_it_is_due() {
    let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
    let router = || {
        EventRouter::new().on(
            "a",
            route(&log, "a", |attempt| {
                if attempt == 1 {
                    return Err(HandlerError::retry_after(
                        Duration::from_secs(1000),
                        "later",
                    ));
                }
                Ok(())
            }),
        )
    };
    waits(&place, &clock, router()).await;
    let due = place.count("SELECT due_at - 1700000000000 FROM events");
    assert!((1_000_000..=3_600_000).contains(&due), "{due}");
    let inbox = reopened(&place, &clock, router()).await;
    let handle = inbox.handle();
    until(|| handle.stats().retrying == 1).await;
    clock.advance(Duration::from_millis(u64::try_from(due).unwrap() - 1));
    // This command gives the writer a turn, in which it could start the attempt.
    assert!(inbox.accept(event("1")).await.is_ok());
    assert_eq!((log.len(), handle.stats().retrying), (1, 1));
    clock
        .advance_until(Duration::from_millis(1), || log.len() == 2)
        .await;
    wait_idle(&handle).await;
    assert_eq!(handle.stats().handled, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_route_may_run_twice() {
    let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
    let router = EventRouter::new()
        .on("a", route(&log, "fails", failed))
        .on_any(route(&log, "old", |_| ()));
    waits(&place, &clock, router).await;
    let router = EventRouter::new()
        .on("a", route(&log, "fails", |_| ()))
        .on_any(route(&log, "new", |_| ()))
        .named("renamed");
    let inbox = reopened(&place, &clock, router).await;
    let handle = inbox.handle();
    clock
        .advance_until(Duration::from_secs(60), || handle.stats().handled == 1)
        .await;
    let mut lines = log.lines();
    lines.sort_unstable();
    assert_eq!(lines, ["fails#1", "fails#2", "new#2", "old#1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_route_ends_and_a_new_route_runs() {
    let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
    let router = EventRouter::new().on("a", route(&log, "fails", failed));
    waits(&place, &clock, router).await;
    let router = EventRouter::new().on_prefix("a", route(&log, "new", |_| ()));
    let inbox = reopened(&place, &clock, router).await;
    let handle = inbox.handle();
    clock
        .advance_until(Duration::from_secs(60), || handle.stats().handled == 1)
        .await;
    assert_eq!(log.lines(), ["fails#1", "new#2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_routes_are_all_removed_is_unhandled() {
    let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
    let router = EventRouter::new().on("a", route(&log, "fails", failed));
    waits(&place, &clock, router).await;
    let inbox = reopened(&place, &clock, EventRouter::new()).await;
    let handle = inbox.handle();
    clock
        .advance_until(Duration::from_secs(60), || handle.stats().unhandled == 1)
        .await;
    assert_eq!(place.count("SELECT count(*) FROM events"), 0);
    assert_eq!(place.count("SELECT count(*) FROM dead_letters"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permanent_error_and_a_payload_that_doesnt_fit_end_their_event_at_once() {
    let (place, log) = (InboxFile::new(), Log::default());
    let router = EventRouter::new()
        .on(
            "a",
            route(&log, "a", |_| Err::<(), _>(HandlerError::permanent("no"))),
        )
        .on_prefix("a", |_: Event<bool>| async {});
    let inbox = place.inbox().open(router).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(log.lines(), ["a#1"]);
    let letters = inbox.handle().dead_letters().unwrap();
    let letter = &letters.list(None, 9).await.unwrap()[0];
    assert_eq!(
        (letter.attempts(), letter.routes().len(), letter.cause()),
        (1, 2, None)
    );
    let stats = inbox.handle().stats();
    assert_eq!((stats.dead, stats.retried, stats.dead_letters), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retrying_event_counts_as_held_but_not_against_the_concurrency() {
    let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
    let router = EventRouter::new().on("a", route(&log, "a", failed));
    let builder = place
        .inbox()
        .delivery(delivery().retry(slowly(4)).concurrency(1))
        .max_events_in_memory(1);
    let inbox = builder
        .max_events(4)
        .open_with(clock, router)
        .await
        .unwrap();
    let handle = inbox.handle();
    for id in ["1", "2", "3", "4"] {
        inbox.accept(event(id)).await.unwrap();
    }
    until(|| handle.stats().retrying == 4).await;
    let stats = handle.stats();
    assert_eq!((stats.running, stats.waiting, stats.retried), (0, 0, 4));
    assert!(inbox.accept(event("5")).await.is_err());
}

/// The bug: the writer treated a timer that had fired too early as pending, so the attempt started a minute
/// late.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_timer_loses_no_attempt() {
    struct Early;

    impl botisimo_webhooks::Runtime for Early {
        fn spawn(&self, task: botisimo_webhooks::BoxFuture<()>) {
            smol::spawn(task).detach();
        }

        fn sleep(&self, duration: Duration) -> botisimo_webhooks::BoxFuture<()> {
            Box::pin(async move {
                smol::Timer::after(duration / 2).await;
            })
        }
    }

    let (place, log) = (InboxFile::new(), Log::default());
    let wait = Duration::from_millis(200);
    let router = EventRouter::new().on(
        "a",
        route(&log, "a", move |attempt| {
            if attempt == 1 {
                return Err(HandlerError::retry_after(wait, "later"));
            }
            Ok(())
        }),
    );
    let retry = RetryPolicy::new()
        .initial_delay(Duration::ZERO)
        .max_delay(LONG);
    let inbox = place
        .inbox()
        .delivery(delivery().retry(retry))
        .open_with(Early, router)
        .await
        .unwrap();
    inbox.accept(event("1")).await.unwrap();
    until(|| log.len() == 2).await;
    wait_idle(&inbox.handle()).await;
}

/// The log contains the runs of both processes.
#[tokio::test(flavor = "multi_thread")]
async fn a_handled_route_doesnt_run_again() {
    let (place, log) = (InboxFile::new(), Log::default());
    for _ in 0..3 {
        let inbox = place.inbox().open(logging(&log)).await.unwrap();
        for id in 0..20 {
            inbox.accept(event(id.to_string())).await.unwrap();
        }
        wait_idle(&inbox.handle()).await;
        assert_eq!(log.len(), 20);
    }
}

/// The bug: the waiting routes were only in memory. After a restart, the event counted as handled, and its
/// route never ran again.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_a_layer_keeps_from_the_router_is_an_attempt_of_its_routes() {
    let (place, log) = (InboxFile::new(), Log::default());
    let ran = log.clone();
    let router = EventRouter::new().on("a", move |event: Event| async move {
        ran.run(&event);
        Err::<(), _>("not yet")
    });
    // The layer acts like an open circuit breaker.
    let service = tower::service_fn(move |event: Event| {
        let mut router = router.clone();
        async move {
            if event.attempt() == 1 {
                tower::Service::call(&mut router, event).await
            } else {
                Ok(Report::default())
            }
        }
    });
    let inbox = place
        .inbox()
        .delivery(delivery().retry(at_once(3)))
        .open(service)
        .await
        .unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!((stats.handled, stats.dead, stats.retried), (0, 1, 2));
    assert_eq!(log.lines(), ["1#1"]);
    let letters = inbox.handle().dead_letters().unwrap();
    let letters = letters.list(None, 9).await.unwrap();
    let failed: Vec<_> = letters[0]
        .routes()
        .iter()
        .filter(|end| end.reason().is_some())
        .map(|end| end.route().to_owned())
        .collect();
    assert_eq!(failed, ["the remaining routes"]);
}
