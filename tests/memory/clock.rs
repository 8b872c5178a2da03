//! Tests a memory inbox while the system clock is set or the machine sleeps.

use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, DeliverySettings, Endpoint, Event, EventRouter, HandlerError, Inbox, MemoryInbox,
    RetryPolicy, Runtime,
};
use bytes::Bytes;
use http_body_util::Full;
use proptest::prelude::*;
use tower_service::Service;

use crate::support::event;
use crate::support::runtime::ManualClock;

const DAY: i64 = 24 * 60 * 60;
const WINDOW: i64 = 3 * DAY;
const KEEP: i64 = 5 * DAY;
const MAX_DELAY: i64 = 600;

fn secs(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

#[derive(Clone, Debug)]
enum Step {
    Advance(i64),
    /// Sets the system clock, or lets the machine sleep.
    Set(i64),
    Accept {
        fails: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let moves = prop::sample::select(vec![1, 3600, DAY, 8 * DAY, 60 * DAY, 30 * 365 * DAY]);
    let moves = (moves, any::<bool>()).prop_map(|(by, back)| if back { -by } else { by });
    let passes = prop::sample::select(vec![1, 60, 3600, 36_000, 2 * DAY]);
    let step = prop_oneof![
        2 => passes.prop_map(Step::Advance),
        1 => moves.prop_map(Step::Set),
        2 => any::<bool>().prop_map(|fails| Step::Accept { fails }),
    ];
    prop::collection::vec(step, 1..24)
}

async fn until_nothing_runs(inbox: &MemoryInbox) {
    for _ in 0..20_000 {
        let stats = inbox.handle().stats();
        if stats.running + stats.waiting == 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("attempts are still running: {inbox:?}");
}

async fn check(steps: &[Step]) {
    let clock = ManualClock::new();
    let router = EventRouter::new().on("a", |event: Event| async move {
        match event.attempt() {
            _ if event.id().starts_with("fails") => Err(HandlerError::permanent("no")),
            1 => Err(HandlerError::retry_after(secs(DAY), "not yet")),
            _ => Ok(()),
        }
    });
    let policy = RetryPolicy::new()
        .max_attempts(3)
        .max_delay(secs(MAX_DELAY));
    let inbox = MemoryInbox::builder()
        .duplicate_window(secs(WINDOW))
        .delivery(DeliverySettings::new().retry(policy))
        .build_with(clock.clone(), router);
    let letters = inbox.handle().dead_letters().unwrap();
    let (mut passed, mut accepted) = (0, Vec::new());
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Step::Advance(by) => {
                clock.advance(secs(by));
                passed += by;
            }
            Step::Set(by) => clock.step(by),
            Step::Accept { fails } => {
                let id = format!("{}{number}", if fails { "fails" } else { "retries" });
                assert_eq!(inbox.accept(event(&id)).await, Ok(Accepted::New));
                accepted.push((id, passed));
            }
        }
        until_nothing_runs(&inbox).await;
        letters.prune(secs(KEEP)).await.unwrap();
        let kept = letters.list(None, 1000).await.unwrap();
        for (id, then) in &accepted {
            let age = passed - then;
            let is_kept = kept.iter().any(|letter| letter.message_id() == *id);
            if id.starts_with("fails") && age != KEEP {
                assert_eq!(is_kept, age < KEEP, "{id} after {age} s");
            }
            if age < WINDOW {
                assert_eq!(
                    inbox.accept(event(id.as_str())).await,
                    Ok(Accepted::Duplicate),
                    "{id} after {age} s"
                );
            }
        }
    }
    // Every retry is due within the maximum delay.
    until_nothing_runs(&inbox).await;
    clock.advance(secs(MAX_DELAY));
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().in_flight(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn clock_steps_delete_nothing_early_and_delay_no_attempt(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&steps));
    }
}

#[tokio::test]
async fn times_follow_the_system_clock_and_no_event_is_dead_lettered_before_its_receipt() {
    let clock = ManualClock::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let open = std::sync::Arc::clone(&gate);
    let router = EventRouter::new().on("a", move |_: Event| async move {
        open.acquire().await.unwrap().forget();
        Err::<(), _>(HandlerError::permanent("no"))
    });
    let inbox = MemoryInbox::builder().build_with(clock.clone(), router);
    let (mut receiver, handle) = (Endpoint::new(inbox.clone()), inbox.handle());
    let steps = [
        (0, 0),
        (60 * DAY, 0),
        (0, 3600),
        (-61 * DAY, 0),
        (0, -3600),
        (0, -30 * 365 * DAY),
    ];
    for (number, (before, meanwhile)) in steps.into_iter().enumerate() {
        clock.step(before);
        let received_at = clock.system_time();
        let request = MockRequest::event("a").build::<Full<Bytes>>();
        assert_eq!(receiver.call(request).await.unwrap().status(), 200);
        clock.step(meanwhile);
        gate.add_permits(1);
        handle.wait_idle().await;
        let letters = handle.dead_letters().unwrap().list(None, 9).await.unwrap();
        let letter = &letters[number];
        assert_eq!(letter.received_at(), received_at);
        assert_eq!(
            letter.dead_lettered_at(),
            clock.system_time().max(received_at)
        );
    }
}
