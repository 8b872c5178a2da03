//! A model of `fresh_within`: random ages, failures and clocks, and an inbox that may restart between any two steps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventFilter, EventRecord, EventRouter, EventState, Handle, Inbox,
    RetryPolicy, RouteResult, Runtime, Stats,
};
use proptest::prelude::*;

use super::runtime::ManualClock;
use super::{balanced, until};

/// The age limit of the route `announce`, in milliseconds.
const WITHIN: u64 = 60_000;

/// The number of attempts of each event.
const ATTEMPTS: u32 = 4;

/// The longest delay of a retry, in milliseconds.
const MAX_DELAY: u64 = 40_000;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Accepts an event of this age in milliseconds. Each route fails this many times before it succeeds. The route `announce`
    /// may request a delay.
    Accept {
        age: i64,
        announce_fails: u32,
        archive_fails: u32,
        requested: Option<u64>,
    },
    Advance(u64),
    /// Moves only the system clock, by seconds.
    SetClock(i64),
    /// Closes the inbox and opens it again, if the inbox is durable.
    Restart,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let age = prop_oneof![
        Just(0),
        Just(WITHIN as i64 - 1),
        Just(WITHIN as i64),
        Just(WITHIN as i64 + 1),
        -100_000..200_000_i64,
    ];
    let requested = proptest::option::of(0..MAX_DELAY * 2);
    let accept = (age, 0..ATTEMPTS + 2, 0..ATTEMPTS + 2, requested);
    let accept = accept.prop_map(
        |(age, announce_fails, archive_fails, requested)| Step::Accept {
            age,
            announce_fails,
            archive_fails,
            requested,
        },
    );
    let step = prop_oneof![
        4 => accept,
        4 => (0..MAX_DELAY).prop_map(Step::Advance),
        1 => (-100..100_i64).prop_map(Step::SetClock),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..14)
}

