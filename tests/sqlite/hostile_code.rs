//! Unusual runtimes, wakers, subscribers and shutdowns of the inbox on disk. No event is lost, and no panic
//! stops another event.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use botisimo_webhooks::{
    Accepted, BoxFuture, Event, EventRouter, Handle, HandlerError, Inbox, SqliteInbox, TokioRuntime,
};
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{self, Layer, SubscriberExt};

use crate::support::runtime::TestRuntime;
use crate::support::sqlite::{InboxFile, Log, delivery, gated, logging};
use crate::support::{balanced, event, key, keyed, until, wait_idle};

#[test]
fn the_inbox_runs_without_tokio() {
    let (place, log) = (InboxFile::new(), Log::default());
    smol::block_on(async {
        for round in 0..2 {
            let write = log.clone();
            let router = EventRouter::new().on("a", move |event: Event| async move {
                assert!(tokio::runtime::Handle::try_current().is_err());
                write.run(&event);
                smol::Timer::after(Duration::from_millis(1)).await;
                if event.attempt() < 3 {
                    Err("not yet")
                } else {
                    Ok(())
                }
            });
            let inbox = place
                .inbox()
                .open_with(TestRuntime::smol(), router)
                .await
                .unwrap();
            for i in 0..10 {
                let event = event(format!("{round}-{i}"));
                assert_eq!(inbox.accept(event).await, Ok(Accepted::New));
            }
            inbox.handle().wait_idle().await;
            assert_eq!(inbox.handle().stats().handled, 10);
            assert_eq!(
                inbox
                    .handle()
                    .drain(Duration::from_secs(60))
                    .await
                    .remaining,
                0
            );
        }
    });
    assert_eq!(log.len(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_closed_after_the_last_handle_is_dropped() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(EventRouter::new()).await.unwrap();
    let others: (SqliteInbox, Handle, _) =
        (inbox.clone(), inbox.handle(), inbox.handle().dead_letters());
    drop(inbox);
    let owned = || SqliteInbox::open(place.path(), EventRouter::new());
    assert!(owned().await.is_err());
    drop((others.0, others.1));
    assert!(
        owned().await.is_err(),
        "the dead letters keep the file open"
    );
    drop(others.2);
    // The next process finds one file and no WAL. The bug: the inbox released the lock too early.
    place.free().await;
    assert!(!place.folder().join("inbox.db-wal").exists());
    assert!(owned().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_accepted_even_if_the_inbox_is_dropped_meanwhile() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let accepting: Vec<_> = (0..20)
        .map(|i| inbox.accept(event(i.to_string())))
        .collect();
    drop(inbox);
    for answer in join_all(accepting).await {
        assert_eq!(answer, Ok(Accepted::New));
    }
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!((log.len(), log.counts().len()), (20, 20));
}

#[test]
fn a_runtime_that_shuts_down_while_handlers_run_loses_nothing() {
    let (place, log) = (InboxFile::new(), Log::default());
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let gate = Arc::new(Semaphore::new(0));
    let first = runtime();
    let inbox = first.block_on(async {
        let builder = place.inbox().delivery(delivery().concurrency(3));
        let inbox = builder.open(gated(&log, &gate)).await.unwrap();
        for i in 0..10 {
            inbox.accept(event(i.to_string())).await.unwrap();
        }
        until(|| log.len() == 3).await;
        inbox
    });
    drop(first);
    let second = runtime();
    second.block_on(async {
        let handle = inbox.handle();
        // No worker runs, and the inbox still accepts events.
        until(|| handle.stats().running == 0).await;
        balanced(&handle.stats());
        assert_eq!((handle.stats().dead, handle.stats().in_flight()), (0, 10));
        assert_eq!(inbox.accept(event("10")).await, Ok(Accepted::New));
        assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
        drop((inbox, handle));
        let log = Log::default();
        let inbox = place.inbox().open(logging(&log)).await.unwrap();
        assert_eq!(inbox.handle().stats().recovered, 11);
        wait_idle(&inbox.handle()).await;
        // The inbox repeats the dropped attempt with the same number.
        let counts = log.counts();
        assert_eq!((log.len(), counts.len()), (11, 11));
        assert!((0..11).all(|i| counts[&format!("{i}#1")] == 1));
        assert_eq!(inbox.handle().stats().handled, 11);
    });
}

/// The bug: a route that had succeeded ran again after its runtime dropped the attempt.
#[test]
fn a_route_that_finished_in_a_dropped_attempt_doesnt_run_again() {
    let (place, log) = (InboxFile::new(), Log::default());
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap()
    };
    let router = |hang: bool| {
        let (quick, slow) = (log.clone(), log.clone());
        EventRouter::new()
            .on("a", move |_: Event| async move { quick.write("quick") })
            .on_any(move |_: Event| async move {
                slow.write("slow");
                if hang {
                    std::future::pending::<()>().await;
                }
            })
    };
    let first = runtime();
    let inbox = first.block_on(async {
        let inbox = place.inbox().open(router(true)).await.unwrap();
        inbox.accept(event("1")).await.unwrap();
        until(|| log.len() == 2).await;
        inbox
    });
    drop(first);
    drop(inbox);
    runtime().block_on(async {
        let inbox = place.inbox().open(router(false)).await.unwrap();
        wait_idle(&inbox.handle()).await;
        assert_eq!(inbox.handle().stats().handled, 1);
    });
    let counts = log.counts();
    assert_eq!((counts["quick"], counts["slow"]), (1, 2));
}

/// A waker that panics.
struct Panics(AtomicU32);

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        panic!("on purpose");
    }
}

