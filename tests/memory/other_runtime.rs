//! The crate runs on executors other than tokio, even without the feature `tokio`.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    Attempt, DeliverySettings, Endpoint, Event, EventOutcome, EventRouter, HandlerError, Inbox,
    MemoryInbox, RetryPolicy, WebhookLayer,
};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use futures_util::{FutureExt, future};
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded, unbounded};
use tower::{Layer, Service, ServiceExt};

use crate::support::runtime::TestRuntime;

/// A delay that is longer than any test.
const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(10);

fn assert_no_tokio() {
    assert!(tokio::runtime::Handle::try_current().is_err());
}

fn webhook() -> Request<Full<Bytes>> {
    MockRequest::event("account.updated").build()
}

/// Returns a router whose handler signals its start, and runs until it receives the signal to end.
fn held() -> (EventRouter, Receiver<()>, Sender<()>) {
    let (started, starts) = unbounded();
    let (end, ends) = bounded(1);
    let router = EventRouter::new().on("account.updated", async move |_: Event| {
        started.send(()).await?;
        ends.recv().await?;
        Ok::<_, HandlerError>(())
    });
    (router, starts, end)
}

#[test]
fn a_handler_sleeps_on_the_timers_of_its_own_runtime() {
    smol::block_on(async {
        let router = EventRouter::new()
            .on("account.updated", async |_: Event| {
                assert_no_tokio();
                Timer::after(SHORT).await;
            })
            .on("account.created", async |_: Event| panic!("on purpose"));
        let inbox =
            MemoryInbox::builder().delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()));
        let harness = Harness::inbox(inbox.build_with(TestRuntime::smol(), router));

        let delivered = harness.deliver(MockRequest::event("account.updated")).await;
        delivered.assert_handled("account.updated");
        let delivered = harness.deliver(MockRequest::event("account.created")).await;
        delivered.assert_failed("account.created", "on purpose");
        let delivered = harness.deliver(MockRequest::event("poll.created")).await;
        delivered.assert_unhandled();
    });
}

#[test]
fn a_layer_wraps_any_service() {
    #[derive(Clone)]
    struct Site;

    impl Service<Request<Full<Bytes>>> for Site {
        type Response = Response<Full<Bytes>>;
        type Error = Infallible;
        type Future = future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Full<Bytes>>) -> Self::Future {
            future::ready(Ok(Response::new(Full::from("home"))))
        }
    }

    smol::block_on(async {
        let (router, starts, end) = held();
        let webhooks = WebhookLayer::new(
            "/webhooks/botisimo",
            MemoryInbox::builder().build_with(TestRuntime::smol(), router),
        );
        let handle = webhooks.handle();
        let app = webhooks.layer(Site);

        let Ok(home) = app.clone().oneshot(Request::default()).await;
        assert_eq!(home.into_body().collect().await.unwrap().to_bytes(), "home");
        let Ok(answer) = app.oneshot(webhook()).await;
        assert_eq!(answer.status(), 200);

        starts.recv().await.unwrap();
        end.send(()).await.unwrap();
        handle.wait_idle().await;
        assert_eq!(handle.stats().handled, 1);
    });
}

#[test]
fn an_attempt_that_takes_too_long_is_timed_out() {
    smol::block_on(async {
        let router = EventRouter::new()
            .on_any(async |_: Event| pending::<()>().await)
            .named("hangs")
            .on_any(async |_: Event| {})
            .named("returns");
        let (tell, ends) = unbounded::<Attempt>();
        let inbox = MemoryInbox::builder()
            .delivery(
                DeliverySettings::new()
                    .attempt_timeout(SHORT)
                    .retry(RetryPolicy::no_retry())
                    .on_attempt(move |delivery| tell.try_send(delivery.clone()).unwrap()),
            )
            .build_with(TestRuntime::smol(), router);

        let Ok(answer) = Endpoint::new(inbox).oneshot(webhook()).await;
        assert_eq!(answer.status(), 200);
        let delivery = ends.recv().await.unwrap();
        assert_eq!(delivery.event_outcome(), Some(EventOutcome::Dead));
        let report = delivery.report().to_string();
        assert_eq!(report, "hangs timed out, returns handled");
    });
}

