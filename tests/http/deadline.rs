//! The deadline of a request, the drain before an early answer, and the budget of bodies in flight.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::receiver::{
    PATH, Reasons, Script, Scripted, Step, ask, assert_answer, good, idle, read, scripted, teapot,
};
use crate::support::runtime::TestRuntime;
use botisimo_webhooks::{
    Accepted, Endpoint, Inbox, MemoryInbox, RejectionReason, ResponseFuture, SharedSecret,
    WebhookLayer,
};
use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::Notify;
use tokio::time::{advance, sleep};
use tokio_test::task::{Spawn, spawn};
use tokio_test::{assert_pending, assert_ready};
use tower::{Layer, Service};

const SECOND: Duration = Duration::from_secs(1);

/// Calls the endpoint, which starts the request's deadline. Polls nothing.
fn start<I: Inbox>(webhooks: &Endpoint<I>, request: Request<Script>) -> Spawn<ResponseFuture> {
    spawn(webhooks.clone().call(request))
}

/// Polls a request that must be ready, and returns its status.
#[track_caller]
fn status(request: &mut Spawn<ResponseFuture>) -> u16 {
    let response = assert_ready!(request.poll()).expect("an endpoint never fails");
    response.status().as_u16()
}

/// Returns the answer and the time until it was ready.
async fn timed(future: ResponseFuture) -> (Response<Bytes>, Duration) {
    let start = tokio::time::Instant::now();
    let response = future.await.expect("an endpoint never fails");
    let took = start.elapsed();
    (read(response).await, took)
}

