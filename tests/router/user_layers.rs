//! Layers around the router affect only the routes that they keep from finishing.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, Inbox, MemoryInbox, Report, RetryPolicy, Stats,
};
use tower::{BoxError, Service, ServiceBuilder, ServiceExt, service_fn};

async fn noop(_: Event) {}

/// Delivers events through a service. Returns each attempt reported to the hook, and the counts.
async fn deliver<S>(service: S, events: &[&str]) -> (Vec<String>, Stats)
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    let reports = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&reports);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .attempt_timeout(Duration::from_secs(30))
                .on_attempt(move |delivery| {
                    log.lock().unwrap().push(delivery.report().to_string());
                }),
        )
        .build(service);
    for event in events {
        inbox
            .accept(MockRequest::event(*event).to_event())
            .await
            .unwrap();
    }
    inbox.handle().wait_idle().await;
    (
        std::mem::take(&mut *reports.lock().unwrap()),
        inbox.handle().stats(),
    )
}

/// Returns a router with a route that finishes at once, and a route that never finishes.
fn quick_and_stuck() -> EventRouter {
    EventRouter::new()
        .on("a", noop)
        .on_prefix("a", |_: Event| pending::<()>())
}

#[tokio::test(start_paused = true)]
async fn a_timeout_affects_only_the_routes_that_hadnt_finished() {
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(2))
        .service(quick_and_stuck());
    let (reports, stats) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["a handled, a[.*] failed: request timed out"]);
    assert_eq!((stats.handled, stats.dead), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_after_all_routes_have_finished_changes_nothing() {
    // The router finishes at once. The layer between the router and the timeout never returns the report.
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(2))
        .and_then(|_: Report| pending::<Result<Report, Infallible>>())
        .service(EventRouter::new().on("a", noop));
    let (reports, stats) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["a handled"]);
    assert_eq!(stats.handled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_delays_attempts_and_loses_none() {
    let (now, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let peak = Arc::clone(&most);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        peak.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
        now.fetch_sub(1, Ordering::Relaxed);
    });
    let service = ServiceBuilder::new().concurrency_limit(2).service(router);
    let (_, stats) = deliver(service, &["a"; 9]).await;
    assert_eq!(stats.handled, 9);
    assert_eq!(most.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_readiness_counts_towards_the_attempt_timeout() {
    let router = EventRouter::new().on("a", |_: Event| async {
        tokio::time::sleep(Duration::from_secs(20)).await;
    });
    let service = ServiceBuilder::new().concurrency_limit(1).service(router);
    let (mut reports, stats) = deliver(service, &["a"; 3]).await;
    reports.sort();
    // The second event starts after 20 s and runs for 10 s. The third event starts at its timeout.
    assert_eq!(reports, ["a handled", "a timed out", "a timed out"]);
    assert_eq!((stats.handled, stats.dead), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn a_buffer_and_a_rate_limit_lose_nothing() {
    let router = EventRouter::new().on("a", noop).on_any(noop);
    let service = ServiceBuilder::new()
        .buffer(4)
        .rate_limit(2, Duration::from_secs(1))
        .service(router);
    let (reports, stats) = deliver(service, &["a"; 7]).await;
    assert_eq!(reports, ["a handled, * handled"; 7]);
    assert_eq!(stats.handled, 7);
}

#[tokio::test(start_paused = true)]
async fn the_attempt_timeout_reaches_the_router_through_a_buffer() {
    let service = ServiceBuilder::new().buffer(4).service(quick_and_stuck());
    let (reports, _) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["a handled, a[.*] timed out"]);
}

#[tokio::test(start_paused = true)]
async fn the_attempt_timeout_reaches_a_router_in_another_task() {
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let router = quick_and_stuck();
    let service = service_fn(move |event: Event| {
        let (call, sender) = (router.clone().oneshot(event), sender.clone());
        tokio::spawn(async move { sender.send(call.await.unwrap().to_string()) });
        pending::<Result<Report, Infallible>>()
    });
    let (reports, _) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["a handled, a[.*] timed out"]);
    // The router runs after the attempt has ended. Nothing reads the outcomes that the router records.
    assert_eq!(receiver.recv().await.unwrap(), "a handled, a[.*] timed out");
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_called_after_the_attempt_timeout_runs_nothing() {
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let sender = Arc::new(Mutex::new(Some(sender)));
    let service = service_fn(move |event: Event| {
        let (router, sender) = (router.clone(), sender.lock().unwrap().take());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(31)).await;
            sender
                .unwrap()
                .send(router.oneshot(event).await.unwrap().to_string())
        });
        pending::<Result<Report, Infallible>>()
    });
    let (reports, _) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["service timed out"]);
    assert_eq!(receiver.await.unwrap(), "a timed out");
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_load_shed_event_counts_as_the_services_failure() {
    let never = service_fn(|_: Event| ready(Ok::<_, Infallible>(Report::default())));
    let service = ServiceBuilder::new()
        .load_shed()
        .layer_fn(|inner| NeverReady { inner })
        .service(never);
    let (reports, stats) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["service failed: service overloaded"]);
    assert_eq!(stats.dead, 1);
}

