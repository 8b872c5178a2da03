//! `concurrency` of a route: its events wait without a worker, and other routes and events aren't delayed.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Attempt, DeliverySettings, Event, EventFilter, EventRouter, EventState, HandlerError,
    HandlerResult, Inbox, MemoryInbox, RetryPolicy, Runtime, TokioRuntime,
};
use proptest::prelude::*;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceBuilder};

use crate::support::route_concurrency::{Case, Model, case};
use crate::support::runtime::TestRuntime;
use crate::support::{event, key, keyed, letters, run_ready_tasks, typed, wait_idle};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A handler that takes a permit of a semaphore, and writes the ids of its events.
#[derive(Clone)]
struct Gate {
    open: Arc<Semaphore>,
    started: Arc<Mutex<Vec<String>>>,
}

impl Gate {
    fn new() -> Self {
        Self {
            open: Arc::new(Semaphore::new(0)),
            started: Arc::default(),
        }
    }

    fn handler(
        &self,
    ) -> impl FnOnce(Event) -> futures_util::future::BoxFuture<'static, ()> + Clone + Send + Sync + 'static
    {
        let this = self.clone();
        move |event| {
            this.started.lock().unwrap().push(event.id().to_owned());
            Box::pin(async move { this.open.acquire().await.unwrap().forget() })
        }
    }

    fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }

    /// Lets the running handler return, and runs what follows.
    async fn next(&self) {
        self.open.add_permits(1);
        run_ready_tasks().await;
    }
}

fn counting(
    count: &Arc<AtomicUsize>,
) -> impl FnOnce(Event) -> std::future::Ready<()> + Clone + Send + Sync + 'static {
    let count = Arc::clone(count);
    move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    }
}

fn ids(ids: std::ops::Range<usize>) -> Vec<String> {
    ids.map(|id| id.to_string()).collect()
}

#[tokio::test]
async fn events_wait_for_a_route_in_order_and_hold_no_worker() {
    let (gate, fast) = (Gate::new(), Arc::default());
    let router = EventRouter::new()
        .on("a", gate.handler())
        .named("slow")
        .concurrency(1)
        .on("a", counting(&fast))
        .named("fast")
        .on("other", counting(&fast));
    let delivery = DeliverySettings::new().concurrency(2);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    for id in ids(0..10) {
        inbox.accept(event(id)).await.unwrap();
    }
    inbox.accept(typed("other")).await.unwrap();
    run_ready_tasks().await;
    // One event runs the slow route. The second worker has run the fast route for all events.
    assert_eq!(gate.started(), ["0"]);
    assert_eq!(fast.load(Ordering::Relaxed), 11);
    let stats = inbox.handle().stats();
    assert_eq!((stats.running, stats.waiting, stats.retrying), (1, 9, 0));
    assert_eq!((stats.handled, stats.retried), (1, 0));
    for done in 1..10 {
        gate.next().await;
        assert_eq!(gate.started(), ids(0..done + 1));
    }
    gate.next().await;
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, fast.load(Ordering::Relaxed)), (11, 11));
}

