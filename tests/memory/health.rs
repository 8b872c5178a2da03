//! The problems of an inbox: when they begin and end, and how the log and the hooks report them.

use std::collections::HashSet;
use std::future::pending;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, Handle, HandlerError, Health, HealthLimits,
    HealthProblemKind, Inbox, MemoryInbox, RetryPolicy, Runtime,
};
use tokio::time::sleep;

use crate::support::runtime::TestRuntime;
use crate::support::{event, key, keyed, letters, typed, wait_idle};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn kinds(health: &Health) -> Vec<HealthProblemKind> {
    let problems = health.problems().iter();
    problems.map(|problem| problem.kind()).collect()
}

/// The kinds of each health that a hook has received.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Vec<HealthProblemKind>>>>);

impl Seen {
    fn by(handle: &Handle) -> Self {
        let seen = Self::default();
        let list = Arc::clone(&seen.0);
        handle.on_health_change(move |health| list.lock().unwrap().push(kinds(health)));
        seen
    }

    fn list(&self) -> Vec<Vec<HealthProblemKind>> {
        self.0.lock().unwrap().clone()
    }
}

/// Returns settings without retries.
fn once() -> DeliverySettings {
    DeliverySettings::new().retry(RetryPolicy::no_retry())
}

/// Returns an inbox whose route `broken` fails while the flag is set.
fn breakable() -> (MemoryInbox, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&broken);
    let router = EventRouter::new()
        .on("a", move |_: Event| async move {
            let broken = flag.load(Ordering::SeqCst);
            (!broken).then_some(()).ok_or("the database is down")
        })
        .named("broken")
        .on("b", |_: Event| async {})
        .named("other");
    let inbox = MemoryInbox::builder().delivery(once()).build(router);
    (inbox, broken)
}

#[tokio::test(start_paused = true)]
async fn a_route_that_always_fails_is_reported_until_a_run_succeeds() {
    let (inbox, broken) = breakable();
    let handle = inbox.handle();
    let seen = Seen::by(&handle);
    for n in 0..5 {
        assert!(handle.health().is_ok(), "after {n} runs");
        inbox.accept(event(n.to_string())).await.unwrap();
        // The other route succeeds.
        inbox.accept(typed("b")).await.unwrap();
        wait_idle(&handle).await;
        sleep(15 * SECOND).await;
    }
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::RouteFailing]);
    let problem = &health.problems()[0];
    assert_eq!(problem.route(), Some("broken"));
    let text = problem.to_string();
    assert!(
        text.contains("broken") && text.contains("replay the dead letters"),
        "{text}"
    );
    assert!(!text.contains("database"), "{text}");
    assert!(health.is_ready() && health.is_live());

    broken.store(false, Ordering::SeqCst);
    inbox.accept(event("good")).await.unwrap();
    wait_idle(&handle).await;
    assert!(handle.health().is_ok());
    sleep(MINUTE).await;
    assert_eq!(seen.list(), [vec![HealthProblemKind::RouteFailing], vec![]]);
}

