//! An event is accepted once per window, and the inbox never remembers the id of an event that it refused.

use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, DeliverySettings, Event, EventRouter, Inbox,
    MemoryInbox, MemoryInboxBuilder, RetryPolicy,
};
use futures_util::FutureExt;

use crate::support::event;
use crate::support::runtime::TestRuntime;

/// Returns a router that counts its runs.
fn counting() -> (EventRouter, Arc<AtomicU32>) {
    let runs = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&runs);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        count.fetch_add(1, Ordering::Relaxed);
    });
    (router, runs)
}

async fn accept(inbox: &MemoryInbox, id: &str) -> Result<Accepted, AcceptError> {
    inbox.accept(event(id)).await
}

#[tokio::test]
async fn a_copy_is_answered_200_and_not_run_again() {
    let (router, runs) = counting();
    let harness = Harness::new(router);
    let request = MockRequest::event("a").message_id("m-1");
    harness.deliver(request.clone()).await.assert_handled("a");
    let copy = harness.deliver(request.data(7)).await;
    copy.assert_status(200);
    assert!(copy.attempts().is_empty());
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    let stats = harness.handle().stats();
    assert_eq!((stats.accepted, stats.duplicates, stats.handled), (1, 1, 1));
}

/// Only the shared secret prevents this attack: see SECURITY.md.
#[tokio::test]
async fn a_forged_event_with_the_id_of_a_later_event_makes_the_later_event_a_duplicate() {
    let (router, runs) = counting();
    let inbox = MemoryInbox::new(router);
    let event =
        |event_type: &str, id: &str| MockRequest::event(event_type).message_id(id).to_event();
    let forged = inbox.accept(event("poll.created", "taken")).await;
    let genuine = inbox.accept(event("a", "taken")).await;
    assert_eq!(forged, Ok(Accepted::New));
    assert_eq!(genuine, Ok(Accepted::Duplicate));
    inbox.handle().wait_idle().await;
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    // The same event runs under an unused id.
    accept(&inbox, "free").await.unwrap();
    inbox.handle().wait_idle().await;
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_copy_of_a_waiting_or_failed_event_is_a_duplicate() {
    let router = EventRouter::new().on("a", |_: Event| async { Err::<(), _>("failed") });
    let inbox = MemoryInbox::builder()
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .build(router);
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
    inbox.handle().wait_idle().await;
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
    assert_eq!(inbox.handle().stats().dead, 1);
}

#[test]
fn one_of_several_concurrent_copies_runs() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .build()
        .unwrap();
    let (router, runs) = counting();
    let inbox = MemoryInbox::new(router);
    runtime.block_on(async {
        let copies = (0..400).map(|i| {
            let inbox = inbox.clone();
            tokio::spawn(async move { accept(&inbox, &(i % 4).to_string()).await })
        });
        let answers = futures_util::future::join_all(copies).await;
        let mut new = 0;
        for answer in answers.into_iter().map(Result::unwrap) {
            match answer {
                Ok(accepted) => new += u32::from(accepted == Accepted::New),
                // This copy arrived while the inbox was storing the first copy.
                Err(refused) => assert_eq!(refused.delay(), Duration::from_secs(1)),
            }
        }
        assert_eq!(new, 4);
        inbox.handle().wait_idle().await;
    });
    assert_eq!(runs.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn an_id_expires_after_its_window_and_not_before() {
    let (router, _) = counting();
    let inbox = MemoryInbox::builder()
        .duplicate_window(Duration::from_secs(60))
        .build(router);
    accept(&inbox, "1").await.unwrap();
    tokio::time::advance(Duration::from_secs(59)).await;
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
    tokio::time::advance(Duration::from_secs(1)).await;
    // A copy doesn't extend the window.
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
}

#[tokio::test]
async fn a_new_id_beyond_the_count_limit_displaces_the_oldest() {
    let (router, _) = counting();
    let inbox = MemoryInbox::builder().max_remembered_ids(3).build(router);
    for id in ["1", "2", "3", "4"] {
        assert_eq!(accept(&inbox, id).await, Ok(Accepted::New));
    }
    for id in ["2", "3", "4"] {
        assert_eq!(accept(&inbox, id).await, Ok(Accepted::Duplicate), "{id}");
    }
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
}

#[tokio::test]
async fn no_id_is_remembered_if_the_window_or_the_count_is_zero() {
    let none: [fn(MemoryInboxBuilder) -> MemoryInboxBuilder; 2] = [
        |builder| builder.duplicate_window(Duration::ZERO),
        |builder| builder.max_remembered_ids(0),
    ];
    for none in none {
        let (router, _) = counting();
        let inbox = none(MemoryInbox::builder()).build(router);
        for _ in 0..3 {
            assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
        }
    }
}

#[tokio::test]
async fn a_refused_event_leaves_its_id_free() {
    let router = EventRouter::new().on_any(|_: Event| pending::<()>());
    let inbox = MemoryInbox::builder().max_events(1).build(router);
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
    for _ in 0..2 {
        assert_eq!(
            accept(&inbox, "2").await,
            Err(AcceptError::new(AcceptErrorKind::Full))
        );
    }
    // A copy needs no space, so even a full inbox recognizes a copy.
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
    let drain = inbox.handle().drain(Duration::ZERO);
    assert_eq!(drain.await.remaining, 1);
    assert_eq!(
        accept(&inbox, "2").await,
        Err(AcceptError::new(AcceptErrorKind::Draining))
    );
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::Duplicate));
}

#[test]
fn an_event_without_a_runtime_leaves_its_id_free() {
    let (router, runs) = counting();
    let inbox = MemoryInbox::new(router);
    for _ in 0..2 {
        let answer = accept(&inbox, "1").now_or_never().unwrap();
        assert_eq!(answer, Err(AcceptError::new(AcceptErrorKind::Unavailable)));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
        inbox.handle().wait_idle().await;
    });
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_accept_that_is_dropped_unpolled_leaves_its_id_free() {
    let (router, _) = counting();
    let inbox = MemoryInbox::new(router);
    drop(inbox.accept(event("1")));
    assert_eq!(accept(&inbox, "1").await, Ok(Accepted::New));
}

/// The bug: if a copy arrived while the inbox was storing the event, the copy got a 200, even if the event was then
/// refused.
#[tokio::test]
async fn a_copy_is_not_answered_200_before_the_event_is_stored() {
    let inbox = Arc::new(OnceLock::<MemoryInbox>::new());
    let answer = Arc::new(Mutex::new(None));
    let (interrupted, answered) = (Arc::clone(&inbox), Arc::clone(&answer));
    // A copy of the event arrives while the runtime fails to spawn a worker.
    let runtime = TestRuntime::shut_down().on_spawn(move |_| {
        let copy = accept(interrupted.get().unwrap(), "1").now_or_never();
        *answered.lock().unwrap() = copy;
        panic!("no threads");
    });
    inbox
        .set(MemoryInbox::builder().build_with(runtime, EventRouter::new()))
        .unwrap();
    assert_eq!(
        accept(inbox.get().unwrap(), "1").await,
        Err(AcceptError::new(AcceptErrorKind::Unavailable))
    );
    let copy = answer.lock().unwrap().take().unwrap();
    assert_eq!(
        copy,
        Err(AcceptError::new(AcceptErrorKind::Unavailable).retry_after(Duration::from_secs(1)))
    );
    let stats = inbox.get().unwrap().handle().stats();
    assert_eq!((stats.accepted, stats.duplicates, stats.refused), (0, 0, 2));
}
