//! A model of `once_per`: random keys, failures and times, and an inbox that may restart between any two steps.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    BoxFuture, DeliverySettings, Endpoint, Event, EventFilter, EventRecord, EventRouter,
    HandlerError, HandlerResult, Inbox, RetryPolicy, Runtime,
};
use http_body_util::Full;
use hyper::body::Bytes;
use proptest::prelude::*;
use tower::ServiceExt;

use super::balanced;
use super::runtime::ManualClock;

/// The window of the route `announce`, in milliseconds.
const WINDOW: u64 = 60_000;

/// The number of attempts of each event.
const ATTEMPTS: u32 = 3;

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The event's key, or `None` if it has none.
    key: Option<u8>,
    /// Whether the event's type has the suffix of a platform.
    is_suffixed: bool,
    /// The number of runs that fail.
    fails: u32,
    /// How long a run takes, in seconds.
    takes: u64,
    /// How long the other route of the event takes, in seconds.
    archive_takes: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Accept(Plan),
    Advance(u64),
    /// Closes the inbox and opens it again, if the inbox is durable.
    Restart,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = prop_oneof![
        4 => Just(Some(0)),
        2 => Just(Some(1)),
        1 => Just(None),
    ];
    let fails = prop_oneof![3 => Just(0), 1 => 1..=ATTEMPTS];
    let takes = prop_oneof![2 => Just(0_u64), 1 => 1..20_u64].boxed();
    let plan = (key, any::<bool>(), fails, takes.clone(), takes);
    let plan = plan.prop_map(|(key, is_suffixed, fails, takes, archive_takes)| Plan {
        key,
        is_suffixed,
        fails,
        takes,
        archive_takes,
    });
    let by = prop_oneof![Just(1), Just(WINDOW), Just(WINDOW + 1), 0..WINDOW * 2,];
    let step = prop_oneof![
        6 => plan.prop_map(Step::Accept),
        3 => by.prop_map(Step::Advance),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..20)
}

pub(crate) struct Model {
    pub(crate) clock: ManualClock,
    /// The number of runs, and of completed runs, by event.
    runs: Arc<Mutex<HashMap<String, (u32, u32)>>>,
    running: Arc<Mutex<HashMap<u8, u32>>>,
    /// How often two events of a key ran at once.
    overlaps: Arc<AtomicUsize>,
}

/// A running handler of a key.
struct Running(Arc<Mutex<HashMap<u8, u32>>>, u8);

