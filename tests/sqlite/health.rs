//! The problems of the inbox on disk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptErrorKind, DeliverySettings, Endpoint, Event, EventRouter, Handle, Health, HealthLimits,
    HealthProblemKind, Inbox, SqliteInbox,
};
use bytes::Bytes;
use http_body_util::Full;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::support::receiver::ask;
use crate::support::runtime::{ManualClock, TestRuntime};
use crate::support::sqlite::{InboxFile, Log, at_once, gated};
use crate::support::{event, letters, until, wait_idle};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn kinds(health: &Health) -> Vec<HealthProblemKind> {
    let problems = health.problems().iter();
    problems.map(|problem| problem.kind()).collect()
}

/// Returns the kinds of each health that a hook receives.
fn seen(handle: &Handle) -> Arc<Mutex<Vec<Vec<HealthProblemKind>>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&seen);
    handle.on_health_change(move |health| list.lock().unwrap().push(kinds(health)));
    seen
}

/// Sends an event through a receiver, which reads the time of the inbox's runtime.
async fn send(inbox: &SqliteInbox, id: &str) {
    let request = MockRequest::event("a")
        .message_id(id)
        .build::<Full<Bytes>>();
    let answer = ask(&Endpoint::new(inbox.clone()), request).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_that_can_not_write_is_unready_and_the_hook_sees_the_fault_come_and_go() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let inbox = place.inbox().open_with(clock.clone(), EventRouter::new());
    let inbox = inbox.await.unwrap();
    let handle = inbox.handle();
    let seen = seen(&handle);
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(inbox.accept(event("1")).await.is_err());
    until(|| !handle.health().is_ok()).await;
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::InboxFailing]);
    assert!(!health.is_ready() && health.is_live());
    let text = health.to_string();
    assert!(
        text.contains("another process is writing to the inbox"),
        "{text}"
    );
    let failing = vec![HealthProblemKind::InboxFailing];
    clock
        .advance_until(SECOND, || seen.lock().unwrap().last() == Some(&failing))
        .await;
    other.execute_batch("ROLLBACK").unwrap();
    until(|| handle.health().is_ok()).await;
    clock
        .advance_until(SECOND, || seen.lock().unwrap().last() == Some(&vec![]))
        .await;
    assert_eq!(*seen.lock().unwrap(), [failing, vec![]]);
    assert!(inbox.accept(event("1")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_keeps_its_start_while_it_lasts() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let inbox = place.inbox().open_with(clock.clone(), EventRouter::new());
    let inbox = inbox.await.unwrap();
    let handle = inbox.handle();
    let other = Connection::open(place.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(inbox.accept(event("1")).await.is_err());
    until(|| !handle.health().is_ok()).await;
    let since = handle.health().problems()[0].since();
    clock.advance(HOUR);
    // The writer reports the fault again.
    assert!(inbox.accept(event("2")).await.is_err());
    assert_eq!(handle.health().problems()[0].since(), since);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_inbox_is_reported_and_an_inbox_with_space_is_not() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let builder = place.inbox().max_events(1);
    let inbox = builder
        .open_with(clock.clone(), gated(&log, &gate))
        .await
        .unwrap();
    let handle = inbox.handle();
    inbox.accept(event("1")).await.unwrap();
    for n in 0..3 {
        assert!(!kinds(&handle.health()).contains(&HealthProblemKind::Full));
        let refused = inbox.accept(event(format!("more {n}"))).await.unwrap_err();
        assert_eq!(refused.kind(), AcceptErrorKind::Full);
        clock.advance(30 * SECOND);
    }
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::Full]);
    assert!(!health.is_ready());
    gate.add_permits(9);
    wait_idle(&handle).await;
    clock.advance(MINUTE);
    assert!(handle.health().is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_in_the_inbox_for_too_long_is_reported_until_it_ends() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let delivery = DeliverySettings::new().attempt_timeout(1_000 * HOUR);
    let builder = place.inbox().delivery(delivery);
    let inbox = builder
        .open_with(clock.clone(), gated(&log, &gate))
        .await
        .unwrap();
    let handle = inbox.handle();
    let seen = seen(&handle);
    send(&inbox, "1").await;
    until(|| log.len() == 1).await;
    for _ in 0..10 {
        clock.advance(MINUTE);
        assert!(handle.health().is_ok());
    }
    let delayed = vec![HealthProblemKind::EventsDelayed];
    clock
        .advance_until(SECOND, || seen.lock().unwrap().first() == Some(&delayed))
        .await;
    gate.add_permits(9);
    wait_idle(&handle).await;
    assert!(handle.health().is_ok());
    clock
        .advance_until(SECOND, || seen.lock().unwrap().len() == 2)
        .await;
}

/// A replayed event keeps the time when it was received.
#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_event_is_not_old() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let gate = Arc::new(Semaphore::new(0));
    let (opened, broken) = (Arc::clone(&gate), Arc::new(AtomicBool::new(true)));
    let flag = Arc::clone(&broken);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        if flag.load(Ordering::SeqCst) {
            return Err("broken");
        }
        opened.acquire().await.unwrap().forget();
        Ok(())
    });
    let delivery = DeliverySettings::new()
        .retry(at_once(1))
        .attempt_timeout(100 * HOUR);
    let builder = place.inbox().delivery(delivery);
    let inbox = builder.open_with(clock.clone(), router).await.unwrap();
    let handle = inbox.handle();
    let seen = seen(&handle);
    send(&inbox, "1").await;
    wait_idle(&handle).await;
    clock.advance(20 * HOUR);
    broken.store(false, Ordering::SeqCst);
    let dead = letters(&inbox);
    let id = dead.list(None, 1).await.unwrap()[0].id();
    assert!(dead.replay(id).await.unwrap());
    until(|| handle.stats().running == 1).await;
    for _ in 0..100 {
        clock.advance(SECOND);
        tokio::task::yield_now().await;
        assert!(handle.health().is_ok(), "{:?}", handle.health());
    }
    assert!(seen.lock().unwrap().is_empty());
    clock
        .advance_until(MINUTE, || !handle.health().is_ok())
        .await;
    assert_eq!(kinds(&handle.health()), [HealthProblemKind::EventsDelayed]);
    gate.add_permits(1);
    wait_idle(&handle).await;
}

