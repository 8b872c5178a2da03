//! Models of threads that accept events, run jobs, drain and end, in thousands of interleavings. If a job has no worker, or
//! no thread wakes a waiter, shuttle reports a deadlock.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::thread;

use super::{MemoryInbox, MemoryInboxBuilder};
use crate::delivery::{DeliverySettings, Stats};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Handle, Inbox};
use crate::outcome::HandlerError;
use crate::outcome::RetryPolicy;
use crate::router::EventRouter;
use crate::runtime::{BoxFuture, Runtime};

/// Tries random interleavings, and interleavings with few context switches. Few switches suffice for most bugs.
fn check(model: fn()) {
    shuttle::check_random(model, 2_000);
    shuttle::check_pct(model, 2_000, 3);
}

/// Runs each task on its own thread. `failing` is the number of tasks that will still fail to spawn, and `dropping` is
/// the number of tasks that will still be dropped.
#[derive(Default)]
struct Threads {
    failing: AtomicUsize,
    dropping: AtomicUsize,
}

fn counts_down(count: &AtomicUsize) -> bool {
    let less = |count: usize| count.checked_sub(1);
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

impl Runtime for Threads {
    fn spawn(&self, task: BoxFuture<()>) {
        assert!(!counts_down(&self.failing), "the runtime has shut down");
        if !counts_down(&self.dropping) {
            thread::spawn(|| block_on(task));
        }
    }

    fn sleep(&self, _: Duration) -> BoxFuture<()> {
        Box::pin(async { thread::yield_now() })
    }

    /// Returns the same time at each call, so that a model is deterministic.
    fn now(&self) -> Instant {
        static START: OnceLock<Instant> = OnceLock::new();
        *START.get_or_init(Instant::now)
    }
}

fn builder() -> MemoryInboxBuilder {
    let retry = RetryPolicy::new().max_attempts(2);
    MemoryInbox::builder().delivery(DeliverySettings::new().concurrency(1).retry(retry))
}

/// Starts a thread that accepts the events with these ids.
fn accepting(
    inbox: &MemoryInbox,
    ids: &'static [&str],
) -> thread::JoinHandle<Vec<Result<Accepted, AcceptError>>> {
    let inbox = inbox.clone();
    thread::spawn(move || {
        let accept = |id: &&str| {
            let body = format!(r#"{{"messageId":"{id}","timestamp":1,"eventType":"a"}}"#);
            let event = Event::from_bytes(body).expect("a good event");
            block_on(inbox.accept(event))
        };
        ids.iter().map(accept).collect()
    })
}

fn news(answers: &[Result<Accepted, AcceptError>]) -> u64 {
    let new = |answer: &&Result<_, _>| matches!(answer, Ok(Accepted::New));
    answers.iter().filter(new).count() as u64
}

/// Waits until no job is in flight, and returns the counts.
fn wait_idle(handle: &Handle) -> Stats {
    block_on(handle.wait_idle());
    let stats = handle.stats();
    let ended = stats.handled + stats.unhandled + stats.dead;
    assert_eq!((stats.accepted, stats.in_flight()), (ended, 0), "{stats:?}");
    stats
}

fn noop() -> EventRouter {
    EventRouter::new().on("a", |_: Event| async {})
}

#[test]
fn every_event_gets_a_worker_even_if_it_arrives_as_the_last_worker_ends() {
    check(|| {
        let inbox = builder().build_with(Threads::default(), noop());
        let threads = [accepting(&inbox, &["1", "2"]), accepting(&inbox, &["3"])];
        let answers = threads.map(|thread| thread.join().expect("it accepts"));
        assert_eq!(answers.iter().map(|answers| news(answers)).sum::<u64>(), 3);
        assert_eq!(wait_idle(&inbox.handle()).handled, 3);
    });
}

#[test]
fn a_copy_of_an_event_that_is_withdrawn_is_never_answered_200() {
    check(|| {
        let runtime = Threads {
            failing: AtomicUsize::new(1),
            ..Threads::default()
        };
        let inbox = builder().build_with(runtime, noop());
        let threads = [accepting(&inbox, &["1"]), accepting(&inbox, &["1"])];
        let answers = threads.map(|thread| thread.join().expect("it accepts").remove(0));
        let new = news(&answers);
        let copies = answers
            .iter()
            .filter(|answer| **answer == Ok(Accepted::Duplicate));
        assert!(copies.count() == 0 || new == 1, "{answers:?}");
        assert_eq!(wait_idle(&inbox.handle()).handled, new);
    });
}

#[test]
fn every_accepted_event_runs_although_the_runtime_drops_a_worker() {
    check(|| {
        let runtime = Threads {
            dropping: AtomicUsize::new(1),
            ..Threads::default()
        };
        let inbox = builder().build_with(runtime, noop());
        let threads = [accepting(&inbox, &["1"]), accepting(&inbox, &["2", "3"])];
        let answers = threads.map(|thread| thread.join().expect("it accepts"));
        let new = answers.iter().map(|answers| news(answers)).sum::<u64>();
        assert_eq!(wait_idle(&inbox.handle()).handled, new);
    });
}

#[test]
fn a_drain_waits_for_every_accepted_event_and_accepts_none_after_it() {
    check(|| {
        let inbox = builder().build_with(Threads::default(), noop());
        let (handle, accepting) = (inbox.handle(), accepting(&inbox, &["1", "2"]));
        let left = block_on(handle.drain(Duration::MAX)).remaining;
        let accepted = handle.stats().accepted;
        let answers = accepting.join().expect("it accepts");
        assert_eq!(accepted, news(&answers), "{left} were left");
        assert_eq!(wait_idle(&handle).handled, accepted);
    });
}

#[test]
fn a_drain_cuts_the_wait_for_the_next_attempt_short() {
    check(|| {
        let failed = Arc::new(AtomicUsize::new(0));
        let router = EventRouter::new().on("a", move |_: Event| async move {
            match failed.fetch_add(1, Ordering::SeqCst) {
                0 => Err(HandlerError::from("once")),
                _ => Ok(()),
            }
        });
        let inbox = builder().build_with(Threads::default(), router);
        let handle = inbox.handle();
        let answers = accepting(&inbox, &["1"]).join().expect("it accepts");
        assert_eq!(news(&answers), 1);
        let drain = thread::spawn({
            let handle = handle.clone();
            move || block_on(handle.drain(Duration::MAX)).remaining
        });
        let stats = wait_idle(&handle);
        assert_eq!((stats.handled, stats.retried), (1, 1));
        drain.join().expect("it drains");
    });
}