#[tokio::test(start_paused = true)]
async fn many_failures_within_a_minute_are_not_reported_yet() {
    let (inbox, _) = breakable();
    let limits = HealthLimits::new().dead_letters(1_000, MINUTE);
    inbox.handle().set_health_limits(limits);
    for n in 0..100 {
        inbox.accept(event(n.to_string())).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    assert!(inbox.handle().health().is_ok());
    sleep(MINUTE).await;
    assert!(inbox.handle().health().is_ok());
    inbox.accept(event("one more")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    assert_eq!(
        kinds(&inbox.handle().health()),
        [HealthProblemKind::RouteFailing]
    );
    // Without further runs, the route isn't failing any more.
    sleep(24 * HOUR).await;
    assert!(inbox.handle().health().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_route_whose_runs_all_time_out_is_stalled() {
    let router = EventRouter::new().on("a", |event: Event| async move {
        if event.id() != "good" {
            pending::<()>().await;
        }
    });
    let inbox = MemoryInbox::builder().delivery(once()).build(router);
    let handle = inbox.handle();
    for n in 0..5 {
        inbox.accept(event(n.to_string())).await.unwrap();
        wait_idle(&handle).await;
    }
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::RouteStalled]);
    let lasted = SystemTime::now().duration_since(health.problems()[0].since());
    // The first of five attempts ended after 30 s.
    assert_eq!(lasted.unwrap().as_secs() / 10, 12);
    inbox.accept(event("good")).await.unwrap();
    wait_idle(&handle).await;
    assert!(handle.health().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_a_dead_letter_blocks_is_reported_until_the_letter_is_deleted() {
    let router = EventRouter::new().on("a", |event: Event| async move {
        (event.id() != "dead").then_some(()).ok_or("no")
    });
    let delivery = once().ordering_key(key).block_key_on_dead_letter();
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    let handle = inbox.handle();
    let seen = Seen::by(&handle);
    inbox.accept(keyed("dead", "k")).await.unwrap();
    inbox.accept(keyed("blocked", "k")).await.unwrap();
    // Other events don't hide the blocked event.
    for n in 0..140 {
        assert!(handle.health().is_ok(), "after {} s", n * 6);
        sleep(6 * SECOND).await;
        inbox.accept(keyed(&n.to_string(), "other")).await.unwrap();
    }
    sleep(MINUTE).await;
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::EventsDelayed]);
    let text = health.to_string();
    assert!(
        text.contains("the limit is 9") && text.contains("blocked ordering key"),
        "{text}"
    );
    sleep(HOUR).await;
    assert_eq!(seen.list(), [[HealthProblemKind::EventsDelayed]]);

    let dead = letters(&inbox);
    assert_eq!(dead.prune(Duration::ZERO).await.unwrap(), 1);
    wait_idle(&handle).await;
    assert!(handle.health().is_ok());
    sleep(MINUTE).await;
    assert_eq!(seen.list().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_default_limit_of_the_age_includes_the_delays_of_the_retries() {
    let later = |_: Event| async { Err::<(), _>(HandlerError::retry_after(HOUR, "later")) };
    let retry = RetryPolicy::new()
        .max_attempts(5)
        .initial_delay(HOUR)
        .max_delay(HOUR);
    let delivery = DeliverySettings::new().retry(retry);
    let router = EventRouter::new().on("a", later);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    let handle = inbox.handle();
    inbox.accept(event("1")).await.unwrap();
    for _ in 0..8 {
        sleep(HOUR / 2).await;
        assert!(!kinds(&handle.health()).contains(&HealthProblemKind::EventsDelayed));
    }
    wait_idle(&handle).await;
    // A limit that the user sets doesn't include the delays.
    handle.set_health_limits(HealthLimits::new().max_event_age(HOUR));
    inbox.accept(event("2")).await.unwrap();
    sleep(HOUR + MINUTE).await;
    assert!(kinds(&handle.health()).contains(&HealthProblemKind::EventsDelayed));
}

#[tokio::test(start_paused = true)]
async fn growing_dead_letters_are_reported_until_they_stop_growing() {
    let (inbox, _) = breakable();
    let handle = inbox.handle();
    handle.set_health_limits(HealthLimits::new().route_failures(1_000, HOUR));
    let seen = Seen::by(&handle);
    // One dead letter every two minutes is below the limit.
    for n in 0..50 {
        inbox.accept(event(n.to_string())).await.unwrap();
        sleep(2 * MINUTE).await;
        assert!(handle.health().is_ok(), "{:?}", handle.health());
    }
    // With nine more, over ten events become dead letters within ten minutes.
    for n in 50..59 {
        inbox.accept(event(n.to_string())).await.unwrap();
    }
    wait_idle(&handle).await;
    assert_eq!(
        kinds(&handle.health()),
        [HealthProblemKind::DeadLettersGrowing]
    );
    sleep(MINUTE).await;
    assert_eq!(seen.list(), [[HealthProblemKind::DeadLettersGrowing]]);
    sleep(10 * MINUTE).await;
    assert!(handle.health().is_ok());
    assert_eq!(seen.list().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_affects_no_other_hook() {
    let (inbox, broken) = breakable();
    let handle = inbox.handle();
    handle.on_health_change(|_| panic!("a hook"));
    let seen = Seen::by(&handle);
    // A hook may use the handle and add hooks.
    let (own, calls) = (handle.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    handle.on_health_change(move |health| {
        assert_eq!(kinds(health), kinds(&own.health()));
        own.on_health_change(|_| {});
        counted.fetch_add(1, Ordering::SeqCst);
    });
    for round in 1..=3 {
        broken.store(true, Ordering::SeqCst);
        for n in 0..5 {
            inbox.accept(event(format!("{round} {n}"))).await.unwrap();
            sleep(20 * SECOND).await;
        }
        broken.store(false, Ordering::SeqCst);
        inbox.accept(event(format!("{round}"))).await.unwrap();
        sleep(20 * SECOND).await;
        assert_eq!(seen.list().len(), 2 * round);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 6);
}

/// Law 11 of ARCHITECTURE.md.
#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn while_a_problem_lasts_the_log_repeats_it_every_minute_and_then_says_that_it_has_ended() {
    let (log, _guard) = crate::support::subscriber::capture("botisimo_webhooks=info");
    let (inbox, broken) = breakable();
    let count = |text: &str| {
        log.lines()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    for n in 0..5 {
        inbox.accept(event(n.to_string())).await.unwrap();
        sleep(15 * SECOND).await;
    }
    for minutes in 1..10 {
        sleep(MINUTE).await;
        let warnings = count("every run of the route fails");
        assert!(
            (minutes..=minutes + 1).contains(&warnings),
            "{warnings} after {minutes}"
        );
    }
    let lines = log.lines();
    let warning = lines
        .iter()
        .find(|line| line.contains("every run of the route"));
    let warning = warning.unwrap();
    assert!(
        warning.contains("WARN") && warning.contains("broken"),
        "{warning}"
    );
    assert_eq!(count("the problem has ended"), 0);
    broken.store(false, Ordering::SeqCst);
    inbox.accept(event("good")).await.unwrap();
    sleep(MINUTE).await;
    let ended = log.line("the problem has ended");
    assert!(
        ended.contains("INFO") && ended.contains("route_failing"),
        "{ended}"
    );
    let warnings = count("every run of the route fails");
    sleep(HOUR).await;
    assert_eq!(count("every run of the route fails"), warnings);
}

/// A runtime that counts its timers and its unfinished tasks.
fn counting() -> (TestRuntime, Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let (tasks, sleeps) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (unfinished, timers) = (Arc::clone(&tasks), Arc::clone(&sleeps));
    let tokio = TestRuntime::tokio();
    let inner = tokio.clone();
    let runtime = tokio
        .on_spawn(move |task| {
            unfinished.fetch_add(1, Ordering::SeqCst);
            let guard = Guard(Arc::clone(&unfinished));
            inner.spawn(Box::pin(async move {
                let _guard = guard;
                task.await;
            }));
        })
        .on_sleep({
            let tokio = TestRuntime::tokio();
            move |duration| {
                timers.fetch_add(1, Ordering::SeqCst);
                tokio.sleep(duration)
            }
        });
    (runtime, tasks, sleeps)
}

struct Guard(Arc<AtomicUsize>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_inbox_has_no_timer_and_its_monitor_ends_with_it() {
    let (runtime, tasks, sleeps) = counting();
    let router = EventRouter::new().on("a", |_: Event| async {});
    let inbox = MemoryInbox::builder().build_with(runtime, router);
    // An inbox that has accepted nothing has no task.
    sleep(HOUR).await;
    assert_eq!(
        (tasks.load(Ordering::SeqCst), sleeps.load(Ordering::SeqCst)),
        (0, 0)
    );
    for round in 1..=3 {
        inbox.accept(event(round.to_string())).await.unwrap();
        sleep(MINUTE).await;
        // The monitor checked once, found no problem, and waits without a timer.
        assert_eq!(
            (tasks.load(Ordering::SeqCst), sleeps.load(Ordering::SeqCst)),
            (1, round)
        );
        sleep(1_000 * HOUR).await;
        assert_eq!(sleeps.load(Ordering::SeqCst), round);
    }
    drop(inbox);
    sleep(SECOND).await;
    assert_eq!(tasks.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn a_monitor_that_the_runtime_dropped_is_started_again() {
    let dropping = Arc::new(AtomicBool::new(true));
    let drops = Arc::clone(&dropping);
    let spawned = Arc::new(Mutex::new(HashSet::new()));
    let tokio = TestRuntime::tokio();
    let runtime = TestRuntime::tokio().on_spawn(move |task| {
        let mut spawned = spawned.lock().unwrap();
        let number = spawned.len();
        spawned.insert(number);
        // The second task is the first monitor.
        if !(number == 1 && drops.load(Ordering::SeqCst)) {
            tokio.spawn(task);
        }
    });
    let failing = |_: Event| async { Err::<(), _>("no") };
    let router = EventRouter::new().on("a", failing);
    let inbox = MemoryInbox::builder()
        .delivery(once())
        .build_with(runtime, router);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let list = Arc::clone(&seen);
    for n in 0..6 {
        inbox.accept(event(n.to_string())).await.unwrap();
        if n == 0 {
            let list = Arc::clone(&list);
            inbox
                .handle()
                .on_health_change(move |health| list.lock().unwrap().push(kinds(health)));
        }
        sleep(20 * SECOND).await;
    }
    assert_eq!(*seen.lock().unwrap(), [[HealthProblemKind::RouteFailing]]);
}