#[tokio::test]
async fn a_wait_is_no_attempt() {
    let gate = Gate::new();
    let attempts: Arc<Mutex<Vec<u32>>> = Arc::default();
    let write = Arc::clone(&attempts);
    let delivery = DeliverySettings::new().on_attempt(move |attempt: &Attempt| {
        write.lock().unwrap().push(attempt.event().attempt());
    });
    let router = EventRouter::new().on("a", gate.handler()).concurrency(1);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    for id in ids(0..3) {
        inbox.accept(event(id)).await.unwrap();
    }
    run_ready_tasks().await;
    let filter = EventFilter::new().state(EventState::Waiting);
    let waiting = inbox.handle().events().list(&filter, 10).await.unwrap();
    assert_eq!(waiting.len(), 2);
    assert!(
        waiting
            .iter()
            .all(|record| record.attempts() == 0 && record.history().is_empty())
    );
    for _ in 0..3 {
        gate.next().await;
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(*attempts.lock().unwrap(), [1, 1, 1]);
    let ended = inbox
        .handle()
        .events()
        .list(&EventFilter::new(), 10)
        .await
        .unwrap();
    assert!(
        ended
            .iter()
            .all(|record| record.attempts() == 1 && record.history().len() == 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_another_route_is_neither_early_nor_late_while_a_route_waits() {
    let (start, runs) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let write = Arc::clone(&runs);
    let fails = move |_: Event| {
        write.lock().unwrap().push(start.elapsed().as_secs());
        std::future::ready(Err::<(), _>(HandlerError::retry_after(seconds(30), "no")))
    };
    let began = Arc::new(Mutex::new(Vec::new()));
    let write = Arc::clone(&began);
    let slow = move |event: Event| async move {
        let begun = (event.id().to_owned(), start.elapsed().as_secs());
        write.lock().unwrap().push(begun);
        sleep(seconds(100)).await;
    };
    let router = EventRouter::new()
        .on("a", slow)
        .named("slow")
        .concurrency(1)
        .timeout(seconds(1000))
        .on("a", fails)
        .named("fails")
        .on("block", |_: Event| pending::<()>());
    let retry = RetryPolicy::new().max_attempts(4).max_delay(seconds(30));
    let delivery = DeliverySettings::new().retry(retry);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    inbox.accept(event("0")).await.unwrap();
    // The first event occupies the slow route until 100 s. Its other route is retried after the attempt.
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let runs = runs.lock().unwrap().clone();
    // Event 1 fails at 0, 30, 60 and 90 s, and event 0 at 0, 130, 160 and 190 s.
    assert_eq!(runs, [0, 0, 30, 60, 90, 130, 160, 190]);
    let began = began.lock().unwrap().clone();
    assert_eq!(began, [("0".to_owned(), 0), ("1".to_owned(), 100)]);
    let letters = letters(&inbox).list(None, 10).await.unwrap();
    assert_eq!(letters.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_a_panicked_and_a_timed_out_handler_free_their_place() {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let handler = move |event: Event| async move {
        count.fetch_add(1, Ordering::Relaxed);
        match event.id() {
            "0" => panic!("0"),
            "1" => Err(HandlerError::permanent("1")),
            "2" => pending::<HandlerResult>().await,
            _ => Ok(()),
        }
    };
    let router = EventRouter::new()
        .on("a", handler)
        .concurrency(1)
        .max_attempts(1);
    let inbox = MemoryInbox::new(router);
    for id in ids(0..4) {
        inbox.accept(event(id)).await.unwrap();
    }
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.dead, stats.handled), (3, 1));
    assert_eq!(runs.load(Ordering::Relaxed), 4);
}

#[tokio::test]
async fn layers_around_the_router_do_not_hide_the_limit() {
    let gate = Gate::new();
    let router = EventRouter::new().on("a", gate.handler()).concurrency(2);
    let service = ServiceBuilder::new()
        .map_request(|event: Event| event)
        .service(router);
    let inbox = MemoryInbox::new(service);
    for id in ids(0..5) {
        inbox.accept(event(id)).await.unwrap();
    }
    run_ready_tasks().await;
    assert_eq!(gate.started(), ["0", "1"]);
    for _ in 0..5 {
        gate.next().await;
    }
    wait_idle(&inbox.handle()).await;
    assert_eq!(gate.started(), ids(0..5));
}

#[tokio::test]
async fn each_inbox_has_its_own_limit() {
    let gate = Gate::new();
    let router = EventRouter::new().on("a", gate.handler()).concurrency(0);
    let (first, second) = (MemoryInbox::new(router.clone()), MemoryInbox::new(router));
    for inbox in [&first, &second] {
        inbox.accept(event("0")).await.unwrap();
        inbox.accept(event("1")).await.unwrap();
    }
    run_ready_tasks().await;
    assert_eq!(gate.started(), ["0", "0"]);
    gate.open.add_permits(4);
    wait_idle(&first.handle()).await;
    wait_idle(&second.handle()).await;
}

#[tokio::test]
async fn an_event_that_waits_for_a_route_holds_up_the_next_event_of_its_key() {
    let gate = Gate::new();
    let order: Arc<Mutex<Vec<String>>> = Arc::default();
    let write = Arc::clone(&order);
    let router = EventRouter::new()
        .on("a", gate.handler())
        .named("slow")
        .concurrency(1)
        .on("a", move |event: Event| {
            write.lock().unwrap().push(event.id().to_owned());
            std::future::ready(())
        })
        .named("order");
    let delivery = DeliverySettings::new().ordering_key(key);
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    for (id, key) in [("0", "x"), ("1", "y"), ("2", "y"), ("3", "x")] {
        inbox.accept(keyed(id, key)).await.unwrap();
    }
    run_ready_tasks().await;
    assert_eq!(*order.lock().unwrap(), ["0", "1"]);
    for _ in 0..4 {
        gate.next().await;
    }
    wait_idle(&inbox.handle()).await;
    let order = order.lock().unwrap().clone();
    let of = |key: [&str; 2]| {
        order
            .iter()
            .filter(|id| key.contains(&id.as_str()))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (of(["0", "3"]), of(["1", "2"])),
        (vec!["0".into(), "3".into()], vec!["1".into(), "2".into()])
    );
}

#[tokio::test]
async fn a_drain_waits_for_the_events_that_wait_for_a_route() {
    let gate = Gate::new();
    let router = EventRouter::new()
        .on("a", gate.handler())
        .named("slow")
        .concurrency(1)
        .on("a", |_: Event| std::future::ready(Err::<(), _>("no")))
        .named("fails");
    let inbox = MemoryInbox::new(router);
    for id in ids(0..3) {
        inbox.accept(event(id)).await.unwrap();
    }
    run_ready_tasks().await;
    let handle = inbox.handle();
    let drain = tokio::spawn(async move { handle.drain(seconds(3600)).await.remaining });
    run_ready_tasks().await;
    gate.open.add_permits(3);
    assert_eq!(drain.await.unwrap(), 0);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(stats.dead, 3);
    assert_eq!(gate.started(), ids(0..3));
}

#[tokio::test]
async fn a_kept_attempt_of_a_stale_event_does_not_occupy_the_route() {
    let gate = Gate::new();
    let real = SystemTime::now();
    let (time, kept) = (Arc::new(Mutex::new(real)), Arc::default());
    let (shown, keep) = (Arc::clone(&time), Arc::<Mutex<Vec<Event>>>::clone(&kept));
    let router = EventRouter::new()
        .on("a", gate.handler())
        .concurrency(1)
        .fresh_within(seconds(60));
    let delivery = DeliverySettings::new().on_attempt(move |attempt: &Attempt| {
        keep.lock().unwrap().push(attempt.event().clone());
    });
    let runtime = TestRuntime::tokio().on_system_time(move || *shown.lock().unwrap());
    let inbox = MemoryInbox::builder()
        .delivery(delivery)
        .build_with(runtime, router);
    let sent_now = |id: &str| {
        let sent = real.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let request = MockRequest::event("a").message_id(id);
        request
            .member("timestamp", sent.as_millis() as u64)
            .to_event()
    };
    inbox.accept(sent_now("0")).await.unwrap();
    inbox.accept(sent_now("1")).await.unwrap();
    run_ready_tasks().await;
    *time.lock().unwrap() = real + seconds(120);
    gate.next().await;
    assert_eq!(inbox.handle().stats().skipped, 1);
    *time.lock().unwrap() = real;
    inbox.accept(sent_now("2")).await.unwrap();
    gate.next().await;
    wait_idle(&inbox.handle()).await;
    assert_eq!(gate.started(), ["0", "2"]);
    assert_eq!(kept.lock().unwrap().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_event_whose_other_route_runs_does_not_occupy_the_route() {
    let (gate, other) = (Gate::new(), Gate::new());
    let (failed, retried) = (Arc::new(AtomicUsize::new(0)), other.handler());
    let router = EventRouter::new()
        .on("a", gate.handler())
        .named("limited")
        .concurrency(1)
        .timeout(seconds(1000))
        .on("a", move |event: Event| async move {
            match (event.id(), failed.fetch_add(1, Ordering::Relaxed)) {
                ("1", _) => retried(event).await,
                // The first run of the last event fails.
                ("3", 3) => return Err(HandlerError::retry_after(seconds(5), "not yet")),
                ("3", _) => retried(event).await,
                _ => {}
            }
            Ok(())
        })
        .named("other")
        .timeout(seconds(1000));
    let inbox = MemoryInbox::new(router);
    for id in ids(0..4) {
        inbox.accept(event(id)).await.unwrap();
        run_ready_tasks().await;
    }
    sleep(seconds(10)).await;
    assert_eq!(gate.started(), ["0"]);
    // The other route runs for events 1 and 3.
    assert_eq!(other.started(), ["1", "3"]);
    gate.next().await;
    assert_eq!(gate.started(), ["0", "2"]);
    gate.next().await;
    assert_eq!(gate.started(), ["0", "2"]);
    other.open.add_permits(2);
    run_ready_tasks().await;
    assert_eq!(gate.started(), ["0", "2", "1"]);
    gate.next().await;
    gate.next().await;
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.retried), (4, 1));
    assert_eq!(gate.started(), ["0", "2", "1", "3"]);
}

#[tokio::test]
async fn without_a_timer_the_retry_of_another_route_is_due_at_once() {
    let (gate, runs) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&runs);
    let router = EventRouter::new()
        .on("a", gate.handler())
        .named("slow")
        .concurrency(1)
        .on("a", move |event: Event| {
            let run = count.fetch_add(1, Ordering::Relaxed);
            std::future::ready(match (event.id(), run) {
                ("1", 1) => Err(HandlerError::retry_after(seconds(3600), "not yet")),
                _ => Ok(()),
            })
        })
        .named("other");
    let retry = RetryPolicy::new().max_delay(seconds(3600));
    let delivery = DeliverySettings::new().retry(retry);
    let runtime = TestRuntime::tokio().on_sleep(|duration| {
        assert!(duration < seconds(3600), "the runtime has no long timers");
        TokioRuntime::new().sleep(duration)
    });
    let builder = MemoryInbox::builder().delivery(delivery);
    let inbox = builder.build_with(runtime, router);
    inbox.accept(event("0")).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    run_ready_tasks().await;
    assert_eq!(runs.load(Ordering::Relaxed), 3);
    let stats = inbox.handle().stats();
    assert_eq!((stats.waiting, stats.retrying), (1, 0));
    gate.open.add_permits(2);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.retried), (2, 1));
}

#[tokio::test]
async fn a_layer_that_calls_the_router_twice_at_once_makes_one_attempt() {
    let (gate, attempts) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let router = EventRouter::new().on("a", gate.handler()).concurrency(1);
    let service = tower::service_fn(move |event: Event| {
        let (mut one, mut two) = (router.clone(), router.clone());
        async move {
            let (one, two) = (one.call(event.clone()), two.call(event));
            futures_util::future::join(one, two).await.0
        }
    });
    let count = Arc::clone(&attempts);
    let delivery = DeliverySettings::new().on_attempt(move |_: &Attempt| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let inbox = MemoryInbox::builder().delivery(delivery).build(service);
    for id in ids(0..2) {
        inbox.accept(event(id)).await.unwrap();
    }
    run_ready_tasks().await;
    gate.open.add_permits(2);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.retried), (2, 0));
    assert_eq!(gate.started(), ["0", "1"]);
    assert_eq!(attempts.load(Ordering::Relaxed), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_random_load_exceeds_the_limit_of_a_route_or_delays_another_route(case in case()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(case));
    }
}

async fn check(case: Case) {
    let model = Model::new(&case);
    let builder = MemoryInbox::builder().delivery(model.delivery());
    let inbox = builder.build_with(model.clock.clone(), model.router());
    model
        .check(inbox, &case.steps, |inbox| async { inbox })
        .await;
}
