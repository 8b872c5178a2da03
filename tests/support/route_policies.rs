//! A model of `retry` and `max_attempts`: random policies, failures and delays, and an inbox that may restart between any two
//! steps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use botisimo_webhooks::{
    DeliverySettings, Event, EventFilter, EventRecord, EventRouter, EventState, HandlerError,
    HandlerResult, Inbox, RetryPolicy, Runtime,
};
use proptest::prelude::*;

use super::runtime::ManualClock;
use super::{balanced, event, until};

/// The names of the routes. The first has a policy, the second a number of attempts, and the third no option.
const ROUTES: [&str; 3] = ["policy", "attempts", "plain"];

/// The number of attempts of a route without options.
const DEFAULT: u32 = 3;

/// The limits of a route, and its failures.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The maximum number of attempts, unless the route has no option.
    attempts: u32,
    /// The number of runs that fail.
    fails: u32,
    /// The delay that a failed run requests, in milliseconds.
    delay: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Accept,
    Advance(u64),
    /// Closes the inbox and opens it again, if the inbox is durable.
    Restart,
}

pub(crate) fn case() -> impl Strategy<Value = ([Plan; 3], Vec<Step>)> {
    let plan = || {
        let delay = prop_oneof![Just(0), Just(5_000), 0..30_000_u64];
        (1..5_u32, 0..6_u32, delay).prop_map(|(attempts, fails, delay)| Plan {
            attempts,
            fails,
            delay,
        })
    };
    let step = prop_oneof![
        1 => Just(Step::Accept),
        3 => (0..20_000_u64).prop_map(Step::Advance),
        1 => Just(Step::Restart),
    ];
    let plans = [plan(), plan(), plan()];
    (plans, proptest::collection::vec(step, 1..10))
}

/// The times of the runs, by event and route.
type Runs = Arc<Mutex<HashMap<(String, usize), Vec<Instant>>>>;

pub(crate) struct Model {
    pub(crate) clock: ManualClock,
    plans: [Plan; 3],
    runs: Runs,
}

/// Returns a policy whose delays are exactly the requested delays.
pub(crate) fn requested(attempts: u32) -> RetryPolicy {
    let policy = RetryPolicy::new().max_attempts(attempts);
    let policy = policy.initial_delay(Duration::ZERO);
    policy.max_delay(Duration::from_secs(3600))
}

impl Model {
    pub(crate) fn new(plans: [Plan; 3]) -> Self {
        Self {
            clock: ManualClock::new(),
            plans,
            runs: Arc::default(),
        }
    }

    pub(crate) fn delivery() -> DeliverySettings {
        DeliverySettings::new().retry(requested(DEFAULT))
    }

    pub(crate) fn router(&self) -> EventRouter {
        EventRouter::new()
            .on("a", self.handler(0))
            .named(ROUTES[0])
            .retry(requested(self.plans[0].attempts))
            .on("a", self.handler(1))
            .named(ROUTES[1])
            .max_attempts(self.plans[1].attempts)
            .on("a", self.handler(2))
            .named(ROUTES[2])
    }

    fn handler(
        &self,
        route: usize,
    ) -> impl FnOnce(Event) -> std::future::Ready<HandlerResult> + Clone + Send + Sync + 'static
    {
        let (clock, runs) = (self.clock.clone(), Arc::clone(&self.runs));
        let Plan { fails, delay, .. } = self.plans[route];
        move |event| {
            let mut runs = runs.lock().unwrap();
            let runs = runs.entry((event.id().to_owned(), route)).or_default();
            runs.push(clock.now());
            let failed = runs.len() as u32 <= fails;
            let delay = Duration::from_millis(delay);
            std::future::ready(match failed {
                true => Err(HandlerError::retry_after(delay, "not yet")),
                false => Ok(()),
            })
        }
    }

    /// Runs the steps. `reopen` closes the inbox and opens it again, or returns the same inbox.
    pub(crate) async fn check<I: Inbox, F: Future<Output = I>>(
        &self,
        mut inbox: I,
        steps: &[Step],
        reopen: impl Fn(I) -> F,
    ) {
        let mut accepted = 0;
        for step in steps {
            match *step {
                Step::Accept => {
                    let id = format!("m-{accepted}");
                    inbox.accept(event(id)).await.unwrap();
                    accepted += 1;
                }
                Step::Advance(by) => self.clock.advance(Duration::from_millis(by)),
                Step::Restart => inbox = reopen(inbox).await,
            }
            let handle = inbox.handle();
            until(|| handle.stats().waiting + handle.stats().running == 0).await;
            balanced(&handle.stats());
        }
        let handle = inbox.handle();
        let idle = || handle.stats().in_flight() == 0;
        self.clock.advance_until(Duration::from_secs(1), idle).await;
        balanced(&handle.stats());
        let records = handle.events().list(&EventFilter::new(), 100).await;
        let records = records.unwrap();
        assert_eq!(records.len(), accepted);
        for record in &records {
            self.check_record(record);
        }
    }

    fn check_record(&self, record: &EventRecord) {
        let mut is_dead = false;
        for (route, plan) in self.plans.iter().enumerate() {
            let runs = self.runs.lock().unwrap();
            let runs = &runs[&(record.message_id().to_owned(), route)];
            let most = if route == 2 { DEFAULT } else { plan.attempts };
            let name = ROUTES[route];
            assert_eq!(runs.len() as u32, most.min(plan.fails + 1), "{name}");
            for pair in runs.windows(2) {
                let waited = pair[1] - pair[0];
                let delay = Duration::from_millis(plan.delay);
                assert!(waited >= delay, "{name} ran early: {waited:?} < {delay:?}");
            }
            let mut results = record.routes().iter();
            let result = results.find(|result| result.route() == name).unwrap();
            assert_eq!(result.is_failure(), plan.fails >= most, "{name}");
            is_dead |= result.is_failure();
        }
        assert_eq!(record.routes().len(), 3, "{record}");
        assert_eq!(record.state() == EventState::Dead, is_dead, "{record}");
    }
}