/// The bug: a waker that panicked ended the inbox's thread, which stopped the inbox.
#[tokio::test(flavor = "multi_thread")]
async fn a_waker_that_panics_affects_no_other_event() {
    let (place, log) = (InboxFile::new(), Log::default());
    let inbox = place.inbox().open(logging(&log)).await.unwrap();
    let handle = inbox.handle();
    let panics = Arc::new(Panics(AtomicU32::new(0)));
    let waker = Waker::from(Arc::clone(&panics));
    let context = &mut Context::from_waker(&waker);
    let mut waiting: Vec<BoxFuture<()>> = Vec::new();
    for i in 0..20 {
        let (accepting, letters) = (
            inbox.accept(event(i.to_string())),
            handle.dead_letters().unwrap(),
        );
        waiting.push(Box::pin(async move { drop(accepting.await) }));
        waiting.push(Box::pin(handle.wait_idle()));
        waiting.push(Box::pin(async move { drop(letters.list(None, 1).await) }));
        for waiting in waiting.iter_mut().rev().take(3).rev() {
            let _ = waiting.as_mut().poll(context);
        }
    }
    until(|| panics.0.load(Ordering::Relaxed) > 0 && log.len() == 20).await;
    assert_eq!(inbox.accept(event("last")).await, Ok(Accepted::New));
    wait_idle(&handle).await;
    let stats = handle.stats();
    assert_eq!((stats.accepted, stats.handled), (21, 21));
    balanced(&stats);
}

/// A subscriber that reads the counts and then panics whenever a span ends.
struct Curious {
    handle: Arc<Mutex<Option<Handle>>>,
    closed: Arc<AtomicU32>,
}

impl<S: tracing::Subscriber> Layer<S> for Curious {
    fn on_close(&self, _: tracing::span::Id, _: layer::Context<'_, S>) {
        let handle = self.handle.lock().unwrap().clone();
        if let Some(handle) = handle
            && std::thread::current().name() == Some("botisimo-inbox")
        {
            self.closed.fetch_add(1, Ordering::Relaxed);
            let _ = handle.stats();
            panic!("on purpose");
        }
    }
}

/// The bug: the span of a copy ended on the inbox's thread, under the lock of the counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_ends_on_the_writer_thread_does_no_harm() {
    let (place, log) = (InboxFile::new(), Log::default());
    let gate = Arc::new(Semaphore::new(0));
    // The writer ends the span of an event that doesn't fit into memory.
    let builder = place.inbox().max_events_in_memory(1);
    let inbox = builder.open(gated(&log, &gate)).await.unwrap();
    let (handle, closed) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU32::new(0)));
    let curious = Curious {
        handle: Arc::clone(&handle),
        closed: Arc::clone(&closed),
    };
    *handle.lock().unwrap() = Some(inbox.handle());
    let dispatch = tracing::Dispatch::new(Registry::default().with(curious));
    for i in 0..10 {
        for copy in 0..2 {
            let accepting = tracing::dispatcher::with_default(&dispatch, || {
                let span = tracing::info_span!("request");
                let mut accepting = Box::pin(inbox.accept(event(i.to_string())));
                let waker = Waker::noop();
                let entered = span.enter();
                let polled = accepting.as_mut().poll(&mut Context::from_waker(waker));
                drop(entered);
                polled.is_pending().then_some(accepting)
            });
            if let Some(accepting) = accepting {
                let expected = if copy == 0 {
                    Accepted::New
                } else {
                    Accepted::Duplicate
                };
                assert_eq!(accepting.await, Ok(expected));
            }
        }
    }
    assert!(closed.load(Ordering::Relaxed) > 0);
    gate.add_permits(10);
    wait_idle(&inbox.handle()).await;
    let stats = inbox.handle().stats();
    assert_eq!(
        (stats.accepted, stats.duplicates, stats.handled),
        (10, 10, 10)
    );
    *handle.lock().unwrap() = None;
}