#[derive(Clone)]
struct NeverReady<S> {
    inner: S,
}

impl<S: Service<Event>> Service<Event> for NeverReady<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Pending
    }

    fn call(&mut self, event: Event) -> S::Future {
        self.inner.call(event)
    }
}

#[tokio::test]
async fn a_service_without_a_router_counts_as_one_route() {
    let service = service_fn(|event: Event| {
        ready(if event.event_type() == "bad" {
            Err("refused")
        } else {
            Ok(Report::default())
        })
    });
    let (reports, stats) = deliver(service, &["good", "bad"]).await;
    assert_eq!(reports, ["service handled", "service failed: refused"]);
    assert_eq!((stats.handled, stats.dead), (1, 1));
}

#[derive(Clone, Debug)]
struct RetryFailed;

impl tower::retry::Policy<Event, Report, Infallible> for RetryFailed {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Event,
        result: &mut Result<Report, Infallible>,
    ) -> Option<Ready<()>> {
        result
            .as_ref()
            .is_ok_and(|report| !report.is_success())
            .then(|| ready(()))
    }

    fn clone_request(&mut self, event: &Event) -> Option<Event> {
        Some(event.clone())
    }
}

#[tokio::test]
async fn a_layer_that_calls_the_router_again_runs_only_unhandled_routes() {
    let (tries, runs) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let count = Arc::clone(&runs);
    let router = EventRouter::new()
        .on("a", move |_: Event| async move {
            if tries.fetch_add(1, Ordering::Relaxed) < 2 {
                Err("not yet")
            } else {
                Ok(())
            }
        })
        .on_any(move |_: Event| async move {
            count.fetch_add(1, Ordering::Relaxed);
        });
    let service = ServiceBuilder::new().retry(RetryFailed).service(router);
    let (reports, stats) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["a handled, * handled"]);
    assert_eq!((stats.handled, runs.load(Ordering::Relaxed)), (1, 1));
}

/// A service that panics in the given step.
struct Panics(&'static str);

impl Clone for Panics {
    fn clone(&self) -> Self {
        if self.0 == "clone" {
            panic!("in clone");
        }
        Self(self.0)
    }
}

impl Service<Event> for Panics {
    type Response = Report;
    type Error = Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Report, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.0 == "poll_ready" {
            panic!("in poll_ready");
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: Event) -> Self::Future {
        if self.0 == "call" {
            panic!("in call");
        }
        let mut router = EventRouter::new().on("a", noop);
        Box::pin(async move {
            let _ = router.call(event).await?;
            panic!("in poll");
        })
    }
}

#[tokio::test]
async fn a_layer_that_panics_affects_only_the_routes_that_hadnt_finished() {
    for step in ["clone", "poll_ready", "call"] {
        let (reports, stats) = deliver(Panics(step), &["a", "a"]).await;
        assert_eq!(
            reports,
            [
                format!("service panicked: in {step}"),
                format!("service panicked: in {step}")
            ]
        );
        assert_eq!(stats.dead, 2);
    }
    let (reports, stats) = deliver(Panics("poll"), &["a"]).await;
    assert_eq!(reports, ["a handled"]);
    assert_eq!(stats.handled, 1);
}

#[tokio::test]
async fn a_service_need_not_be_sync() {
    let cell = std::cell::Cell::new(0);
    let mut router = EventRouter::new().on("a", noop);
    let service = service_fn(move |event: Event| {
        cell.set(cell.get() + 1);
        router.call(event)
    });
    let (reports, _) = deliver(service, &["a"]).await;
    assert_eq!(reports, ["a handled"]);
}
