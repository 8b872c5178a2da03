//! Hostile handlers, hooks, subscribers and runtimes. The inbox loses no event, counts each event once, and
//! never hangs.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, Accepted, BoxFuture, DeliverySettings, Endpoint, Event, EventRouter, Handle,
    HandlerError, Inbox, MemoryInbox, RetryPolicy, Runtime, TokioRuntime, WebhookLayer,
};
use futures_util::FutureExt;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

use crate::support::runtime::TestRuntime;
use crate::support::{balanced, event, wait_idle};

/// Fails a test that would otherwise hang forever.
const BOUND: Duration = Duration::from_secs(20);

/// Repeatedly uses up the task's cooperative budget in tokio.
async fn busy(permits: &Semaphore) {
    loop {
        drop(permits.acquire().await);
    }
}

/// The bug: tokio's timers stay pending in a task that has used up its budget, as this handler always has.
#[tokio::test]
async fn a_handler_that_is_always_busy_is_timed_out() {
    let router = EventRouter::new().on("a", |_: Event| async { busy(&Semaphore::new(1)).await });
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .attempt_timeout(Duration::from_millis(10))
                .retry(RetryPolicy::no_retry()),
        )
        .build(router);
    inbox.accept(event("1")).await.unwrap();
    assert_eq!(wait_idle(&inbox.handle()).await.dead, 1);
}

/// The bug: if the inbox used up the task's budget, the receiver's timer stayed pending.
#[tokio::test]
async fn an_inbox_that_is_always_busy_is_answered_503() {
    #[derive(Clone)]
    struct Busy;

    impl Inbox for Busy {
        fn accept(
            &self,
            _: Event,
        ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
            let permits = Semaphore::new(1);
            async move {
                busy(&permits).await;
                Ok(Accepted::New)
            }
        }

        fn runtime(&self) -> Arc<dyn Runtime> {
            Arc::new(TokioRuntime::new())
        }

        fn handle(&self) -> Handle {
            MemoryInbox::new(EventRouter::new()).handle()
        }
    }

    let webhooks = WebhookLayer::new("/", Busy)
        .response_timeout(Duration::from_millis(10))
        .endpoint();
    let request = MockRequest::event("a").build::<http_body_util::Full<bytes::Bytes>>();
    let answer = tokio::spawn(tower::ServiceExt::oneshot(webhooks, request));
    let answer = tokio::time::timeout(BOUND, answer).await;
    assert_eq!(answer.expect("an answer").unwrap().unwrap().status(), 503);
}

/// The bug: a tokio timer panics if its runtime shuts down.
#[tokio::test]
async fn a_drain_returns_the_remaining_events_when_their_runtime_shuts_down() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().concurrency(1))
        .build_with(
            TokioRuntime::with_handle(runtime.handle().clone()),
            EventRouter::new().on("a", |_: Event| pending::<()>()),
        );
    for id in ["1", "2"] {
        inbox.accept(event(id)).await.unwrap();
    }
    let handle = inbox.handle();
    while handle.stats().running == 0 {
        tokio::task::yield_now().await;
    }
    let mut drain = tokio_test::task::spawn(handle.drain(BOUND * 10));
    tokio_test::assert_pending!(drain.poll());
    runtime.shutdown_background();
    let drained = tokio::time::timeout(BOUND, drain).await;
    assert_eq!(drained.expect("it ends").remaining, 1);
    balanced(&handle.stats());
}

/// The bug: after a runtime had shut down, only a drain started workers for the remaining events.
#[test]
fn wait_idle_runs_the_events_that_a_runtime_left_behind() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            pending::<()>().await;
        }
    });
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().concurrency(1))
        .build(router);
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async {
        for id in ["1", "2"] {
            inbox.accept(event(id)).await.unwrap();
        }
        while inbox.handle().stats().running == 0 {
            tokio::task::yield_now().await;
        }
    });
    let stats = runtime().block_on(wait_idle(&inbox.handle()));
    assert_eq!((stats.dead, stats.handled), (1, 1));
}

/// A user-defined body that panics.
struct Explosive;

