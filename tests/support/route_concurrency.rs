//! A model of `concurrency`: random limits, durations and failures, and an inbox that may restart between any two steps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    BoxFuture, DeliverySettings, Event, EventFilter, EventRouter, HandlerError, HandlerResult,
    Inbox, RetryPolicy, Runtime,
};
use proptest::prelude::*;

use super::runtime::ManualClock;
use super::{balanced, until};

/// The number of attempts of each route.
const ATTEMPTS: u32 = 3;

#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The limit of the route `slow`.
    limit: usize,
    /// The limit of the route `slower`.
    other: usize,
    pub(crate) steps: Vec<Step>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Accepts an event whose routes with limits take this many seconds, and fail this many times.
    Accept {
        takes: u64,
        fails: u32,
    },
    Advance(u64),
    /// Closes the inbox and opens it again, if the inbox is durable.
    Restart,
}

pub(crate) fn case() -> impl Strategy<Value = Case> {
    let step = prop_oneof![
        6 => (0..20_u64, prop_oneof![Just(0), 0..=ATTEMPTS])
            .prop_map(|(takes, fails)| Step::Accept { takes, fails }),
        3 => (0..15_000_u64).prop_map(Step::Advance),
        1 => Just(Step::Restart),
    ];
    let steps = proptest::collection::vec(step, 1..20);
    (1..4_usize, 1..4_usize, steps).prop_map(|(limit, other, steps)| Case {
        limit,
        other,
        steps,
    })
}

#[derive(Default)]
struct Work {
    /// The number of running handlers by route.
    running: HashMap<&'static str, usize>,
    /// The number of runs by event and route.
    runs: HashMap<(String, &'static str), u32>,
    exceeded: Option<String>,
}

pub(crate) struct Model {
    pub(crate) clock: ManualClock,
    limits: [(&'static str, usize); 2],
    work: Arc<Mutex<Work>>,
}

/// A running handler.
struct Running {
    route: &'static str,
    work: Arc<Mutex<Work>>,
}

impl Running {
    /// Counts a run. Returns its number for the event and the route, from 1.
    fn start(work: &Arc<Mutex<Work>>, id: &str, route: &'static str, limit: usize) -> (Self, u32) {
        let mut counts = work.lock().unwrap();
        let running = counts.running.entry(route).or_default();
        *running += 1;
        if *running > limit {
            counts.exceeded = Some(format!("{route} runs {running} handlers of {limit}"));
        }
        let run = counts.runs.entry((id.to_owned(), route)).or_default();
        *run += 1;
        let run = *run;
        drop(counts);
        let work = Arc::clone(work);
        (Self { route, work }, run)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut work = self.work.lock().unwrap();
        *work.running.get_mut(self.route).unwrap() -= 1;
    }
}

impl Model {
    pub(crate) fn new(case: &Case) -> Self {
        Self {
            clock: ManualClock::new(),
            limits: [("slow", case.limit), ("slower", case.other)],
            work: Arc::default(),
        }
    }

    /// Returns settings with one worker more than the routes with limits can occupy.
    pub(crate) fn delivery(&self) -> DeliverySettings {
        let workers: usize = self.limits.iter().map(|(_, limit)| limit).sum();
        let retry = RetryPolicy::new().max_attempts(ATTEMPTS);
        let retry = retry.max_delay(Duration::from_secs(10));
        DeliverySettings::new()
            .concurrency(workers + 1)
            .attempt_timeout(Duration::from_secs(100))
            .retry(retry)
    }

    pub(crate) fn router(&self) -> EventRouter {
        let [(slow, limit), (slower, other)] = self.limits;
        EventRouter::new()
            .on("a", self.handler(slow))
            .named(slow)
            .concurrency(limit)
            .on("a", self.handler("fast"))
            .named("fast")
            .on("a", self.handler(slower))
            .named(slower)
            .concurrency(other)
    }

    fn handler(
        &self,
        route: &'static str,
    ) -> impl FnOnce(Event) -> BoxFuture<HandlerResult> + Clone + Send + Sync + 'static {
        let (clock, work) = (self.clock.clone(), Arc::clone(&self.work));
        let limit = self.limits.iter().find(|(limited, _)| *limited == route);
        let limit = limit.map(|(_, limit)| *limit);
        move |event| {
            let (takes, fails): (u64, u32) = event.decode().unwrap();
            let most = limit.unwrap_or(usize::MAX);
            let (running, run) = Running::start(&work, event.id(), route, most);
            Box::pin(async move {
                let _running = running;
                if limit.is_some() {
                    clock.sleep(Duration::from_secs(takes)).await;
                }
                if limit.is_some() && run <= fails {
                    return Err(HandlerError::from("not yet"));
                }
                Ok(())
            })
        }
    }

    fn runs(&self, id: usize, route: &'static str) -> u32 {
        let work = self.work.lock().unwrap();
        let run = work.runs.get(&(id.to_string(), route));
        run.copied().unwrap_or(0)
    }

    /// Runs the steps. `reopen` closes the inbox and opens it again, or returns the same inbox.
    pub(crate) async fn check<I: Inbox, F: Future<Output = I>>(
        &self,
        mut inbox: I,
        steps: &[Step],
        reopen: impl Fn(I) -> F,
    ) {
        let (mut fails_of, mut restarts) = (Vec::new(), 0);
        for step in steps {
            match *step {
                Step::Accept { takes, fails } => {
                    let event = MockRequest::event("a").message_id(fails_of.len().to_string());
                    let event = event.data((takes, fails)).to_event();
                    inbox.accept(event).await.unwrap();
                    fails_of.push(fails);
                }
                Step::Advance(by) => self.clock.advance(Duration::from_millis(by)),
                Step::Restart => {
                    inbox = reopen(inbox).await;
                    restarts += 1;
                }
            }
            // The routes with limits leave a worker free, which runs the other route of every event.
            until(|| (0..fails_of.len()).all(|id| self.runs(id, "fast") > 0)).await;
            balanced(&inbox.handle().stats());
        }
        let handle = inbox.handle();
        let idle = || handle.stats().in_flight() == 0;
        self.clock.advance_until(Duration::from_secs(1), idle).await;
        balanced(&handle.stats());
        assert_eq!(self.work.lock().unwrap().exceeded, None);
        let records = handle.events().list(&EventFilter::new(), 100).await;
        let records = records.unwrap();
        assert_eq!(records.len(), fails_of.len());
        for record in &records {
            let id: usize = record.message_id().parse().unwrap();
            let fails = fails_of[id];
            for route in ["slow", "slower", "fast"] {
                let (runs, fails) = (
                    self.runs(id, route),
                    if route == "fast" { 0 } else { fails },
                );
                let expected = ATTEMPTS.min(fails + 1);
                // A restart repeats the running attempts.
                let most = expected + restarts;
                assert!(
                    (expected..=most).contains(&runs),
                    "{route} ran {runs} times: {record}"
                );
                let mut results = record.routes().iter();
                let result = results.find(|result| result.route() == route).unwrap();
                if restarts == 0 {
                    assert_eq!(result.is_failure(), fails >= ATTEMPTS, "{route}: {record}");
                }
            }
        }
    }
}
