//! `fresh_within`: a route skips events that are too old when its attempt starts.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    DeliverySettings, Event, EventOutcome, EventRouter, HandlerError, Inbox, MemoryInbox, Outcome,
    Replay, RetryPolicy, SkipReason,
};
use proptest::prelude::*;
use tower::ServiceBuilder;

use crate::support::freshness::{Model, Step, steps};
use crate::support::runtime::TestRuntime;
use crate::support::{letters, typed, wait_idle};

const WITHIN: Duration = Duration::from_secs(600);
const MILLI: Duration = Duration::from_millis(1);

/// Counts the runs of a handler that returns `result`.
fn counting(
    runs: &Arc<AtomicU32>,
    result: impl Fn() -> Result<(), HandlerError> + Clone + Send + Sync + 'static,
) -> impl FnOnce(Event) -> std::future::Ready<Result<(), HandlerError>> + Clone + Send + Sync + 'static
{
    let runs = Arc::clone(runs);
    move |_: Event| {
        runs.fetch_add(1, Ordering::Relaxed);
        std::future::ready(result())
    }
}

/// Returns an event with a timestamp `ahead` milliseconds after now.
fn sent_at(ahead: i64) -> Event {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let timestamp = now.unwrap().as_millis() as i64 + ahead;
    let event = MockRequest::event("a").member("timestamp", timestamp);
    event.to_event()
}

/// Accepts the event at `now`, and returns how many times its route ran.
async fn runs_at(event: Event, now: SystemTime) -> u32 {
    let runs = Arc::default();
    let router = EventRouter::new()
        .on("a", counting(&runs, || Ok(())))
        .fresh_within(WITHIN);
    let runtime = TestRuntime::tokio().on_system_time(move || now);
    let inbox = MemoryInbox::builder().build_with(runtime, router);
    inbox.accept(event).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    let ran = runs.load(Ordering::Relaxed);
    assert_eq!((stats.handled, stats.skipped), (1, u64::from(1 - ran)));
    ran
}

#[tokio::test]
async fn an_event_of_exactly_the_age_runs_and_an_event_that_is_a_millisecond_older_does_not() {
    let event = sent_at(-5000);
    let sent = event.timestamp().unwrap();
    assert_eq!(runs_at(event.clone(), sent + WITHIN - MILLI).await, 1);
    assert_eq!(runs_at(event.clone(), sent + WITHIN).await, 1);
    assert_eq!(runs_at(event, sent + WITHIN + MILLI).await, 0);
}

#[tokio::test]
async fn the_age_of_an_event_with_a_timestamp_after_its_receipt_counts_from_its_receipt() {
    let event = sent_at(3_600_000);
    let received = event.received_at();
    assert_eq!(runs_at(event.clone(), received).await, 1);
    assert_eq!(runs_at(event.clone(), received + WITHIN - MILLI).await, 1);
    assert_eq!(runs_at(event, received + WITHIN + MILLI).await, 0);
}

#[tokio::test]
async fn an_event_is_fresh_if_the_system_time_is_before_its_timestamp() {
    let event = sent_at(0);
    let earlier = event.received_at() - Duration::from_secs(86_400);
    assert_eq!(runs_at(event, earlier).await, 1);
}

#[tokio::test]
async fn extreme_timestamps_and_limits_do_not_overflow() {
    let at = |timestamp: i64| MockRequest::event("a").member("timestamp", timestamp);
    let (oldest, newest) = (at(i64::MIN).to_event(), at(i64::MAX).to_event());
    for (event, within, runs) in [
        (oldest.clone(), Duration::ZERO, 0),
        (oldest.clone(), WITHIN, 0),
        (oldest, Duration::MAX, 1),
        (newest.clone(), WITHIN, 1),
        (newest, Duration::MAX, 1),
    ] {
        let count = Arc::default();
        let router = EventRouter::new().on("a", counting(&count, || Ok(())));
        let inbox = MemoryInbox::new(router.fresh_within(within));
        inbox.accept(event.clone()).await.unwrap();
        wait_idle(&inbox.handle()).await;
        assert_eq!(count.load(Ordering::Relaxed), runs, "{event:?} {within:?}");
    }
}