#[test]
fn a_body_that_stalls_is_answered_408() {
    smol::block_on(async {
        let inbox = MemoryInbox::builder().build_with(TestRuntime::smol(), EventRouter::new());
        let endpoint = WebhookLayer::new("/", inbox)
            .response_timeout(SHORT)
            .endpoint();
        let handle = endpoint.handle();
        let half = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{")));
        let body = StreamBody::new(stream::iter([half]).chain(stream::pending()));

        let Ok(answer) = endpoint
            .oneshot(Request::post("/").body(body).unwrap())
            .await;
        assert_eq!(answer.status(), 408);
        assert_eq!((handle.stats().accepted, handle.stats().rejected), (0, 1));
    });
}

#[test]
fn a_slow_body_is_read_in_time() {
    smol::block_on(async {
        let endpoint = WebhookLayer::new(
            "/",
            MemoryInbox::builder().build_with(TestRuntime::smol(), EventRouter::new()),
        )
        .response_timeout(LONG)
        .endpoint();
        let body = MockRequest::event("account.updated").body_bytes();
        let half = body.len() / 2;
        let halves = [body.slice(..half), body.slice(half..)];
        let frames = stream::iter(halves).then(async |half| {
            Timer::after(SHORT).await;
            Ok::<_, Infallible>(Frame::data(half))
        });

        let request = Request::post("/").body(StreamBody::new(frames)).unwrap();
        let Ok(answer) = endpoint.oneshot(request).await;
        assert_eq!(answer.status(), 200);
    });
}

#[test]
fn a_drain_refuses_new_events_and_waits_for_running_handlers() {
    smol::block_on(async {
        let (router, starts, end) = held();
        let endpoint =
            Endpoint::new(MemoryInbox::builder().build_with(TestRuntime::smol(), router));
        let handle = endpoint.handle();
        let Ok(answer) = endpoint.clone().oneshot(webhook()).await;
        assert_eq!(answer.status(), 200);
        starts.recv().await.unwrap();

        assert_eq!(handle.drain(SHORT).await.remaining, 1);
        let mut drained = pin!(handle.drain(LONG));
        assert!(drained.as_mut().now_or_never().is_none());
        let Ok(answer) = endpoint.clone().oneshot(webhook()).await;
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()[header::RETRY_AFTER], "5");

        end.send(()).await.unwrap();
        assert_eq!(drained.await.remaining, 0);
        assert_eq!((handle.stats().handled, handle.stats().refused), (1, 1));
    });
}

#[test]
fn wait_idle_waits_for_the_last_handler() {
    smol::block_on(async {
        let (router, starts, end) = held();
        let inbox = MemoryInbox::builder().build_with(TestRuntime::smol(), router);
        let handle = inbox.handle();
        handle.wait_idle().await;

        for _ in 0..2 {
            let event = MockRequest::event("account.updated").to_event();
            inbox.accept(event).await.unwrap();
        }
        // Both handlers run at once, because neither has received the signal to end.
        starts.recv().await.unwrap();
        starts.recv().await.unwrap();
        let mut wait_idle = pin!(handle.wait_idle());
        assert!(wait_idle.as_mut().now_or_never().is_none());
        end.send(()).await.unwrap();
        end.send(()).await.unwrap();
        wait_idle.await;
        assert_eq!((handle.stats().handled, handle.stats().in_flight()), (2, 0));
    });
}

/// The inbox counts events that the executor drops when it shuts down, and events that arrive afterwards.
#[test]
fn every_event_is_counted_when_the_executor_ends() {
    let executor = Arc::new(smol::Executor::new());
    let (router, starts, _end) = held();
    let weak = Arc::downgrade(&executor);
    let runtime = TestRuntime::smol().on_spawn(move |task| {
        let executor = weak.upgrade().expect("the executor is running");
        executor.spawn(task).detach();
    });
    let inbox = MemoryInbox::builder().build_with(runtime, router);
    let endpoint = Endpoint::new(inbox);
    let handle = endpoint.handle();
    let Ok(answer) = smol::block_on(endpoint.clone().oneshot(webhook()));
    assert_eq!(answer.status(), 200);
    smol::block_on(executor.run(starts.recv())).unwrap();
    assert_eq!(handle.stats().running, 1);

    drop(executor);
    assert_eq!((handle.stats().dead, handle.stats().in_flight()), (1, 0));
    let Ok(answer) = smol::block_on(endpoint.oneshot(webhook()));
    assert_eq!(answer.status(), 503);
    smol::block_on(handle.wait_idle());
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.refused), (1, 1));
}

#[test]
fn a_shutdown_drains_and_ends_within_its_limits() {
    smol::block_on(async {
        let (router, starts, end) = held();
        let inbox = MemoryInbox::builder().build_with(TestRuntime::smol(), router);
        let (stop, stopped) = bounded::<()>(1);
        let shutdown = inbox
            .handle()
            .shutdown_on(async move { stopped.recv().await.unwrap() })
            .close_timeout(SHORT);
        let accept = inbox.accept(MockRequest::event("account.updated").to_event());
        accept.await.unwrap();
        starts.recv().await.unwrap();
        let served = shutdown.serve(|drained| async move {
            drained.await;
            pending::<Result<(), Infallible>>().await
        });
        let stopping = async {
            stop.send(()).await.unwrap();
            end.send(()).await.unwrap();
        };
        let (served, ()) = future::join(served, stopping).await;
        assert_eq!(served.unwrap().remaining, 0);
        assert_eq!(inbox.handle().stats().handled, 1);
        assert_no_tokio();
    });
}