/// Hooks may panic, read the counts and add other hooks, on any thread.
#[tokio::test(flavor = "multi_thread")]
async fn hooks_may_call_everything_that_doesnt_block() {
    let place = InboxFile::new();
    let router = EventRouter::new().on("a", |event: Event| async move {
        if event.id().ends_with('1') {
            Err(HandlerError::permanent("no"))
        } else {
            Ok(())
        }
    });
    let inbox = place
        .inbox()
        .delivery(delivery().ordering_key(key))
        .open(router)
        .await
        .unwrap();
    let told = Arc::new(AtomicU32::new(0));
    for panics in [true, false] {
        let (handle, tell) = (inbox.handle(), Arc::clone(&told));
        inbox.handle().on_attempt(move |_| {
            balanced(&handle.stats());
            tell.fetch_add(1, Ordering::Relaxed);
            assert!(!panics, "on purpose");
        });
        let (handle, tell, once) = (inbox.handle(), Arc::clone(&told), AtomicBool::new(false));
        inbox.handle().on_dead_letter(move |_| {
            balanced(&handle.stats());
            if !once.swap(true, Ordering::Relaxed) {
                handle.on_dead_letter(|_| panic!("another one"));
            }
            tell.fetch_add(1, Ordering::Relaxed);
            assert!(!panics, "on purpose");
        });
    }
    for i in 0..50 {
        inbox
            .accept(keyed(&i.to_string(), (i % 3).to_string()))
            .await
            .unwrap();
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(told.load(Ordering::Relaxed), 2 * 50 + 2 * 5);
    assert_eq!(inbox.handle().stats().dead, 5);
}

/// The handlers run on one runtime, and another runtime polls `accept`.
#[test]
fn accepting_and_running_may_use_different_runtimes() {
    let (place, log) = (InboxFile::new(), Log::default());
    let workers = tokio::runtime::Runtime::new().unwrap();
    let inbox = smol::block_on(async {
        let runtime = TokioRuntime::with_handle(workers.handle().clone());
        let inbox = place
            .inbox()
            .open_with(runtime, logging(&log))
            .await
            .unwrap();
        for i in 0..100 {
            inbox.accept(event(i.to_string())).await.unwrap();
        }
        inbox.handle().wait_idle().await;
        inbox
    });
    assert_eq!(log.len(), 100);
    drop(workers);
    // No worker runs the event, and the inbox keeps it.
    assert_eq!(
        smol::block_on(inbox.accept(event("100"))),
        Ok(Accepted::New)
    );
    assert_eq!(inbox.handle().stats().in_flight(), 1);
}

/// A task of the inbox's runtime answers many events at once.
#[test]
fn concurrent_events_are_answered_if_the_runtime_of_the_inbox_stalls_or_stops() {
    let (place, log) = (InboxFile::new(), Log::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let opening = place.inbox().open(logging(&log));
    let inbox = runtime.block_on(opening).unwrap();
    let accept_many = |prefix: &str| {
        let accepts = (0..64).map(|i| inbox.accept(event(format!("{prefix}-{i}"))));
        smol::block_on(join_all(accepts))
    };
    // This runtime runs tasks only while the test blocks on it.
    assert_eq!(accept_many("stalled"), vec![Ok(Accepted::New); 64]);
    drop(runtime);
    assert_eq!(accept_many("stopped"), vec![Ok(Accepted::New); 64]);
    assert_eq!(inbox.handle().stats().in_flight(), 128);
    balanced(&inbox.handle().stats());
}
