//! The shutdown drains the inbox before the server closes, and ends within its limits.

use std::convert::Infallible;
use std::error::Error as _;
use std::future::{pending, ready};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, BoxFuture, Drained, Error, ErrorKind, Event, EventRouter, Handle,
    Inbox, MemoryInbox, Shutdown,
};
use futures_util::FutureExt;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{event, run_ready_tasks};

/// An inbox whose handlers wait for a permit, and the sender that stops its shutdown.
struct Held {
    inbox: MemoryInbox,
    gate: Arc<Semaphore>,
    stop: oneshot::Sender<()>,
    shutdown: Shutdown,
}

fn held() -> Held {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let router = EventRouter::new().on("a", |_: Event| async move {
        held.acquire().await.unwrap().forget();
    });
    let inbox = MemoryInbox::new(router);
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = inbox.handle().shutdown_on(async { drop(stopped.await) });
    Held {
        inbox,
        gate,
        stop,
        shutdown,
    }
}

/// Returns a server that sets the flag once the inbox has drained, and ends `takes` later.
fn server(
    closing: &Arc<AtomicBool>,
    takes: Duration,
) -> impl FnOnce(BoxFuture<()>) -> BoxFuture<io::Result<()>> + Send + use<> {
    let closing = Arc::clone(closing);
    move |drained| {
        Box::pin(async move {
            drained.await;
            closing.store(true, Ordering::Relaxed);
            tokio::time::sleep(takes).await;
            Ok(())
        })
    }
}

type Serving = JoinHandle<Result<Drained, Error>>;

/// Serves in a task until all tasks wait.
async fn serving(shutdown: Shutdown, closing: &Arc<AtomicBool>, takes: Duration) -> Serving {
    let serving = tokio::spawn(shutdown.serve(server(closing, takes)));
    run_ready_tasks().await;
    assert!(!serving.is_finished());
    serving
}

async fn refuses(inbox: &MemoryInbox) -> bool {
    inbox.accept(event("another")).await == Err(AcceptError::new(AcceptErrorKind::Draining))
}

fn remaining(handle: &Handle) -> u64 {
    handle.stats().in_flight()
}

#[tokio::test(start_paused = true)]
async fn the_server_closes_only_after_the_inbox_has_drained() {
    let closing = Arc::default();
    let Held {
        inbox,
        gate,
        stop,
        shutdown,
    } = held();
    let serving = serving(shutdown, &closing, Duration::ZERO).await;
    inbox.accept(event("1")).await.unwrap();
    run_ready_tasks().await;
    stop.send(()).unwrap();
    run_ready_tasks().await;
    assert!(refuses(&inbox).await);
    assert!(!closing.load(Ordering::Relaxed));

    gate.add_permits(1);
    assert_eq!(serving.await.unwrap().unwrap().remaining, 0);
    assert!(closing.load(Ordering::Relaxed));
    assert_eq!(inbox.handle().stats().handled, 1);
}