impl http_body::Body for Explosive {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
        panic!("a body that panics")
    }
}

impl Drop for Explosive {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a second panic when it is dropped")
        }
    }
}

#[tokio::test]
async fn a_body_that_panics_is_answered_503() {
    let webhooks = Endpoint::new(EventRouter::new());
    for method in ["POST", "GET"] {
        let request = http::Request::builder().method(method).body(Explosive);
        let answer = tokio::spawn(tower::ServiceExt::oneshot(
            webhooks.clone(),
            request.unwrap(),
        ));
        let answer = answer.await.expect("the receiver catches panics").unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["connection"], "close");
    }
    assert_eq!(webhooks.handle().stats().rejected, 2);
}

/// When a runtime runs a spawned task.
#[derive(Clone, Copy, Debug)]
enum Spawns {
    /// Runs the task to completion before `spawn` returns.
    Inline,
    /// Polls the task once before `spawn` returns, and again later.
    OnceInline,
    /// Starts the task on another thread before `spawn` returns.
    Elsewhere,
    /// Drops the task after its first poll.
    Drops,
}

/// When a runtime's timers complete.
#[derive(Clone, Copy, Debug)]
enum Sleeps {
    AtOnce,
    Never,
    PanicsWhenPolled,
}

fn odd(spawns: Spawns, sleeps: Sleeps) -> TestRuntime {
    TestRuntime::shut_down()
        .on_spawn(move |mut task| match spawns {
            Spawns::Inline => smol::block_on(task),
            Spawns::OnceInline => {
                if task.as_mut().now_or_never().is_none() {
                    smol::spawn(task).detach();
                }
            }
            Spawns::Elsewhere => {
                let (began, begin) = std::sync::mpsc::channel();
                std::thread::spawn(move || {
                    smol::block_on(async move {
                        let first = futures_util::poll!(task.as_mut());
                        began.send(()).unwrap();
                        if first.is_pending() {
                            task.await;
                        }
                    });
                });
                begin.recv_timeout(BOUND).unwrap();
            }
            Spawns::Drops => drop(task.as_mut().now_or_never()),
        })
        .on_sleep(move |_| match sleeps {
            Sleeps::AtOnce => Box::pin(async {}),
            Sleeps::Never => Box::pin(pending()),
            Sleeps::PanicsWhenPolled => Box::pin(async { panic!("no timers") }),
        })
}

#[tokio::test]
async fn no_kind_of_runtime_loses_or_miscounts_an_event() {
    let timers = [Sleeps::AtOnce, Sleeps::Never, Sleeps::PanicsWhenPolled];
    for spawns in [
        Spawns::Inline,
        Spawns::OnceInline,
        Spawns::Elsewhere,
        Spawns::Drops,
    ] {
        for sleeps in timers {
            let runs = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&runs);
            let router = EventRouter::new().on("a", move |event: Event| async move {
                counted.fetch_add(1, Ordering::SeqCst);
                if event.attempt() == 1 && event.id().ends_with('3') {
                    smol::future::yield_now().await;
                }
                Ok::<_, HandlerError>(())
            });
            let inbox = MemoryInbox::builder()
                .delivery(
                    DeliverySettings::new()
                        .retry(RetryPolicy::new().max_attempts(3))
                        .concurrency(2),
                )
                .build_with(odd(spawns, sleeps), router);
            for id in 0..30 {
                let accepted = inbox.accept(event(id.to_string())).await;
                assert_eq!(accepted, Ok(Accepted::New), "{spawns:?} {sleeps:?}");
                balanced(&inbox.handle().stats());
            }
            let stats = wait_idle(&inbox.handle()).await;
            assert_eq!(stats.handled + stats.dead, 30);
            assert!(runs.load(Ordering::SeqCst) >= 30);
            let drained = tokio::time::timeout(BOUND, inbox.handle().drain(BOUND)).await;
            assert_eq!(drained.expect("it ends").remaining, 0);
        }
    }
}