/// A run of a route: the event's id, the route, and the event's age in milliseconds.
type Run = (String, &'static str, i64);

/// The inbox under test, and the work of its handlers.
pub(crate) struct Model {
    pub(crate) clock: ManualClock,
    runs: Arc<Mutex<Vec<Run>>>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            clock: ManualClock::new(),
            runs: Arc::default(),
        }
    }

    pub(crate) fn delivery() -> DeliverySettings {
        let retry = RetryPolicy::new().max_attempts(ATTEMPTS).seed(7);
        let retry = retry.initial_delay(Duration::from_secs(10));
        DeliverySettings::new().retry(retry.max_delay(Duration::from_millis(MAX_DELAY)))
    }

    /// Returns a router with a route that wants fresh events, and a route that wants all events.
    pub(crate) fn router(&self) -> EventRouter {
        EventRouter::new()
            .on("a", self.handler("announce", 0))
            .named("announce")
            .fresh_within(Duration::from_millis(WITHIN))
            .on("a", self.handler("archive", 1))
            .named("archive")
    }

    /// Returns a handler that fails as many times as the member `index` of the data says.
    fn handler(
        &self,
        route: &'static str,
        index: usize,
    ) -> impl FnOnce(Event) -> std::future::Ready<Result<(), botisimo_webhooks::HandlerError>>
    + Clone
    + Send
    + Sync
    + 'static {
        let (clock, runs) = (self.clock.clone(), Arc::clone(&self.runs));
        move |event| {
            let age = millis(clock.system_time()) - event.timestamp_millis();
            let mut runs = runs.lock().unwrap();
            runs.push((event.id().to_owned(), route, age));
            let done = runs
                .iter()
                .filter(|(id, by, _)| id == event.id() && *by == route);
            let (fails, requested): ([usize; 2], Option<u64>) = event.decode().unwrap();
            std::future::ready(match (done.count() <= fails[index], requested) {
                (false, _) => Ok(()),
                (true, Some(delay)) if index == 0 => {
                    let delay = Duration::from_millis(delay);
                    Err(botisimo_webhooks::HandlerError::retry_after(
                        delay, "not yet",
                    ))
                }
                (true, _) => Err("not yet".into()),
            })
        }
    }

    fn ages(&self, id: &str, route: &str) -> Vec<i64> {
        let runs = self.runs.lock().unwrap();
        let runs = runs.iter().filter(|(by, of, _)| by == id && *of == route);
        runs.map(|(_, _, age)| *age).collect()
    }

    /// Runs the steps. `reopen` closes the inbox and opens it again, or returns the same inbox.
    pub(crate) async fn check<I: Inbox, F: Future<Output = I>>(
        &self,
        mut inbox: I,
        steps: &[Step],
        reopen: impl Fn(I) -> F,
    ) {
        let mut sent: HashMap<String, Sent> = HashMap::new();
        let mut skipped = 0;
        for step in steps {
            match *step {
                Step::Accept {
                    age,
                    announce_fails,
                    archive_fails,
                    requested,
                } => {
                    let id = format!("m-{}", sent.len());
                    let now = self.clock.system_time();
                    let timestamp = millis(now) - age;
                    let data = ([announce_fails, archive_fails], requested);
                    let event = MockRequest::event("a").message_id(&id).data(data);
                    let event = event.member("timestamp", timestamp).to_event();
                    sent.insert(
                        id,
                        Sent {
                            age,
                            announce_fails,
                        },
                    );
                    inbox.accept(event).await.unwrap();
                }
                Step::Advance(by) => self.clock.advance(Duration::from_millis(by)),
                Step::SetClock(by) => self.clock.step(by),
                Step::Restart => {
                    skipped += inbox.handle().stats().skipped;
                    let before = inbox.handle().stats().in_flight();
                    inbox = reopen(inbox).await;
                    let stats = inbox.handle().stats();
                    if stats.recovered + stats.accepted == 0 {
                        assert_eq!(before, 0);
                    } else if stats.accepted > 0 {
                        // The same inbox continues to count.
                        skipped -= stats.skipped;
                    }
                }
            }
            waits(&inbox.handle()).await;
            balanced(&inbox.handle().stats());
        }
        let handle = inbox.handle();
        let idle = || handle.stats().in_flight() == 0;
        let second = Duration::from_secs(1);
        self.clock.advance_until(second, idle).await;
        let stats: Stats = handle.stats();
        balanced(&stats);

        let records = handle.events().list(&EventFilter::new(), 100).await;
        let records = records.unwrap();
        assert_eq!(records.len(), sent.len());
        let skips = records.iter().filter(|record| {
            let mut routes = record.routes().iter();
            routes.any(RouteResult::is_skipped)
        });
        assert_eq!(skips.count() as u64, skipped + stats.skipped);
        for record in &records {
            self.check_record(record, &sent[record.message_id()]);
        }
    }

    fn check_record(&self, record: &EventRecord, sent: &Sent) {
        let ages = self.ages(record.message_id(), "announce");
        assert!(
            ages.iter().all(|age| *age <= WITHIN as i64),
            "a handler got a stale event: {ages:?}"
        );
        let was_fresh = sent.age <= WITHIN as i64;
        assert_eq!(!ages.is_empty(), was_fresh, "{record} {sent:?}");
        let result = |route| {
            let mut results = record.routes().iter();
            results.find(|result| result.route() == route).unwrap()
        };
        let (announce, archive) = (result("announce"), result("archive"));
        assert!(!self.ages(record.message_id(), "archive").is_empty());
        assert!(!archive.is_skipped(), "{record}");
        let is_dead = announce.is_failure() || archive.is_failure();
        assert_eq!(record.state() == EventState::Dead, is_dead, "{record}");
        let runs = ages.len() as u32;
        match announce.outcome() {
            "handled" => assert_eq!(runs, sent.announce_fails + 1),
            "skipped" => assert!(runs <= sent.announce_fails && runs < ATTEMPTS, "{record}"),
            _ => assert_eq!(runs, ATTEMPTS, "{record}"),
        }
        // The last error stays visible: in the result, or in the history.
        if announce.is_skipped() && runs > 0 {
            let attempts = record.history().iter().flat_map(|each| each.routes());
            let mut failed = attempts.filter(|result| result.route() == "announce");
            assert!(failed.any(|result| result.reason() == Some("failed: not yet")));
        }
    }
}

/// An accepted event.
#[derive(Debug)]
struct Sent {
    age: i64,
    announce_fails: u32,
}

/// Waits until every event has ended or waits for its next attempt.
async fn waits(handle: &Handle) {
    until(|| {
        let stats = handle.stats();
        stats.waiting + stats.running == 0
    })
    .await;
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}