/// Asserts a duration. A tokio timer may be one millisecond late.
#[track_caller]
fn assert_took(took: Duration, expected: Duration) {
    let late = expected + Duration::from_millis(1);
    assert!(
        (expected..=late).contains(&took),
        "the request took {took:?} instead of {expected:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_is_answered_408_after_the_response_timeout() {
    for (webhooks, expected) in [
        (Endpoint::new(idle()), 3 * SECOND),
        (
            WebhookLayer::new("/", idle())
                .response_timeout(SECOND / 4)
                .endpoint(),
            SECOND / 4,
        ),
    ] {
        let part = Step::Data(Bytes::from_static(b"{"));
        let request = scripted([part, Step::Stall]);
        let (answer, took) = timed(webhooks.clone().call(request)).await;
        assert_answer(
            &answer,
            408,
            "the body was not complete in time",
            Some(("connection", "close")),
        );
        assert_took(took, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_layer_has_the_same_deadline() {
    let start = tokio::time::Instant::now();
    let webhooks = WebhookLayer::new(PATH, idle())
        .response_timeout(SECOND)
        .layer(teapot());
    assert_eq!(ask(&webhooks, scripted([Step::Stall])).await.status(), 408);
    assert_took(start.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_starts_at_the_call_and_not_at_the_first_poll() {
    let webhooks = Endpoint::new(idle());
    let mut request = start(&webhooks, scripted([Step::Stall]));
    advance(2 * SECOND).await;
    assert_pending!(request.poll());
    advance(SECOND - Duration::from_millis(1)).await;
    assert_pending!(request.poll());
    advance(Duration::from_millis(2)).await;
    assert!(request.is_woken());
    assert_eq!(status(&mut request), 408);
}

#[tokio::test(start_paused = true)]
async fn a_first_poll_after_the_deadline_is_answered_at_once() {
    let webhooks = Endpoint::new(idle());
    let mut request = start(&webhooks, scripted([Step::Stall]));
    advance(4 * SECOND).await;
    assert_eq!(status(&mut request), 408);
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_stalls_is_answered_503_after_the_response_timeout() {
    let inbox = Scripted::new(|_, _| std::future::pending());
    let webhooks = WebhookLayer::new("/", inbox)
        .response_timeout(2 * SECOND)
        .endpoint();
    let (answer, took) = timed(webhooks.clone().call(good().build::<Script>())).await;
    let text = "the inbox did not answer in time";
    assert_answer(&answer, 503, text, Some(("retry-after", "5")));
    assert_took(took, 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_body_and_the_inbox_share_one_deadline() {
    let inbox = Scripted::new(|_, _| async {
        sleep(2 * SECOND).await;
        Ok(Accepted::New)
    });
    let webhooks = Endpoint::new(inbox);
    for (body_takes, status, took) in [
        (SECOND / 2, 200, 5 * SECOND / 2),
        (2 * SECOND, 503, 3 * SECOND),
    ] {
        let body = futures_util::stream::once(async move {
            sleep(body_takes).await;
            Ok::<_, std::io::Error>(http_body::Frame::data(good().body_bytes()))
        });
        let body = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(body));
        let request = good().build::<Script>().map(|_| body);
        let (answer, actual) = timed(webhooks.clone().call(request)).await;
        assert_eq!(answer.status(), status);
        assert_took(actual, took);
    }
}

#[tokio::test(start_paused = true)]
async fn the_accept_of_a_slow_inbox_is_dropped_at_the_deadline() {
    let dropped = Arc::new(Notify::new());
    struct Tell(Arc<Notify>);
    impl Drop for Tell {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let tell = Arc::clone(&dropped);
    let inbox = Scripted::new(move |_, _| {
        let tell = Tell(Arc::clone(&tell));
        async move {
            let _tell = tell;
            std::future::pending().await
        }
    });
    assert_eq!(
        ask(&Endpoint::new(inbox), good().build::<Script>())
            .await
            .status(),
        503
    );
    dropped.notified().await;
}

#[tokio::test(start_paused = true)]
async fn the_longest_response_timeout_means_no_deadline() {
    let webhooks = WebhookLayer::new("/", idle())
        .response_timeout(Duration::MAX)
        .endpoint();
    let mut request = start(&webhooks, scripted([Step::Stall]));
    assert_pending!(request.poll());
    advance(Duration::from_secs(1 << 30)).await;
    assert_pending!(request.poll());
}

/// Returns a runtime whose timers never complete and whose clock advances by a millisecond per read. A loop over an
/// endless body ends only if it reads the clock.
fn ticking() -> TestRuntime {
    let now = Mutex::new(Instant::now());
    TestRuntime::tokio()
        .on_sleep(|_| Box::pin(std::future::pending()))
        .on_now(move || {
            let mut now = now.lock().unwrap();
            *now += Duration::from_millis(1);
            *now
        })
}

#[tokio::test]
async fn a_body_of_endless_frames_that_are_never_pending_is_answered_in_time() {
    for step in [
        Step::Endless(Bytes::new()),
        Step::Endless(Bytes::from_static(b" ")),
        Step::EndlessTrailers,
    ] {
        let webhooks = Endpoint::new(MemoryInbox::builder().build_with(ticking(), idle()));
        let answer = ask(&webhooks, scripted([step])).await;
        assert_answer(
            &answer,
            408,
            "the body was not complete in time",
            Some(("connection", "close")),
        );
    }
}

#[tokio::test]
async fn the_drain_of_endless_frames_that_are_never_pending_ends_in_time() {
    for step in [
        Step::Endless(Bytes::new()),
        Step::Endless(Bytes::from_static(b" ")),
        Step::EndlessTrailers,
    ] {
        let inbox = MemoryInbox::builder().build_with(ticking(), idle());
        let webhooks = WebhookLayer::new("/", inbox)
            .verify(SharedSecret::in_query("token", "s3cret"))
            .endpoint();
        assert_eq!(ask(&webhooks, scripted([step])).await.status(), 401);
    }
}

// The drain before an early answer

/// Returns a layer that requires a secret, so its endpoint rejects requests early.
fn picky() -> WebhookLayer {
    WebhookLayer::new("/", idle()).verify(SharedSecret::in_query("token", "s3cret"))
}

const DRAIN: usize = 64 << 10;

#[tokio::test]
async fn an_early_answer_first_reads_an_unread_body_to_its_end() {
    for frames in [0, 1, 63] {
        let request = scripted(vec![Step::Data(Bytes::from(vec![b' '; 1024])); frames]);
        let seen = request.body().seen();
        assert_eq!(ask(&picky().endpoint(), request).await.status(), 401);
        // The last poll returns the body's end.
        assert_eq!((seen.bytes(), seen.polls()), (frames * 1024, frames + 1));
    }
}

#[tokio::test]
async fn an_early_answer_reads_no_more_than_the_limit_of_a_body_or_64_kib() {
    for (limit, drained) in [(1 << 20, 1 << 20), (100 << 10, 100 << 10), (500, DRAIN)] {
        let request = scripted([Step::Endless(Bytes::from(vec![b' '; 1000]))]);
        let seen = request.body().seen();
        let webhooks = picky().max_body_bytes(limit).endpoint();
        assert_eq!(ask(&webhooks, request).await.status(), 401);
        let read = seen.bytes();
        assert!(
            (drained..drained + 1000).contains(&read),
            "the receiver read {read} bytes instead of {drained}"
        );
    }
}

#[tokio::test]
async fn every_early_answer_drains_the_body() {
    let steps = [
        Step::Data(Bytes::from_static(b"x")),
        Step::Wait,
        Step::Data(Bytes::from_static(b"y")),
    ];
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes(500)
        .endpoint();
    for (mock, status) in [
        (good().method(http::Method::PUT), 405),
        (good().header("content-type", "text/plain"), 415),
        (good().header("content-encoding", "gzip"), 415),
        (good().header("content-length", "501"), 413),
    ] {
        let request = mock
            .build::<Script>()
            .map(|_: Script| Script::new(steps.clone()));
        let seen = request.body().seen();
        assert_eq!(ask(&webhooks, request).await.status(), status);
        assert_eq!(seen.bytes(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_stalls_ends_with_the_early_answer_at_the_deadline() {
    let request = scripted([Step::Data(Bytes::from_static(b"x")), Step::Stall]);
    let (answer, took) = timed(picky().endpoint().call(request)).await;
    assert_eq!(answer.status(), 401);
    assert_took(took, 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_drain_shares_the_deadline_of_its_request() {
    let webhooks = WebhookLayer::new("/", idle()).max_body_bytes(1).endpoint();
    let body = futures_util::stream::once(async {
        sleep(2 * SECOND).await;
        Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"too large")))
    });
    let body = futures_util::StreamExt::chain(body, futures_util::stream::pending());
    let body = http_body_util::BodyExt::boxed_unsync(http_body_util::StreamBody::new(body));
    let request = good().build::<Script>().map(|_| body);
    let (answer, took) = timed(webhooks.clone().call(request)).await;
    assert_eq!(answer.status(), 413);
    assert_took(took, 3 * SECOND);
}

#[tokio::test]
async fn a_client_that_expects_a_100_is_answered_at_once_without_a_drain() {
    for expect in ["100-continue", "100-Continue"] {
        let request = good().header("expect", expect).build::<Script>();
        let request = request.map(|_| Script::new([Step::Panic]));
        assert_eq!(ask(&picky().endpoint(), request).await.status(), 401);
    }
}

#[tokio::test]
async fn a_failed_body_is_not_polled_again() {
    let request = scripted([Step::Fail, Step::Panic]);
    assert_eq!(ask(&Endpoint::new(idle()), request).await.status(), 400);
}

#[tokio::test]
async fn a_body_that_fails_during_the_drain_changes_no_answer() {
    let request = scripted([Step::Wait, Step::Fail, Step::Panic]);
    assert_eq!(ask(&picky().endpoint(), request).await.status(), 401);
}

// The budget of bodies in flight

fn data(bytes: usize) -> Step {
    Step::Data(Bytes::from(vec![b' '; bytes]))
}

/// Returns a step that waits until `go` is notified.
fn on_signal(go: &Arc<Notify>) -> Step {
    Step::Signal(Arc::clone(go))
}

#[tokio::test(start_paused = true)]
async fn bodies_in_flight_share_a_budget_and_one_byte_more_is_answered_503() {
    let reasons = Reasons::default();
    let told = reasons.clone();
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes_in_flight(1000)
        .on_rejection(move |rejection| told.add(rejection.reason()))
        .endpoint();
    let mut first = start(
        &webhooks,
        scripted([data(400), Step::Wait, data(200), Step::Stall]),
    );
    let mut second = start(&webhooks, scripted([data(400), Step::Stall]));
    assert_pending!(first.poll());
    assert_pending!(second.poll());
    assert_pending!(first.poll());
    let answer = ask(&webhooks, scripted([data(1)])).await;
    assert_answer(
        &answer,
        503,
        "too many bodies are being read",
        Some(("retry-after", "1")),
    );
    assert_eq!(reasons.take(), [RejectionReason::Busy]);

    // One client disconnects.
    drop(second);
    let mut third = start(&webhooks, scripted([data(400), Step::Stall]));
    assert_pending!(third.poll());
    assert_eq!(ask(&webhooks, scripted([data(1)])).await.status(), 503);

    // The other two requests time out, so their events are rejected.
    advance(4 * SECOND).await;
    assert_eq!((status(&mut first), status(&mut third)), (408, 408));
    assert_eq!(
        ask(&webhooks, good().padded(1000).build::<Script>())
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn complete_bodies_release_their_share_of_the_budget() {
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes_in_flight(1000)
        .endpoint();
    let go = Arc::new(Notify::new());
    let body = Step::Data(good().padded(900).body_bytes());
    let mut reading = start(&webhooks, scripted([body, on_signal(&go)]));
    assert_pending!(reading.poll());
    let request = good().padded(900);
    assert_eq!(
        ask(&webhooks, request.build::<Script>()).await.status(),
        503
    );
    go.notify_one();
    assert!(reading.is_woken());
    assert_eq!(status(&mut reading), 200);
    assert_eq!(
        ask(&webhooks, request.build::<Script>()).await.status(),
        200
    );
}

#[tokio::test]
async fn the_budget_is_held_until_the_inbox_answers() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let inbox = Scripted::new(move |_, _| {
        let wait = Arc::clone(&wait);
        async move {
            wait.notified().await;
            Ok(Accepted::New)
        }
    });
    let webhooks = WebhookLayer::new("/", inbox)
        .max_body_bytes_in_flight(1000)
        .endpoint();
    let mut waiting = start(&webhooks, good().padded(900).build());
    assert_pending!(waiting.poll());
    let answer = ask(&webhooks, good().padded(101).build::<Script>()).await;
    let text = "too many bodies are being read";
    assert_answer(&answer, 503, text, Some(("retry-after", "1")));
    go.notify_one();
    assert_eq!(status(&mut waiting), 200);
    go.notify_one();
    assert_eq!(
        ask(&webhooks, good().padded(900).build::<Script>())
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_declared_length_alone_uses_no_budget() {
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes_in_flight(1000)
        .endpoint();
    let request = good().header("content-length", "1000").build::<Script>();
    let request = request.map(|_| Script::new([Step::Stall]).declaring(1000));
    let mut announced = start(&webhooks, request);
    assert_pending!(announced.poll());
    assert_eq!(
        ask(&webhooks, good().padded(1000).build::<Script>())
            .await
            .status(),
        200
    );
}

#[tokio::test]
async fn a_rejected_body_uses_no_budget_while_it_is_drained() {
    // The receiver rejects the body because the budget is full. The rest of the body hasn't arrived.
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes_in_flight(1000)
        .endpoint();
    let mut reading = start(&webhooks, scripted([data(600), Step::Stall]));
    assert_pending!(reading.poll());
    let mut refused = start(&webhooks, scripted([data(300), data(300), Step::Stall]));
    assert_pending!(refused.poll());
    assert_eq!(
        ask(&webhooks, good().padded(400).build::<Script>())
            .await
            .status(),
        200
    );

    // The receiver rejects the body because of its size.
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes(600)
        .max_body_bytes_in_flight(1000)
        .endpoint();
    let mut refused = start(&webhooks, scripted([data(500), data(500), Step::Stall]));
    assert_pending!(refused.poll());
    assert_eq!(
        ask(&webhooks, good().padded(600).build::<Script>())
            .await
            .status(),
        200
    );

    // The receiver rejects the request because of its head.
    let webhooks = picky().max_body_bytes_in_flight(1000).endpoint();
    let mut refused = start(&webhooks, scripted([data(1000), Step::Stall]));
    assert_pending!(refused.poll());
    let request = good().query("token", "s3cret").padded(1000);
    assert_eq!(
        ask(&webhooks, request.build::<Script>()).await.status(),
        200
    );
}

#[tokio::test]
async fn all_clones_of_a_layer_share_one_budget() {
    let layer = WebhookLayer::new(PATH, idle()).max_body_bytes_in_flight(1000);
    let request = scripted([data(1000), Step::Stall]);
    let mut stalled = spawn(layer.clone().layer(teapot()).call(request));
    assert_pending!(stalled.poll());
    for other in [layer.layer(teapot()), layer.clone().layer(teapot())] {
        assert_eq!(ask(&other, scripted([data(1)])).await.status(), 503);
    }
    assert_eq!(
        ask(&layer.endpoint(), scripted([data(1)])).await.status(),
        503
    );
    drop(stalled);
    assert_eq!(
        ask(&layer.endpoint(), good().build::<Script>())
            .await
            .status(),
        200
    );
}