/// The bug: if the timer of a retry panicked, the panic reached the executor.
#[tokio::test]
async fn a_retry_whose_timer_panics_runs_at_once() {
    for spawns in [Spawns::Inline, Spawns::OnceInline, Spawns::Elsewhere] {
        let runtime = odd(spawns, Sleeps::PanicsWhenPolled);
        let inbox = MemoryInbox::builder()
            .delivery(DeliverySettings::new().retry(RetryPolicy::new().max_attempts(3)))
            .build_with(
                runtime,
                EventRouter::new().on("a", |event: Event| async move {
                    (event.attempt() == 3).then_some(()).ok_or("not yet")
                }),
            );
        inbox.accept(event("1")).await.unwrap();
        let stats = wait_idle(&inbox.handle()).await;
        assert_eq!((stats.handled, stats.retried), (1, 2), "{spawns:?}");
    }
}

#[tokio::test]
async fn a_hook_may_drain_add_hooks_and_accept() {
    let slot: Arc<Mutex<Option<MemoryInbox>>> = Arc::default();
    let own = Arc::clone(&slot);
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .concurrency(1)
                .on_attempt(move |delivery| {
                    let inbox = own.lock().unwrap().clone().unwrap();
                    balanced(&inbox.handle().stats());
                    let id = format!("{}-again", delivery.event().id());
                    let accept = inbox.accept(event(&id)).now_or_never();
                    assert!(accept.is_some());
                    inbox.handle().on_attempt(|_| {});
                    if id.len() > 100 {
                        assert!(inbox.handle().drain(BOUND).now_or_never().is_none());
                    }
                }),
        )
        .build(EventRouter::new());
    *slot.lock().unwrap() = Some(inbox.clone());
    inbox.accept(event("1")).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert!(stats.unhandled > 10 && stats.refused == 1, "{stats:?}");
    slot.lock().unwrap().take();
}

