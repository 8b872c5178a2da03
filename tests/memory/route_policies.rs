//! `retry` and `max_attempts` of a route: each route has its own delays and its own number of attempts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, HandlerError, HandlerResult, Inbox, MemoryInbox,
    MemoryInboxBuilder, Report, RetryPolicy,
};
use proptest::prelude::*;
use tokio::time::Instant;
use tower::ServiceBuilder;

use crate::support::route_policies::{Model, Plan, Step, case, requested};
use crate::support::{event, letters, wait_idle};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The runs of all routes: the name of the route, and the time since the start in seconds.
#[derive(Clone)]
struct Runs {
    start: Instant,
    runs: Arc<Mutex<Vec<(&'static str, u64)>>>,
}

impl Runs {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            runs: Arc::default(),
        }
    }

    /// Returns a handler that always fails and requests a delay in seconds.
    fn failing(
        &self,
        route: &'static str,
        delay: u64,
    ) -> impl FnOnce(Event) -> std::future::Ready<HandlerResult> + Clone + Send + Sync + 'static
    {
        let this = self.clone();
        move |_: Event| {
            // Tokio's timers have a resolution of a millisecond and never fire early.
            let now = this.start.elapsed().as_secs();
            this.runs.lock().unwrap().push((route, now));
            std::future::ready(Err(HandlerError::retry_after(seconds(delay), "no")))
        }
    }

    fn of(&self, route: &str) -> Vec<u64> {
        let runs = self.runs.lock().unwrap();
        let runs = runs.iter().filter(|(name, _)| *name == route);
        runs.map(|(_, at)| *at).collect()
    }
}

fn builder(attempts: u32) -> MemoryInboxBuilder {
    MemoryInbox::builder().delivery(DeliverySettings::new().retry(requested(attempts)))
}

#[tokio::test(start_paused = true)]
async fn each_route_keeps_its_own_delays_and_its_own_number_of_attempts() {
    let runs = Runs::new();
    let router = EventRouter::new()
        .on("a", runs.failing("fast", 10))
        .named("fast")
        .retry(requested(8))
        .on("a", runs.failing("slow", 30))
        .named("slow")
        .retry(requested(3))
        .on("a", runs.failing("once", 1))
        .named("once")
        .max_attempts(1)
        .on("a", runs.failing("plain", 25))
        .named("plain");
    let inbox = builder(4).build(router);
    inbox.accept(event("1")).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(runs.of("fast"), [0, 10, 20, 30, 40, 50, 60, 70]);
    assert_eq!(runs.of("slow"), [0, 30, 60]);
    assert_eq!(runs.of("once"), [0]);
    assert_eq!(runs.of("plain"), [0, 25, 50, 75]);
    assert_eq!(stats.dead, 1);
    let letter = letters(&inbox).list(None, 9).await.unwrap().remove(0);
    let mut failed: Vec<_> = letter.routes().iter().map(|each| each.route()).collect();
    failed.sort_unstable();
    assert_eq!(failed, ["fast", "once", "plain", "slow"]);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_used_up_its_attempts_has_failed_and_the_other_routes_are_still_retried() {
    let runs = Runs::new();
    let tries = Arc::new(Mutex::new(0));
    let router = EventRouter::new()
        .on("a", runs.failing("once", 1))
        .named("once")
        .max_attempts(1)
        .on("a", move |_: Event| async move {
            *tries.lock().unwrap() += 1;
            match *tries.lock().unwrap() {
                1..4 => Err("not yet"),
                _ => Ok(()),
            }
        })
        .named("many")
        .retry(requested(9));
    let inbox = builder(1).build(router);
    inbox.accept(event("1")).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.retried), (1, 3));
    let letter = letters(&inbox).list(None, 9).await.unwrap().remove(0);
    let results = letter.routes().iter();
    let results: Vec<_> = results.map(|each| (each.route(), each.reason())).collect();
    assert_eq!(results, [("once", Some("failed: no")), ("many", None)]);
    assert_eq!(runs.of("once"), [0]);
}

#[tokio::test(start_paused = true)]
async fn max_attempts_overrides_the_policy_in_either_order() {
    for policy_first in [false, true] {
        let runs = Runs::new();
        let router = EventRouter::new().on("a", runs.failing("a", 7));
        let router = match policy_first {
            true => router.retry(requested(9)).max_attempts(2),
            false => router.max_attempts(2).retry(requested(9)),
        };
        let inbox = builder(5).build(router);
        inbox.accept(event("1")).await.unwrap();
        wait_idle(&inbox.handle()).await;
        assert_eq!(runs.of("a"), [0, 7]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_makes_the_remaining_attempts_of_all_routes_without_delay() {
    let runs = Runs::new();
    let router = EventRouter::new()
        .on("a", runs.failing("fast", 10))
        .retry(requested(4))
        .named("fast")
        .on("a", runs.failing("slow", 3000))
        .retry(requested(3))
        .named("slow");
    let inbox = builder(1).build(router);
    inbox.accept(event("1")).await.unwrap();
    let handle = inbox.handle();
    while handle.stats().retrying == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.drain(seconds(60)).await.remaining, 0);
    assert_eq!(runs.of("fast"), [0; 4]);
    assert_eq!(runs.of("slow"), [0; 3]);
    assert_eq!(handle.stats().dead, 1);
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_keeps_the_router_from_running_uses_up_the_attempts_of_the_due_routes() {
    let runs = Runs::new();
    let router = EventRouter::new()
        .on("a", runs.failing("fast", 10))
        .retry(requested(3))
        .named("fast")
        .on("a", runs.failing("slow", 25))
        .retry(requested(2))
        .named("slow");
    let layered = ServiceBuilder::new()
        .filter(|event: Event| match event.attempt() {
            1 => Ok(event),
            _ => Err("the breaker is open"),
        })
        .service(router);
    let inbox = builder(9).build(layered);
    inbox.accept(event("1")).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((runs.of("fast"), runs.of("slow")), (vec![0], vec![0]));
    assert_eq!(stats.dead, 1);
    let letter = letters(&inbox).list(None, 9).await.unwrap().remove(0);
    for route in ["fast", "slow"] {
        let mut results = letter.routes().iter();
        let result = results.find(|result| result.route() == route);
        assert_eq!(
            result.unwrap().reason(),
            Some("failed: the breaker is open"),
            "{letter:?}"
        );
    }
}

#[tokio::test]
async fn a_service_without_a_router_keeps_the_policy_of_the_inbox() {
    let service = tower::service_fn(|_: Event| async { Err::<Report, _>("no") });
    let inbox = builder(3).build(service);
    inbox.accept(event("1")).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.retried), (1, 2));
}

#[test]
#[should_panic(expected = "`max_attempts` needs a route")]
fn max_attempts_needs_a_route() {
    let _ = EventRouter::new().max_attempts(1);
}

#[test]
#[should_panic(expected = "`retry` needs a route")]
fn retry_needs_a_route() {
    let _ = EventRouter::new().retry(RetryPolicy::new());
}

async fn check(plans: [Plan; 3], steps: &[Step]) {
    let model = Model::new(plans);
    let builder = MemoryInbox::builder().delivery(Model::delivery());
    let inbox = builder.build_with(model.clock.clone(), model.router());
    // A memory inbox doesn't survive its process.
    model.check(inbox, steps, |inbox| async { inbox }).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_random_policies_make_a_route_run_early_or_more_often((plans, steps) in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(plans, &steps));
    }
}
