//! `timeout` of a route: shorter or longer than the timeout of the attempt.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::{
    Attempt, DeliverySettings, Event, EventRouter, Inbox, MemoryInbox, Report, RetryPolicy,
};
use proptest::prelude::*;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceExt};

use crate::support::runtime::TestRuntime;
use crate::support::{event, wait_idle};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Returns a handler that takes this long.
fn takes(
    duration: Duration,
) -> impl FnOnce(Event) -> futures_util::future::BoxFuture<'static, ()> + Clone + Send + Sync + 'static
{
    move |_: Event| Box::pin(sleep(duration))
}

fn once(timeout: Duration) -> DeliverySettings {
    let retry = RetryPolicy::no_retry();
    DeliverySettings::new()
        .retry(retry)
        .attempt_timeout(timeout)
}

/// Runs one attempt with a timeout of 10 s, and returns its report and its duration.
async fn attempt<S>(service: S) -> (String, Duration)
where
    S: Service<Event, Response = Report, Error: Into<tower::BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let report = Arc::new(Mutex::new(String::new()));
    let write = Arc::clone(&report);
    let delivery = once(seconds(10)).on_attempt(move |attempt: &Attempt| {
        *write.lock().unwrap() = attempt.report().to_string();
    });
    let inbox = MemoryInbox::builder().delivery(delivery).build(service);
    let start = Instant::now();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let report = report.lock().unwrap().clone();
    // Tokio's timers have a resolution of a millisecond and never fire early.
    (report, seconds(start.elapsed().as_secs()))
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_a_single_route_may_be_shorter_or_longer() {
    for (timeout, takes_seconds, outcome, lasts) in [
        (2, 5, "timed out", 2),
        (2, 1, "handled", 1),
        (60, 30, "handled", 30),
        (60, 100, "timed out", 60),
    ] {
        let router = EventRouter::new().on("a", takes(seconds(takes_seconds)));
        let (report, lasted) = attempt(router.timeout(seconds(timeout))).await;
        assert_eq!(report, format!("a {outcome}"));
        assert_eq!(lasted, seconds(lasts));
    }
}

#[tokio::test(start_paused = true)]
async fn routes_with_and_without_their_own_timeout_do_not_affect_each_other() {
    let router = EventRouter::new()
        .on("a", |_: Event| pending::<()>())
        .named("short")
        .timeout(seconds(1))
        .on("a", |_: Event| pending::<()>())
        .named("default")
        .on("a", takes(seconds(5)))
        .named("in time")
        .on("a", takes(seconds(40)))
        .named("long")
        .timeout(seconds(60))
        .on("a", |_: Event| pending::<()>())
        .named("longest")
        .timeout(seconds(50));
    let (report, lasted) = attempt(router).await;
    let expected =
        "short timed out, default timed out, in time handled, long handled, longest timed out";
    assert_eq!(report, expected);
    assert_eq!(lasted, seconds(50));
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_hangs_after_its_routes_is_dropped_at_the_timeout_of_the_attempt() {
    for (long, lasts) in [(3, 10), (40, 40)] {
        let router = EventRouter::new()
            .on("a", takes(seconds(long)))
            .timeout(seconds(60));
        let hangs = tower::service_fn(move |event: Event| {
            let router = router.clone();
            async move {
                let report = router.oneshot(event).await;
                pending::<()>().await;
                report
            }
        });
        let (report, lasted) = attempt(hangs).await;
        assert_eq!(report, "a handled");
        // The layer is polled again only by its own timers, so the attempt ends at the latest after both timeouts.
        assert!(
            lasted >= seconds(lasts) && lasted <= seconds(70),
            "{lasted:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_of_a_runtime_without_timers_ends() {
    let runtime = TestRuntime::tokio().on_sleep(|_| panic!("no timers"));
    let router = EventRouter::new().on("a", |_: Event| pending::<()>());
    let router = router.timeout(seconds(1));
    let builder = MemoryInbox::builder().delivery(once(seconds(10)));
    let inbox = builder.build_with(runtime, router);
    inbox.accept(event("1")).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(stats.dead, 1);
}

#[test]
#[should_panic(expected = "`timeout` needs a route")]
fn the_option_needs_a_route() {
    let _ = EventRouter::new().timeout(seconds(1));
}

async fn check(routes: &[(Option<u64>, u64)]) {
    let router = routes.iter().enumerate().fold(
        EventRouter::new(),
        |router, (index, (timeout, duration))| {
            let router = router.on("a", takes(seconds(*duration)));
            let router = router.named(index.to_string());
            match timeout {
                Some(timeout) => router.timeout(seconds(*timeout)),
                None => router,
            }
        },
    );
    let (report, lasted) = attempt(router).await;
    let (mut expected, mut longest) = (Vec::new(), 0);
    for (index, (timeout, duration)) in routes.iter().enumerate() {
        let limit = timeout.unwrap_or(10);
        let outcome = match *duration < limit {
            true => "handled",
            false => "timed out",
        };
        expected.push(format!("{index} {outcome}"));
        longest = longest.max(limit.min(*duration));
    }
    assert_eq!(report, expected.join(", "));
    assert_eq!(lasted, seconds(longest));
}

/// Returns a timeout and a duration that differ, so that the outcome is certain.
fn route() -> impl Strategy<Value = (Option<u64>, u64)> {
    let route = (proptest::option::of(1..40_u64), 1..60_u64);
    route.prop_filter("a tie", |(timeout, duration)| {
        timeout.unwrap_or(10) != *duration
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_route_of_random_timeouts_and_durations_ends_by_its_own_limit(routes in proptest::collection::vec(route(), 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(check(&routes));
    }
}