#[test]
fn a_waker_may_read_the_counts() {
    struct Asks(Handle, AtomicU32);

    impl std::task::Wake for Asks {
        fn wake(self: Arc<Self>) {
            balanced(&self.0.stats());
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }

    let runtime = Builder::new_multi_thread().enable_all().build().unwrap();
    let inbox = MemoryInbox::builder().build_with(
        TokioRuntime::with_handle(runtime.handle().clone()),
        EventRouter::new().on("a", |_: Event| tokio::task::yield_now()),
    );
    let handle = inbox.handle();
    let asks = Arc::new(Asks(handle.clone(), AtomicU32::new(0)));
    let waker = std::task::Waker::from(Arc::clone(&asks));
    let mut cx = std::task::Context::from_waker(&waker);
    for id in 0..2000 {
        runtime
            .block_on(inbox.accept(event(id.to_string())))
            .unwrap();
        let mut waits: [BoxFuture<()>; 2] =
            [Box::pin(handle.wait_idle()), Box::pin(handle.wait_idle())];
        for wait in &mut waits {
            let _ = wait.as_mut().poll(&mut cx);
        }
    }
    runtime.block_on(wait_idle(&handle));
}

#[cfg(feature = "tracing")]
mod subscribers {
    use tracing::span::{Attributes, Id, Record};

    use tracing::subscriber::DefaultGuard;
    use tracing::{Metadata, Subscriber};

    use super::*;

    /// Calls the test's closure with the name of each callback.
    struct Told<F>(F);

    impl<F: Fn(&'static str) + 'static> Subscriber for Told<F> {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target() == "botisimo_webhooks"
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            (self.0)("new_span");
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            (self.0)("event");
        }

        fn enter(&self, _: &Id) {
            (self.0)("enter");
        }

        fn exit(&self, _: &Id) {
            (self.0)("exit");
        }

        fn clone_span(&self, id: &Id) -> Id {
            (self.0)("clone_span");
            id.clone()
        }

        fn try_close(&self, _: Id) -> bool {
            (self.0)("try_close");
            true
        }
    }

    fn subscribe(told: impl Fn(&'static str) + Send + Sync + 'static) -> DefaultGuard {
        crate::support::subscriber::set(Told(told))
    }

    /// Two bugs. If the warning about a panicked hook panicked, the event wasn't counted. If entering a span panicked,
    /// the value inside the span wasn't dropped.
    #[tokio::test]
    async fn every_event_is_counted_though_the_subscriber_panics() {
        for panics in [
            "new_span",
            "enter",
            "exit",
            "clone_span",
            "try_close",
            "event",
        ] {
            let inbox = MemoryInbox::builder()
                .delivery(
                    DeliverySettings::new()
                        .retry(
                            RetryPolicy::new()
                                .max_attempts(2)
                                .initial_delay(Duration::ZERO),
                        )
                        .concurrency(1)
                        .on_attempt(|_| panic!("a hook that panics")),
                )
                .build(EventRouter::new().on("a", |_: Event| async { Err::<(), _>("failed") }));
            // A second panic during unwinding always aborts the process.
            let guard =
                subscribe(move |callback| assert!(callback != panics || std::thread::panicking()));
            for id in ["1", "2", "3"] {
                inbox.accept(event(id)).await.unwrap();
            }
            let stats = wait_idle(&inbox.handle()).await;
            assert_eq!(stats.dead, 3, "{panics}: {stats:?}");
            drop(guard);
        }
    }

    /// The bug: if opening an event's span panicked, the event was dead without an attempt.
    #[tokio::test]
    async fn events_are_handled_though_the_subscriber_panics_when_a_span_opens_or_closes() {
        for panics in ["new_span", "clone_span", "try_close", "event"] {
            let inbox = MemoryInbox::new(EventRouter::new().on("a", |_: Event| async {}));
            let guard =
                subscribe(move |callback| assert!(callback != panics || std::thread::panicking()));
            for id in ["1", "2", "3"] {
                inbox.accept(event(id)).await.unwrap();
            }
            let stats = wait_idle(&inbox.handle()).await;
            assert_eq!(stats.handled, 3, "{panics}: {stats:?}");
            drop(guard);
        }
    }

    #[tokio::test]
    async fn every_request_is_answered_though_the_subscriber_panics() {
        let inbox = MemoryInbox::new(EventRouter::new());
        let webhooks = WebhookLayer::new("/", inbox)
            .on_rejection(|_| panic!("a hook that panics"))
            .endpoint();
        let _guard = subscribe(|callback| assert_ne!(callback, "event"));
        for (method, status) in [("POST", 200), ("GET", 405)] {
            let request = MockRequest::event("a").method(method.parse().unwrap());
            let request = request.build::<http_body_util::Full<bytes::Bytes>>();
            let answer = tokio::spawn(tower::ServiceExt::oneshot(webhooks.clone(), request));
            let answer = answer.await.expect("the receiver catches panics").unwrap();
            assert_eq!(answer.status(), status);
        }
        assert_eq!(wait_idle(&webhooks.handle()).await.accepted, 1);
    }

    #[tokio::test]
    async fn a_subscriber_may_read_the_counts_in_every_callback() {
        let slot: Arc<Mutex<Option<Handle>>> = Arc::default();
        let (asked, asks) = (Arc::new(AtomicU32::new(0)), Arc::clone(&slot));
        let count = Arc::clone(&asked);
        let _guard = subscribe(move |_| {
            if let Some(handle) = &*asks.lock().unwrap() {
                balanced(&handle.stats());
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let inbox = MemoryInbox::builder()
            .delivery(
                DeliverySettings::new()
                    .retry(
                        RetryPolicy::new()
                            .max_attempts(3)
                            .initial_delay(Duration::ZERO),
                    )
                    .concurrency(2),
            )
            .max_events(5)
            .max_remembered_ids(3)
            .build(EventRouter::new().on("a", |_: Event| async { Err::<(), _>("failed") }));
        *slot.lock().unwrap() = Some(inbox.handle());
        for id in 0..50 {
            let _ = inbox.accept(event((id / 2).to_string())).await;
        }
        wait_idle(&inbox.handle()).await;
        assert!(asked.load(Ordering::SeqCst) > 20);
    }
}
