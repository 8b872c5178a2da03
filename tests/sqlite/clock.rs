//! Clocks that are wrong, that change, or that stop during a suspend. The inbox deletes nothing early, and no
//! attempt waits longer than the policy allows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, Endpoint, Event, EventRouter, HandlerError, Inbox, RetryPolicy, Runtime, SqliteInbox,
};
use bytes::Bytes;
use http_body_util::Full;
use proptest::prelude::*;
use tokio::sync::Semaphore;
use tower_service::Service;

use crate::support::runtime::ManualClock;
use crate::support::sqlite::{InboxFile, Log, delivery, failing};
use crate::support::{event, until, wait_idle};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

fn secs(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

async fn open(place: &InboxFile, clock: &ManualClock, router: EventRouter) -> SqliteInbox {
    place
        .inbox()
        .open_with(clock.clone(), router)
        .await
        .unwrap()
}

/// Returns the ids of the dead letters, after the writer has had a turn to prune them.
async fn letters(inbox: &SqliteInbox) -> Vec<u64> {
    let letters = inbox.handle().dead_letters().unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let list = letters.list(None, 1000).await.unwrap();
        ids = list.iter().map(botisimo_webhooks::DeadLetter::id).collect();
    }
    ids
}

/// Accepts ten events, which become dead letters.
async fn ten_letters(place: &InboxFile, clock: &ManualClock) {
    let inbox = open(place, clock, failing(&Log::default())).await;
    for id in 0..10 {
        inbox.accept(event(id.to_string())).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(letters(&inbox).await.len(), 10);
    drop(inbox);
    place.free().await;
}

/// Checks that the inbox has all ten dead letters and message ids after another start.
async fn has_ten_letters(place: &InboxFile, clock: &ManualClock) {
    let inbox = open(place, clock, failing(&Log::default())).await;
    assert_eq!(letters(&inbox).await.len(), 10);
    for id in 0..10 {
        let copy = inbox.accept(event(id.to_string())).await;
        assert_eq!(copy, Ok(Accepted::Duplicate), "{id}");
    }
    drop(inbox);
    place.free().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_clock_far_ahead_deletes_nothing_and_the_next_start_continues_as_before() {
    for ahead in [2 * DAY, 8 * DAY, 60 * DAY, 30 * YEAR] {
        let (place, clock) = (InboxFile::new(), ManualClock::new());
        ten_letters(&place, &clock).await;
        clock.step(ahead);
        has_ten_letters(&place, &clock).await;
        clock.step(-ahead);
        has_ten_letters(&place, &clock).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_right_start_after_one_in_1970_deletes_nothing() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    clock.step(-1_700_000_000);
    ten_letters(&place, &clock).await;
    clock.step(1_700_000_000);
    has_ten_letters(&place, &clock).await;
    // From here on, time passes as usual.
    let inbox = open(&place, &clock, failing(&Log::default())).await;
    clock.advance(secs(31 * DAY));
    assert!(letters(&inbox).await.is_empty());
    assert_eq!(inbox.accept(event("3")).await, Ok(Accepted::New));
}

/// On a machine without a battery, the clock is wrong at each start until the network sets it.
#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_at_each_start_and_set_right_while_running_deletes_nothing() {
    for wrong in [8 * HOUR, -8 * HOUR, 3 * DAY, -YEAR] {
        let (place, clock) = (InboxFile::new(), ManualClock::new());
        ten_letters(&place, &clock).await;
        for _ in 0..30 {
            clock.step(wrong);
            let inbox = open(&place, &clock, failing(&Log::default())).await;
            clock.step(-wrong);
            assert_eq!(letters(&inbox).await.len(), 10, "{wrong}");
            drop(inbox);
            place.free().await;
        }
        has_ten_letters(&place, &clock).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_while_running_deletes_nothing() {
    for step in [8 * DAY, 60 * DAY, -60 * DAY, 30 * YEAR, -30 * YEAR] {
        let (place, clock) = (InboxFile::new(), ManualClock::new());
        ten_letters(&place, &clock).await;
        let inbox = open(&place, &clock, failing(&Log::default())).await;
        clock.step(step);
        clock.advance(secs(61));
        inbox.accept(event("new")).await.unwrap();
        wait_idle(&inbox.handle()).await;
        assert_eq!(letters(&inbox).await.len(), 11, "{step}");
        let letters = inbox.handle().dead_letters().unwrap();
        assert_eq!(letters.prune(secs(DAY)).await.unwrap(), 0);
        assert_eq!(inbox.accept(event("3")).await, Ok(Accepted::Duplicate));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_passes_while_no_process_runs() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    ten_letters(&place, &clock).await;
    // The inbox counts the time between two processes if it is plausible. Here, a process runs for one hour a
    // day.
    for day in 1..=31 {
        place.free().await;
        clock.step(23 * HOUR);
        let inbox = open(&place, &clock, failing(&Log::default())).await;
        clock.advance(secs(HOUR));
        let copy = inbox.accept(event("3")).await;
        let expected = if day < 7 {
            Accepted::Duplicate
        } else {
            Accepted::New
        };
        if day <= 7 {
            assert_eq!(copy, Ok(expected), "on day {day}");
        }
        wait_idle(&inbox.handle()).await;
        let kept = letters(&inbox).await.iter().filter(|id| **id <= 10).count();
        assert_eq!(kept, if day <= 30 { 10 } else { 0 }, "on day {day}");
    }
}

/// An idle process doesn't write, but when it exits, it records how long it ran.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_an_idle_process_counts() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    ten_letters(&place, &clock).await;
    let inbox = open(&place, &clock, failing(&Log::default())).await;
    clock.advance(secs(40 * DAY));
    drop(inbox);
    let inbox = open(&place, &clock, failing(&Log::default())).await;
    assert!(letters(&inbox).await.is_empty());
    assert_eq!(inbox.accept(event("3")).await, Ok(Accepted::New));
}

fn later(log: &Log) -> EventRouter {
    let log = log.clone();
    EventRouter::new().on("a", move |event: Event| async move {
        log.run(&event);
        Err::<(), _>(HandlerError::retry_after(secs(HOUR), "not yet"))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_is_due_later_than_the_longest_delay_whatever_the_clock_says_at_a_start() {
    let policy = RetryPolicy::new().max_attempts(9).max_delay(secs(300));
    for step in [-HOUR, -2 * DAY, HOUR, -30 * YEAR, 30 * YEAR] {
        let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
        for start in 0..4 {
            let builder = place.inbox().delivery(delivery().retry(policy.clone()));
            let inbox = builder.open_with(clock.clone(), later(&log)).await.unwrap();
            let handle = inbox.handle();
            if start == 0 {
                inbox.accept(event("1")).await.unwrap();
            } else {
                let ran = log.len();
                until(|| handle.stats().retrying == 1).await;
                clock.advance(secs(301));
                until(|| log.len() > ran).await;
            }
            until(|| handle.stats().retrying == 1).await;
            drop((inbox, handle));
            place.free().await;
            // The clock jumps ahead, and back again.
            clock.step(if start % 2 == 0 { step } else { -step });
        }
    }
}

/// In this file, an attempt is due in 30 years.
#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_stored_as_due_in_years_is_made_after_the_longest_delay() {
    let (place, clock, log) = (InboxFile::new(), ManualClock::new(), Log::default());
    let policy = RetryPolicy::new().max_delay(secs(300));
    let open = || {
        place
            .inbox()
            .delivery(delivery().retry(policy.clone()))
            .open_with(clock.clone(), later(&log))
    };
    let inbox = open().await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().retrying == 1).await;
    drop((inbox, handle));
    place
        .edit("UPDATE events SET due_at = due_at + 1000000000000")
        .await;
    let inbox = open().await.unwrap();
    until(|| inbox.handle().stats().retrying == 1).await;
    clock.advance(secs(301));
    until(|| log.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_system_time_is_followed_and_no_event_dies_before_it_was_received() {
    let (place, clock, gate) = (
        InboxFile::new(),
        ManualClock::new(),
        Arc::new(Semaphore::new(0)),
    );
    let open = Arc::clone(&gate);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        open.acquire().await.unwrap().forget();
        Err::<(), _>(HandlerError::permanent("no"))
    });
    let inbox = place
        .inbox()
        .open_with(clock.clone(), router)
        .await
        .unwrap();
    let (mut receiver, handle) = (Endpoint::new(inbox.clone()), inbox.handle());
    // How far the clock moves before an event is received, and before the event becomes a dead letter.
    let steps = [
        (0, 0),
        (60 * DAY, 0),
        (0, HOUR),
        (-61 * DAY, 0),
        (0, -HOUR),
        (0, -30 * YEAR),
    ];
    for (number, (before, meanwhile)) in steps.into_iter().enumerate() {
        clock.step(before);
        let received_at = clock.system_time();
        let request = MockRequest::event("a").build::<Full<Bytes>>();
        assert_eq!(receiver.call(request).await.unwrap().status(), 200);
        clock.step(meanwhile);
        gate.add_permits(1);
        wait_idle(&handle).await;
        let letters = handle.dead_letters().unwrap().list(None, 9).await.unwrap();
        let letter = &letters[number];
        assert_eq!(letter.received_at(), received_at);
        assert_eq!(
            letter.dead_lettered_at(),
            clock.system_time().max(received_at)
        );
    }
}

/// A step of the property test, on an inbox and its clocks.
#[derive(Clone, Debug)]
enum Step {
    /// Lets time pass while a process is running.
    Advance(i64),
    /// Sets the system clock, or suspends the machine, while a process is running.
    Set(i64),
    /// Ends the process. The next process starts after the system clock has moved by this duration.
    Restart(i64),
    /// Accepts an event. The event fails permanently, or succeeds at its second attempt.
    Accept { fails: bool },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let moves = prop::sample::select(vec![
        1,
        60,
        HOUR,
        5 * HOUR,
        23 * HOUR,
        2 * DAY,
        8 * DAY,
        60 * DAY,
        30 * YEAR,
    ]);
    let moves = (moves, any::<bool>()).prop_map(|(by, back)| if back { -by } else { by });
    let passes = prop::sample::select(vec![1, 60, HOUR, 10 * HOUR, 2 * DAY]);
    let step = prop_oneof![
        2 => passes.prop_map(Step::Advance),
        1 => moves.clone().prop_map(Step::Set),
        1 => moves.prop_map(Step::Restart),
        3 => any::<bool>().prop_map(|fails| Step::Accept { fails }),
    ];
    prop::collection::vec(step, 1..16)
}

const WINDOW: i64 = 3 * DAY;
const KEEP: i64 = 5 * DAY;
const MAX_DELAY: i64 = 600;

/// The time that may have passed, according to the clocks.
#[derive(Clone, Copy, Default)]
struct Passed {
    most: i64,
    /// How far the system clock was moved since the process started.
    moved: i64,
}

async fn check(steps: &[Step]) {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let router = || {
        EventRouter::new().on("a", |event: Event| async move {
            match event.attempt() {
                _ if event.id().starts_with("fails") => Err(HandlerError::permanent("no")),
                1 => Err(HandlerError::retry_after(secs(DAY), "not yet")),
                _ => Ok(()),
            }
        })
    };
    let open = || {
        let policy = RetryPolicy::new()
            .max_attempts(3)
            .max_delay(secs(MAX_DELAY));
        let builder = place.inbox().duplicate_window(secs(WINDOW));
        let builder = builder.delivery(delivery().retry(policy));
        let builder = builder.keep_dead_letters_for(secs(KEEP));
        builder.open_with(clock.clone(), router())
    };
    let (mut inbox, mut passed) = (open().await.unwrap(), Passed::default());
    let mut accepted = BTreeMap::new();
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Advance(by) => {
                clock.advance(secs(by));
                passed.most += by;
            }
            Step::Set(by) => {
                clock.step(by);
                passed.moved += by;
            }
            Step::Restart(by) => {
                drop(inbox);
                place.free().await;
                clock.step(by);
                // When the inbox opens, it compares the clock with the last reading on disk. So it counts
                // changes since that reading, up to a day.
                passed.most += (passed.moved.max(0) + by.max(0)).min(DAY);
                passed.moved = 0;
                inbox = open().await.unwrap();
            }
            Step::Accept { fails } => {
                let id = format!("{}{number}", if fails { "fails" } else { "retries" });
                assert_eq!(inbox.accept(event(&id)).await, Ok(Accepted::New));
                let handle = inbox.handle();
                until(|| handle.stats().running + handle.stats().waiting == 0).await;
                accepted.insert(id, passed);
            }
        }
        let kept = inbox.handle().dead_letters().unwrap();
        let kept = kept.list(None, 1000).await.unwrap();
        let has = |id: &str| kept.iter().any(|letter| letter.message_id() == id);
        for letter in &kept {
            assert!(letter.dead_lettered_at() >= letter.received_at());
        }
        for (id, then) in &accepted {
            let most = passed.most - then.most;
            if id.starts_with("fails") && most < KEEP {
                assert!(has(id), "{id} was deleted after {most} s");
            }
            if most < WINDOW {
                let copy = inbox.accept(event(id)).await;
                assert_eq!(copy, Ok(Accepted::Duplicate), "{id} after {most} s");
            }
        }
    }
    // No attempt is due later than the longest delay, and the inbox has deleted all expired letters.
    let handle = inbox.handle();
    until(|| handle.stats().running + handle.stats().waiting == 0).await;
    clock.advance(secs(MAX_DELAY));
    wait_idle(&handle).await;
    clock.advance(secs(KEEP));
    assert!(letters(&inbox).await.is_empty());
    if let Some((id, _)) = accepted.first_key_value() {
        assert_eq!(inbox.accept(event(id)).await, Ok(Accepted::New));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn random_clock_changes_delete_nothing_early_and_delay_no_attempt(steps in steps()) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(check(&steps));
    }
}