/// A runtime whose clock is a thousand times as fast as real time, and panics on the inbox's thread while the first flag is
/// set. While the second flag is set, the system clock blocks that thread.
fn odd_clock(panics: &Arc<AtomicBool>, hangs: &Arc<AtomicBool>) -> TestRuntime {
    let is_writer = || thread::current().name() == Some("botisimo-inbox");
    let (panics, hangs, start) = (Arc::clone(panics), Arc::clone(hangs), Instant::now());
    let tasks = tokio::runtime::Handle::current();
    TestRuntime::tokio()
        .on_spawn(move |task| drop(tasks.spawn(task)))
        .on_sleep(|duration| Box::pin(tokio::time::sleep(duration / 1_000)))
        .on_now(move || {
            assert!(
                !(panics.load(Ordering::SeqCst) && is_writer()),
                "the clock panics"
            );
            start + start.elapsed() * 1_000
        })
        .on_system_time(move || {
            while hangs.load(Ordering::SeqCst) && is_writer() {
                thread::sleep(Duration::from_millis(1));
            }
            std::time::SystemTime::now()
        })
}

/// The only state in which a restart helps and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn if_the_inboxs_thread_has_ended_the_process_is_not_live() {
    let (place, panics) = (InboxFile::new(), Arc::new(AtomicBool::new(false)));
    let runtime = odd_clock(&panics, &Arc::default());
    let router = EventRouter::new().on("a", |_: Event| async {});
    let inbox = place.inbox().open_with(runtime, router).await.unwrap();
    let handle = inbox.handle();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&handle).await;
    let seen = seen(&handle);
    panics.store(true, Ordering::SeqCst);
    assert!(inbox.accept(event("2")).await.is_err());
    until(|| !handle.health().is_ok()).await;
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::InboxFailing]);
    assert!(!health.is_ready() && !health.is_live());
    let text = health.to_string();
    assert!(
        text.ends_with("the inbox's thread has ended; restart the process"),
        "{text}"
    );
    until(|| !seen.lock().unwrap().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_reported_and_recovers() {
    let (place, hangs) = (InboxFile::new(), Arc::new(AtomicBool::new(false)));
    let runtime = odd_clock(&Arc::default(), &hangs);
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let inbox = place
        .inbox()
        .open_with(runtime, gated(&log, &gate))
        .await
        .unwrap();
    let handle = inbox.handle();
    handle.set_health_limits(HealthLimits::new().max_event_age(1_000 * HOUR));
    inbox.accept(event("1")).await.unwrap();
    hangs.store(true, Ordering::SeqCst);
    let waiting = tokio::spawn({
        let inbox = inbox.clone();
        async move { inbox.accept(event("2")).await }
    });
    until(|| !handle.health().is_ok()).await;
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::InboxFailing]);
    let text = health.to_string();
    assert!(text.contains("the disk hasn't answered for 30 s"), "{text}");
    assert!(!health.is_ready() && health.is_live());
    hangs.store(false, Ordering::SeqCst);
    until(|| handle.health().is_ok()).await;
    assert!(waiting.await.unwrap().is_ok());
    gate.add_permits(9);
    wait_idle(&handle).await;
}

/// A commit takes real time. The monitor must not let the paused clock advance by hours in the meantime.
#[tokio::test(start_paused = true)]
async fn the_monitor_leaves_a_paused_clock_in_place_during_commits() {
    let place = InboxFile::new();
    let router = EventRouter::new().on("a", |_: Event| async {});
    let inbox = place.inbox().open(router).await.unwrap();
    let handle = inbox.handle();
    let begun = tokio::time::Instant::now();
    for n in 0..50 {
        inbox.accept(event(n.to_string())).await.unwrap();
        handle.wait_idle().await;
    }
    // During each of the two commits of an event, the clock advances to at most two timers of 5 s.
    let elapsed = begun.elapsed();
    assert!(elapsed <= 50 * 20 * SECOND + 20 * SECOND, "{elapsed:?}");
    assert!(handle.health().is_ok());
}
