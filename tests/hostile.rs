//! The user's code and runtimes at their worst: no event is lost or miscounted, and nothing hangs.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used)]

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, Endpoint, Event, EventRouter, Handle, Inbox, MemoryInbox, Refused, RetryPolicy,
    Runtime, Stats, TokioRuntime,
};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

/// Bounds what would hang for ever.
const BOUND: Duration = Duration::from_secs(20);

fn event(id: impl AsRef<str>) -> Event {
    MockRequest::event("a").message_id(id).to_event()
}

/// Law 2.
#[track_caller]
fn balanced(stats: &Stats) {
    let came = stats.accepted + stats.recovered + stats.replayed;
    let ended = stats.handled + stats.unhandled + stats.dead;
    assert_eq!(came, ended + stats.in_flight(), "{stats:?}");
}

async fn settled(handle: &Handle) -> Stats {
    let settled = tokio::time::timeout(BOUND, handle.settled()).await;
    settled.unwrap_or_else(|_| panic!("it hangs: {:?}", handle.stats()));
    let stats = handle.stats();
    balanced(&stats);
    assert_eq!((stats.in_flight(), stats.bytes), (0, 0));
    stats
}

/// Uses up what tokio lets a task do at once, again and again.
async fn busy(permits: &Semaphore) {
    loop {
        drop(permits.acquire().await);
    }
}

/// The bug: tokio's timers pretend not to be over in a task that has used up its budget, which such a handler always has.
#[tokio::test]
async fn a_handler_that_is_always_busy_is_timed_out() {
    let router = EventRouter::new().on("a", |_: Event| async { busy(&Semaphore::new(1)).await });
    let inbox = MemoryInbox::builder()
        .attempt_timeout(Duration::from_millis(10))
        .retry(RetryPolicy::never())
        .build(router);
    inbox.accept(event("1")).await.unwrap();
    assert_eq!(settled(&inbox.handle()).await.dead, 1);
}

/// The same bug, at the front door.
#[tokio::test]
async fn an_inbox_that_is_always_busy_is_answered_503() {
    #[derive(Clone)]
    struct Busy;

    impl Inbox for Busy {
        fn accept(
            &self,
            _: Event,
        ) -> impl Future<Output = Result<Accepted, Refused>> + Send + 'static {
            async {
                busy(&Semaphore::new(1)).await;
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

    let webhooks = Endpoint::new(Busy).ack_within(Duration::from_millis(10));
    let request = MockRequest::event("a").build::<http_body_util::Full<bytes::Bytes>>();
    let answer = tokio::spawn(tower::ServiceExt::oneshot(webhooks, request));
    let answer = tokio::time::timeout(BOUND, answer).await;
    assert_eq!(answer.expect("an answer").unwrap().unwrap().status(), 503);
}

/// The bug: a timer of tokio's panics if its runtime shuts down.
#[tokio::test]
async fn a_drain_says_what_is_left_when_the_runtime_of_the_deliveries_shuts_down() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let inbox = MemoryInbox::builder().max_running(1).build_on(
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
    assert_eq!(drained.expect("it ends").left, 1);
    balanced(&handle.stats());
}

/// The bug: only a drain put workers to what a runtime that had shut down left behind.
#[test]
fn who_waits_until_all_is_settled_gets_delivered_what_a_runtime_left_behind() {
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            pending::<()>().await;
        }
    });
    let inbox = MemoryInbox::builder().max_running(1).build(router);
    let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
    runtime().block_on(async {
        for id in ["1", "2"] {
            inbox.accept(event(id)).await.unwrap();
        }
        while inbox.handle().stats().running == 0 {
            tokio::task::yield_now().await;
        }
    });
    let stats = runtime().block_on(settled(&inbox.handle()));
    assert_eq!((stats.dead, stats.handled), (1, 1));
}