impl Running {
    fn start(running: &Arc<Mutex<HashMap<u8, u32>>>, key: u8) -> Self {
        *running.lock().unwrap().entry(key).or_default() += 1;
        Self(Arc::clone(running), key)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.lock().unwrap().get_mut(&self.1).unwrap() -= 1;
    }
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            clock: ManualClock::new(),
            runs: Arc::default(),
            running: Arc::default(),
            overlaps: Arc::default(),
        }
    }

    pub(crate) fn delivery() -> DeliverySettings {
        let retry = RetryPolicy::new().max_attempts(ATTEMPTS).seed(7);
        let retry = retry.initial_delay(Duration::from_secs(5));
        DeliverySettings::new()
            .concurrency(4)
            .attempt_timeout(Duration::from_secs(100))
            .retry(retry.max_delay(Duration::from_secs(20)))
    }

    /// Returns a router with a route that runs once per key, and a route that runs for every event.
    pub(crate) fn router(&self) -> EventRouter {
        let clock = self.clock.clone();
        EventRouter::new()
            .on_prefix("started", self.announce())
            .named("announce")
            .once_per(Duration::from_millis(WINDOW), |event| {
                let (key, _, _, _): (Option<u8>, u32, u64, u64) = event.decode().ok()?;
                Some([key?])
            })
            .on_any(async move |event: Event<(Option<u8>, u32, u64, u64)>| {
                let takes = event.data().3;
                if takes > 0 {
                    clock.sleep(Duration::from_secs(takes)).await;
                }
            })
            .named("archive")
    }

    fn announce(
        &self,
    ) -> impl FnOnce(Event) -> BoxFuture<HandlerResult> + Clone + Send + Sync + 'static {
        let (clock, runs) = (self.clock.clone(), Arc::clone(&self.runs));
        let (running, overlaps) = (Arc::clone(&self.running), Arc::clone(&self.overlaps));
        move |event: Event| {
            let (key, fails, takes, _): (Option<u8>, u32, u64, u64) = event.decode().unwrap();
            let run = {
                let mut runs = runs.lock().unwrap();
                let (run, _) = runs.entry(event.id().to_owned()).or_default();
                *run += 1;
                *run
            };
            Box::pin(async move {
                let running = key.map(|key| Running::start(&running, key));
                if let Some(Running(running, key)) = &running
                    && running.lock().unwrap()[key] > 1
                {
                    overlaps.fetch_add(1, Ordering::Relaxed);
                }
                if takes > 0 {
                    clock.sleep(Duration::from_secs(takes)).await;
                }
                if run <= fails {
                    return Err(HandlerError::from("not yet"));
                }
                runs.lock().unwrap().get_mut(event.id()).unwrap().1 += 1;
                Ok(())
            })
        }
    }

    /// Sends an event through the receiver, which notes the time of receipt.
    async fn send<I: Inbox + Clone>(&self, inbox: &I, id: usize, plan: &Plan) {
        let event_type = if plan.is_suffixed {
            "started.twitch"
        } else {
            "started"
        };
        let request = MockRequest::event(event_type).message_id(id.to_string());
        let request = request.data((plan.key, plan.fails, plan.takes, plan.archive_takes));
        let endpoint = Endpoint::new(inbox.clone());
        let answer = endpoint
            .oneshot(request.build::<Full<Bytes>>())
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Runs the steps. `reopen` closes the inbox and opens it again, or returns the same inbox.
    pub(crate) async fn check<I: Inbox + Clone, F: Future<Output = I>>(
        &self,
        mut inbox: I,
        steps: &[Step],
        reopen: impl Fn(I) -> F,
    ) {
        let (mut plans, mut restarts) = (Vec::new(), 0);
        for step in steps {
            match step {
                Step::Accept(plan) => {
                    self.send(&inbox, plans.len(), plan).await;
                    plans.push(plan.clone());
                }
                Step::Advance(by) => self.clock.advance(Duration::from_millis(*by)),
                Step::Restart => {
                    inbox = reopen(inbox).await;
                    restarts += 1;
                }
            }
            balanced(&inbox.handle().stats());
        }
        let handle = inbox.handle();
        let idle = || handle.stats().in_flight() == 0;
        self.clock.advance_until(Duration::from_secs(1), idle).await;
        balanced(&handle.stats());
        let overlaps = self.overlaps.load(Ordering::Relaxed);
        assert_eq!(overlaps, 0, "two events of a key ran at once");
        let records = handle.events().list(&EventFilter::new(), 100).await;
        let records = records.unwrap();
        assert_eq!(records.len(), plans.len());
        for record in &records {
            self.check_record(record, &records, &plans, restarts);
        }
    }

    fn check_record(
        &self,
        record: &EventRecord,
        all: &[EventRecord],
        plans: &[Plan],
        restarts: u32,
    ) {
        let plan = plan(record, plans);
        let siblings = || {
            all.iter().filter(|other| {
                other.id() != record.id()
                    && plan.key.is_some()
                    && self::plan(other, plans).key == plan.key
                    && distance(record, other) <= WINDOW
            })
        };
        let runs = self.runs.lock().unwrap();
        let (runs, done) = runs.get(record.message_id()).copied().unwrap_or_default();
        assert_eq!(result(record, "archive"), None, "{record}");
        let reason = result(record, "announce");
        match reason.as_deref() {
            None => {
                let handled: Vec<_> = siblings()
                    .filter(|other| result(other, "announce").is_none())
                    .collect();
                assert!(
                    handled.is_empty(),
                    "the route handled two events of a key: {record}, {handled:?}"
                );
                // A restart may repeat a run that had ended.
                assert!((1..=1 + restarts).contains(&done), "{done} runs: {record}");
            }
            Some(reason) if reason.starts_with("skipped: duplicate of ") => {
                let of = reason.rsplit(' ').next().unwrap();
                let of = siblings().find(|other| other.message_id() == of);
                let of = of.unwrap_or_else(|| panic!("no sibling: {record} {reason}"));
                assert_eq!(result(of, "announce"), None, "not handled: {of}");
                assert!(done <= restarts, "a skipped event ran: {record}");
            }
            Some(failed) => {
                assert!(failed.starts_with("failed"), "{failed}");
                assert!(plan.fails >= ATTEMPTS && runs >= ATTEMPTS, "{record}");
                assert_eq!(done, 0);
            }
        }
    }
}

fn plan<'a>(record: &EventRecord, plans: &'a [Plan]) -> &'a Plan {
    &plans[record.message_id().parse::<usize>().unwrap()]
}

/// Returns the time between the receipts of two events, in milliseconds.
fn distance(one: &EventRecord, other: &EventRecord) -> u64 {
    let (one, other) = (one.received_at(), other.received_at());
    let between = one
        .duration_since(other)
        .or_else(|_| other.duration_since(one));
    u64::try_from(between.unwrap().as_millis()).unwrap()
}

fn result(record: &EventRecord, route: &str) -> Option<String> {
    let mut results = record.routes().iter();
    let result = results.find(|result| result.route() == route);
    result
        .unwrap_or_else(|| panic!("{route}: {record}"))
        .reason()
        .map(str::to_owned)
}