#[tokio::test]
async fn a_stale_route_is_skipped_and_other_routes_run() {
    let (announced, counted) = (Arc::default(), Arc::default());
    let reports = Arc::new(Mutex::new(Vec::new()));
    let router = EventRouter::new()
        .on("a", counting(&announced, || Ok(())))
        .named("announce")
        .fresh_within(WITHIN)
        .on_any(counting(&counted, || Ok(())))
        .named("archive");
    let seen = Arc::clone(&reports);
    let delivery = DeliverySettings::new().on_attempt(move |attempt| {
        let report = attempt.report();
        let outcome = report.get("announce").unwrap().clone();
        let seen_now = (report.to_string(), report.is_success(), outcome);
        seen.lock()
            .unwrap()
            .push((seen_now, attempt.event_outcome()));
    });
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    inbox.accept(sent_at(-7_200_000)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(announced.load(Ordering::Relaxed), 0);
    assert_eq!(counted.load(Ordering::Relaxed), 1);
    let counts: Vec<_> = stats.iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(counts, [("accepted", 1), ("handled", 1), ("skipped", 1)]);
    let reports = std::mem::take(&mut *reports.lock().unwrap());
    let [((text, is_success, outcome), event_outcome)] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!(text, "announce skipped: stale, archive handled");
    assert!(*is_success);
    assert!(matches!(outcome, Outcome::Skipped(SkipReason::Stale)));
    assert_eq!(*event_outcome, Some(EventOutcome::Handled));
    assert!(letters(&inbox).list(None, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_event_whose_only_route_is_an_observer_that_skips_it_is_unhandled() {
    let router = EventRouter::new()
        .on_any(|_: Event| async {})
        .fresh_within(WITHIN);
    let inbox = MemoryInbox::new(router);
    inbox.accept(sent_at(-7_200_000)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.unhandled, stats.skipped), (1, 1));
}

/// A policy whose delays a handler decides.
fn requested() -> DeliverySettings {
    let retry = RetryPolicy::new().max_attempts(5);
    let retry = retry.initial_delay(Duration::ZERO);
    DeliverySettings::new().retry(retry.max_delay(Duration::from_secs(86_400)))
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_would_start_too_late_ends_the_route_as_stale_and_keeps_the_last_error() {
    let runs = Arc::default();
    let error = || {
        Err(HandlerError::retry_after(
            WITHIN + Duration::from_secs(1),
            "the chat is down",
        ))
    };
    let router = EventRouter::new()
        .on("a", counting(&runs, error))
        .named("announce")
        .fresh_within(WITHIN);
    let inbox = MemoryInbox::builder().delivery(requested()).build(router);
    let start = tokio::time::Instant::now();
    inbox.accept(sent_at(0)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    // The route doesn't wait for a retry that it would skip.
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!((stats.handled, stats.dead, stats.skipped), (1, 0, 1));
    let records = inbox.handle().events();
    let record = records
        .list(&Default::default(), 1)
        .await
        .unwrap()
        .remove(0);
    let [result] = record.routes() else {
        panic!("{record}")
    };
    assert_eq!(
        result.reason(),
        Some("skipped: stale after failed: the chat is down")
    );
    assert_eq!(result.outcome(), "skipped");
    assert!(result.is_skipped() && !result.is_failure());
    let attempt = &record.history()[0].routes()[0];
    assert_eq!(attempt.reason(), Some("failed: the chat is down"));
}

#[tokio::test]
async fn a_route_that_uses_up_its_attempts_while_the_event_is_fresh_is_dead_lettered() {
    let runs = Arc::default();
    let router = EventRouter::new()
        .on("a", counting(&runs, || Err("no".into())))
        .fresh_within(WITHIN);
    let delivery = DeliverySettings::new().retry(RetryPolicy::no_retry());
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    inbox.accept(sent_at(0)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.skipped), (1, 0));
}

#[tokio::test]
async fn a_permanent_error_is_a_failure_even_if_the_next_attempt_would_be_stale() {
    let runs = Arc::default();
    let router = EventRouter::new()
        .on(
            "a",
            counting(&runs, || Err(HandlerError::permanent("no such channel"))),
        )
        .fresh_within(WITHIN);
    let inbox = MemoryInbox::new(router);
    inbox.accept(sent_at(-599_000)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.skipped), (1, 0));
}

#[tokio::test]
async fn a_dead_letter_keeps_the_skip_and_a_replay_of_the_remaining_routes_does_not_check_it_again()
{
    let (announced, archive) = (Arc::default(), Arc::new(AtomicU32::new(0)));
    let fails = Arc::clone(&archive);
    let router = EventRouter::new()
        .on("a", counting(&announced, || Ok(())))
        .named("announce")
        .fresh_within(WITHIN)
        .on("a", move |_: Event| async move {
            match fails.fetch_add(1, Ordering::Relaxed) {
                0 => Err(HandlerError::permanent("no disk")),
                _ => Ok(()),
            }
        })
        .named("archive");
    let inbox = MemoryInbox::new(router);
    inbox.accept(sent_at(-7_200_000)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.skipped), (1, 1));
    let letter = letters(&inbox).list(None, 9).await.unwrap().remove(0);
    let results = letter.routes().iter().map(|result| result.reason());
    let expected = [Some("skipped: stale"), Some("failed: no disk")];
    assert_eq!(results.collect::<Vec<_>>(), expected);

    let events = inbox.handle().events();
    assert!(events.replay(letter.id(), Replay::Remaining).await.unwrap());
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.skipped), (1, 1));
    // A replay to all routes checks the age again.
    assert!(events.replay(letter.id(), Replay::All).await.unwrap());
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.skipped), (2, 2));
    assert_eq!(announced.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_router_behind_layers_uses_the_clock_of_the_inbox() {
    let event = sent_at(0);
    let sent = event.timestamp().unwrap();
    for (late, runs) in [(Duration::ZERO, 1), (MILLI, 0)] {
        let count = Arc::default();
        let router = EventRouter::new().on("a", counting(&count, || Ok(())));
        let layered = ServiceBuilder::new()
            .concurrency_limit(3)
            .service(router.fresh_within(WITHIN));
        let runtime = TestRuntime::tokio().on_system_time(move || sent + WITHIN + late);
        let inbox = MemoryInbox::builder().build_with(runtime, layered);
        inbox.accept(event.clone()).await.unwrap();
        wait_idle(&inbox.handle()).await;
        assert_eq!(count.load(Ordering::Relaxed), runs);
    }
}

#[tokio::test]
async fn a_runtime_whose_clock_panics_does_not_affect_the_route() {
    let count = Arc::default();
    let router = EventRouter::new().on("a", counting(&count, || Ok(())));
    let calls = Arc::new(AtomicU32::new(0));
    let runtime = TestRuntime::tokio().on_system_time(move || {
        assert!(calls.fetch_add(1, Ordering::Relaxed) == 0, "no clock");
        SystemTime::now()
    });
    let router = router.fresh_within(WITHIN);
    let inbox = MemoryInbox::builder().build_with(runtime, router);
    inbox.accept(sent_at(0)).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn skipped_events_are_no_problem_of_the_route() {
    let router = EventRouter::new()
        .on("a", |_: Event| async { Err::<(), _>("down") })
        .fresh_within(WITHIN);
    let delivery = DeliverySettings::new().retry(RetryPolicy::no_retry());
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    let handle = inbox.handle();
    for _ in 0..50 {
        inbox.accept(sent_at(-7_200_000)).await.unwrap();
    }
    wait_idle(&handle).await;
    assert!(handle.health().is_ok());
}

#[tokio::test]
async fn the_harness_asserts_a_skip() {
    let router = EventRouter::new()
        .on("a", |_: Event| async {})
        .fresh_within(WITHIN);
    let harness = Harness::new(router);
    let request = MockRequest::event("a").member("timestamp", 1_600_000_000_000_i64);
    let result = harness.deliver(request).await;
    result.assert_skipped("a", &SkipReason::Stale);
    let not_failed = catch_unwind(AssertUnwindSafe(|| result.assert_failed("a", "")));
    let not_handled = catch_unwind(AssertUnwindSafe(|| result.assert_handled("a")));
    assert!(not_failed.is_err() && not_handled.is_err());
}

#[test]
#[should_panic(expected = "`fresh_within` needs a route")]
fn the_option_needs_a_route() {
    let _ = EventRouter::new().fresh_within(WITHIN);
}

#[tokio::test]
async fn the_option_belongs_to_the_last_route_of_its_router() {
    let stale = || MockRequest::event("b").member("timestamp", 1);
    let (first, second, merged) = (Arc::default(), Arc::default(), Arc::default());
    let base = EventRouter::new().on_prefix("b", counting(&first, || Ok(())));
    let limited = base.clone().on("b", counting(&second, || Ok(())));
    let limited = limited.fresh_within(WITHIN);
    let other = EventRouter::new().fallback(counting(&merged, || Ok(())));
    let inbox = MemoryInbox::new(limited.merge(other));
    inbox.accept(stale().to_event()).await.unwrap();
    inbox.accept(typed("c")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let counts = [first, second, merged].map(|count| count.load(Ordering::Relaxed));
    assert_eq!(counts, [1, 0, 1]);
}

async fn check(steps: &[Step]) {
    let model = Model::new();
    let builder = MemoryInbox::builder().delivery(Model::delivery());
    let inbox = builder.build_with(model.clock.clone(), model.router());
    // A memory inbox doesn't survive its process.
    model.check(inbox, steps, |inbox| async { inbox }).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_random_age_failure_or_clock_makes_a_stale_event_run_or_be_lost(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(&steps));
    }
}