#[tokio::test(start_paused = true)]
async fn an_idle_inbox_closes_its_server_at_once() {
    let (closing, start) = (Arc::default(), Instant::now());
    let Held { stop, shutdown, .. } = held();
    let serving = serving(shutdown, &closing, Duration::ZERO).await;
    stop.send(()).unwrap();
    assert_eq!(serving.await.unwrap().unwrap().remaining, 0);
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_and_a_client_that_hang_end_the_shutdown_after_20_and_4_s() {
    let closing = Arc::default();
    let Held {
        inbox,
        gate: _gate,
        stop,
        shutdown,
    } = held();
    let serving = serving(shutdown, &closing, Duration::MAX).await;
    inbox.accept(event("1")).await.unwrap();
    let start = Instant::now();
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert!(!closing.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(closing.load(Ordering::Relaxed));
    assert_eq!(serving.await.unwrap().unwrap().remaining, 1);
    let took = start.elapsed().as_millis();
    assert!((24_000..24_100).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn both_limits_can_be_set() {
    let closing = Arc::default();
    let Held {
        inbox,
        gate: _gate,
        stop,
        shutdown,
    } = held();
    let shutdown = shutdown
        .drain_timeout(Duration::from_secs(100))
        .close_timeout(Duration::from_secs(50));
    let serving = serving(shutdown, &closing, Duration::MAX).await;
    inbox.accept(event("1")).await.unwrap();
    let start = Instant::now();
    stop.send(()).unwrap();
    assert_eq!(serving.await.unwrap().unwrap().remaining, 1);
    let took = start.elapsed().as_millis();
    assert!((150_000..150_100).contains(&took), "{took} ms");
}

#[tokio::test(start_paused = true)]
async fn an_event_that_ends_while_the_server_closes_does_not_remain() {
    let closing = Arc::default();
    let Held {
        inbox,
        gate,
        stop,
        shutdown,
    } = held();
    let serving = serving(shutdown, &closing, Duration::from_secs(3)).await;
    inbox.accept(event("1")).await.unwrap();
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert!(closing.load(Ordering::Relaxed));
    gate.add_permits(1);
    assert_eq!(serving.await.unwrap().unwrap().remaining, 0);
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_server_is_returned_after_the_inbox_has_drained() {
    let Held {
        inbox,
        gate,
        stop: _stop,
        shutdown,
    } = held();
    inbox.accept(event("1")).await.unwrap();
    let failed = ready(Err(io::Error::other("no more descriptors")));
    let serving = tokio::spawn(shutdown.serve(|_| failed));
    run_ready_tasks().await;
    assert!(refuses(&inbox).await);
    assert!(!serving.is_finished());
    gate.add_permits(1);
    let error = serving.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Server);
    assert_eq!(error.to_string(), "the server has failed");
    assert_eq!(error.source().unwrap().to_string(), "no more descriptors");
    assert_eq!(inbox.handle().stats().handled, 1);
    // A `main` may return `io::Result<()>`.
    assert_eq!(io::Error::from(error).to_string(), "the server has failed");
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_server_that_fails_during_the_drain_is_returned_after_the_drain() {
    let Held {
        inbox,
        gate,
        stop,
        shutdown,
    } = held();
    inbox.accept(event("1")).await.unwrap();
    let serving = tokio::spawn(shutdown.serve(async |_drained| {
        tokio::time::sleep(Duration::from_secs(5)).await;
        Err("the listener is gone")
    }));
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!serving.is_finished());
    gate.add_permits(1);
    let error = serving.await.unwrap().unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "the listener is gone");
    assert_eq!(remaining(&inbox.handle()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_early_is_followed_by_a_drain_that_the_stop_does_not_end() {
    let Held {
        inbox,
        gate,
        stop,
        shutdown,
    } = held();
    inbox.accept(event("1")).await.unwrap();
    let serving = tokio::spawn(shutdown.serve(|_| ready(Ok::<_, Infallible>(()))));
    run_ready_tasks().await;
    stop.send(()).unwrap();
    run_ready_tasks().await;
    assert!(!serving.is_finished());
    gate.add_permits(1);
    assert_eq!(serving.await.unwrap().unwrap().remaining, 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_server_the_shutdown_waits_and_drains() {
    let Held {
        inbox,
        gate,
        stop,
        shutdown,
    } = held();
    inbox.accept(event("1")).await.unwrap();
    let waiting = tokio::spawn(shutdown.into_future());
    run_ready_tasks().await;
    assert!(!waiting.is_finished());
    stop.send(()).unwrap();
    run_ready_tasks().await;
    assert!(!waiting.is_finished());
    gate.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap().remaining, 0);
}

#[tokio::test(start_paused = true)]
async fn two_inboxes_drain_at_the_same_time_and_their_events_are_added() {
    let (first, second) = (held(), held());
    for number in ["1", "2", "3"] {
        first.inbox.accept(event(number)).await.unwrap();
    }
    second.inbox.accept(event("1")).await.unwrap();
    let (start, other) = (Instant::now(), second.inbox.handle());
    let shutdown = first.shutdown.also_drain(move |within| other.drain(within));
    first.stop.send(()).unwrap();
    assert_eq!(shutdown.await.unwrap().remaining, 4);
    assert!(start.elapsed() < Duration::from_secs(21));
    assert!(refuses(&second.inbox).await);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_shutdown_drops_the_server_and_drains_nothing() {
    let closing = Arc::default();
    let Held {
        inbox,
        gate: _gate,
        stop: _stop,
        shutdown,
    } = held();
    let serving = serving(shutdown, &closing, Duration::MAX).await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(!closing.load(Ordering::Relaxed));
    inbox.accept(event("1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_dropped_during_its_drain_leaves_the_inbox_draining_and_tells_the_server() {
    let Held {
        inbox,
        gate: _gate,
        stop,
        shutdown,
    } = held();
    inbox.accept(event("1")).await.unwrap();
    // The server runs in a task that outlives the shutdown.
    let (ended, end) = oneshot::channel();
    let serving = tokio::spawn(shutdown.serve(|drained| {
        tokio::spawn(async move {
            drained.await;
            ended.send(()).unwrap();
        })
        .map(|_| Ok::<_, Infallible>(()))
    }));
    stop.send(()).unwrap();
    run_ready_tasks().await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    assert!(refuses(&inbox).await);
    end.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_the_drain_is_dropped_after_its_time_to_close() {
    let Held { stop, shutdown, .. } = held();
    stop.send(()).unwrap();
    let start = Instant::now();
    let served = shutdown.serve(|_| pending::<Result<(), Infallible>>());
    assert_eq!(served.await.unwrap().remaining, 0);
    assert!(start.elapsed() < Duration::from_millis(4_100));
}

/// Asserts that the shutdown returns an error before its server starts.
#[cfg(feature = "signal")]
async fn starts_no_server(shutdown: Shutdown) {
    let served = shutdown.serve(|_| -> BoxFuture<io::Result<()>> { panic!("the server starts") });
    let error = served.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Signal);
    assert!(error.to_string().contains("shutdown_on"), "{error}");
}

#[cfg(feature = "signal")]
#[test]
fn without_a_tokio_runtime_or_its_driver_signals_are_an_error_and_no_server_starts() {
    let inbox = MemoryInbox::new(EventRouter::new());
    let handle = inbox.handle();
    smol::block_on(starts_no_server(handle.shutdown_on_signal()));
    let without_driver = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    without_driver.block_on(async { starts_no_server(handle.shutdown_on_signal()).await });
}

#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn the_log_says_why_a_shutdown_takes_long() {
    let (log, _guard) = crate::support::subscriber::capture("info");
    let Held {
        inbox,
        gate: _gate,
        stop,
        shutdown,
    } = held();
    inbox.accept(event("1")).await.unwrap();
    stop.send(()).unwrap();
    let served = shutdown.serve(|_| pending::<Result<(), Infallible>>());
    assert_eq!(served.await.unwrap().remaining, 1);
    assert!(log.line("shutting down").contains("INFO"));
    assert!(log.line("hasn't closed in time").contains("timeout=4s"));
    assert!(
        log.line("some events haven't ended")
            .contains("remaining=1")
    );
}
