//! A model of accepts, retries, replays and deletions with ordering keys. The model checks each run of a handler.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptErrorKind, Accepted, DeliverySettings, ErrorKind, Event, EventFilter, EventRecord,
    EventRouter, EventState, Handle, HandlerError, Inbox, Replay, RetryPolicy, Stats,
};
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use tokio::sync::watch;

use super::balanced;

/// The number of attempts at an event.
const ATTEMPTS: u32 = 2;

/// The number of attempts that run at once.
const CONCURRENCY: usize = 3;

/// A step of a test.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Accepts an event of a type with a key, or without a key if the key is 0. The body has this size in bytes.
    Accept(&'static str, u8, usize),
    /// Accepts a copy of an accepted event.
    Copy(u64),
    Replay(u64, Replay),
    ReplayMatching(EventState, Replay),
    Delete(u64),
    DeleteMatching(EventState),
    /// Ends the handler runs that wait.
    Release,
    /// Ends the process, and continues in another process. Only for a durable inbox.
    Crash,
    /// Drains the inbox, and continues in another process. Only for a durable inbox.
    Restart,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let id = || 1_u64..24;
    let event_type = prop::sample::select(vec!["a", "a.b", "b"]);
    let routes = || {
        let only = prop::sample::select(vec!["x", "y", "all"]);
        prop_oneof![
            Just(Replay::Remaining),
            Just(Replay::All),
            only.prop_map(|route| Replay::Only(route.to_owned())),
        ]
    };
    let ended = || {
        prop::sample::select(vec![
            EventState::Handled,
            EventState::Dead,
            EventState::Unhandled,
        ])
    };
    prop_oneof![
        10 => (event_type, 0_u8..3, 150_usize..600).prop_map(|(event_type, key, size)| Step::Accept(event_type, key, size)),
        1 => id().prop_map(Step::Copy),
        8 => (id(), routes()).prop_map(|(id, routes)| Step::Replay(id, routes)),
        2 => (ended(), routes()).prop_map(|(state, routes)| Step::ReplayMatching(state, routes)),
        2 => id().prop_map(Step::Delete),
        1 => ended().prop_map(Step::DeleteMatching),
        4 => Just(Step::Release),
        1 => Just(Step::Crash),
        1 => Just(Step::Restart),
    ]
}

/// The settings of a test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Decides the result of each run.
    pub(crate) seed: u64,
    pub(crate) blocks_keys: bool,
}

/// The model of one process. Clones share it.
#[derive(Clone)]
pub(crate) struct Model {
    rules: Rules,
    state: Arc<Mutex<State>>,
    /// Held during a step, so that no run begins before the model knows the result of the step.
    pause: Arc<tokio::sync::Mutex<()>>,
    released: watch::Sender<u64>,
}

#[derive(Clone, Debug, Default)]
struct State {
    events: BTreeMap<u64, Modelled>,
    /// The events of each key in order. The first event runs or blocks the key.
    keys: BTreeMap<u8, VecDeque<u64>>,
    accepted: u64,
    /// Faults that runs found. A panic of a handler would only count as a failure of its route.
    faults: Vec<String>,
    /// The released runs that haven't ended.
    released: BTreeSet<(u64, &'static str)>,
    /// Whether no run waits.
    is_ending: bool,
}

#[derive(Clone, Debug)]
struct Modelled {
    event_type: &'static str,
    key: u8,
    event: Event,
    /// The final state, or `None` while the event is in flight.
    ended: Option<EventState>,
    /// Whether each finished route handled the event.
    results: BTreeMap<&'static str, bool>,
    attempt: u32,
    /// The routes of the attempt, and the routes of the attempt that haven't begun.
    routes: BTreeSet<&'static str>,
    due: BTreeSet<&'static str>,
    running: BTreeSet<&'static str>,
    outcomes: BTreeMap<&'static str, Outcome>,
    /// The number of runs of each route, which decides the next run.
    runs: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Handled,
    Failed,
    FailedPermanently,
}

/// Returns the routes that match a type.
fn matching(event_type: &str) -> BTreeSet<&'static str> {
    match event_type {
        "a" => BTreeSet::from(["x", "y", "all"]),
        "a.b" => BTreeSet::from(["x", "all"]),
        _ => BTreeSet::from(["all"]),
    }
}

/// Returns whether the event has ended and the replay may run a route.
fn can_replay(record: &EventRecord, routes: &Replay) -> bool {
    let matches = match routes {
        Replay::Only(only) => {
            let event_type = record.event().unwrap().event_type();
            matching(event_type.as_str()).contains(only.as_str())
        }
        _ => true,
    };
    !record.state().is_in_flight() && matches
}

impl Modelled {
    fn blocks(&self, rules: Rules) -> bool {
        rules.blocks_keys && self.key > 0 && self.ended == Some(EventState::Dead)
    }

    /// Starts the attempts of a replay.
    fn restart(&mut self, routes: &Replay) {
        let all = matching(self.event_type);
        self.routes = match routes {
            Replay::Only(only) => all.into_iter().filter(|route| route == only).collect(),
            Replay::Remaining => {
                self.results.retain(|_, is_handled| *is_handled);
                let is_open = |route: &&str| !self.results.contains_key(route);
                all.into_iter().filter(is_open).collect()
            }
            _ => all,
        };
        self.results.retain(|route, _| !self.routes.contains(route));
        (self.attempt, self.ended) = (1, None);
        self.due.clone_from(&self.routes);
        self.outcomes.clear();
    }

    /// Ends the attempt, and starts the next one if a route must be retried.
    fn end_attempt(&mut self) {
        let is_last = self.attempt == ATTEMPTS;
        let mut again = BTreeSet::new();
        for (route, outcome) in std::mem::take(&mut self.outcomes) {
            match outcome {
                Outcome::Failed if !is_last => drop(again.insert(route)),
                outcome => drop(self.results.insert(route, outcome == Outcome::Handled)),
            }
        }
        if !again.is_empty() {
            self.attempt += 1;
            (self.routes, self.due) = (again.clone(), again);
            return;
        }
        let has_failed = self.results.values().any(|is_handled| !is_handled);
        self.ended = Some(match self.event_type {
            _ if has_failed => EventState::Dead,
            "b" => EventState::Unhandled,
            _ => EventState::Handled,
        });
    }
}

impl State {
    fn is_first(&self, id: u64, key: u8) -> bool {
        key == 0 || self.keys[&key].front() == Some(&id)
    }

    fn release_key(&mut self, id: u64, key: u8) {
        if key > 0 {
            let first = self.keys.get_mut(&key).unwrap().pop_front();
            assert_eq!(first, Some(id), "the event is the first of its key");
            self.end_empty(key);
        }
    }

    /// Ends the first events of a key whose replay runs no route. The model can't see when such an attempt ends.
    fn end_empty(&mut self, key: u8) {
        let Some(queue) = self.keys.get_mut(&key) else {
            return;
        };
        while let Some(id) = queue.front()
            && let Some(event) = self.events.get_mut(id)
            && event.ended.is_none()
            && event.routes.is_empty()
        {
            event.end_attempt();
            queue.pop_front();
        }
    }

    fn begin(&mut self, id: u64, route: &'static str, attempt: u32) -> Result<(), &'static str> {
        let Some(event) = self.events.get(&id) else {
            return Err("the event was deleted");
        };
        let (key, is_due) = (event.key, event.due.contains(route));
        if event.ended.is_some() {
            return Err("the event has ended");
        }
        if !is_due || event.attempt != attempt {
            return Err("the route isn't due in this attempt");
        }
        if !self.is_first(id, key) {
            return Err("an earlier event of the key hasn't ended");
        }
        let event = self.events.get_mut(&id).unwrap();
        event.due.remove(route);
        event.running.insert(route);
        *event.runs.entry(route).or_default() += 1;
        Ok(())
    }

    fn end(&mut self, id: u64, route: &'static str, outcome: Outcome, rules: Rules) {
        let event = self.events.get_mut(&id).unwrap();
        event.running.remove(route);
        event.outcomes.insert(route, outcome);
        self.released.remove(&(id, route));
        if event.running.is_empty() && event.due.is_empty() {
            event.end_attempt();
            let (key, keeps_key) = (event.key, event.ended.is_none() || event.blocks(rules));
            if !keeps_key {
                self.release_key(id, key);
            }
        }
    }

    fn replay(&mut self, id: u64, routes: &Replay, rules: Rules) {
        let event = self.events.get_mut(&id).unwrap();
        assert!(event.ended.is_some(), "{id} is in flight");
        let (key, was_blocking) = (event.key, event.blocks(rules));
        event.restart(routes);
        if key == 0 {
            if event.routes.is_empty() {
                event.end_attempt();
            }
        } else if !was_blocking {
            self.keys.entry(key).or_default().push_back(id);
            self.end_empty(key);
        }
    }

    fn delete(&mut self, id: u64, rules: Rules) {
        let event = self.events.remove(&id).unwrap();
        assert!(event.ended.is_some(), "{id} is in flight");
        if event.blocks(rules) {
            self.release_key(id, event.key);
        }
    }

    fn in_flight(&self) -> u64 {
        self.events
            .values()
            .filter(|event| event.ended.is_none())
            .count() as u64
    }

    /// Returns whether each event that may run is running, and each running event waits in a slow run.
    fn is_quiet(&self, stats: &Stats) -> bool {
        let in_flight = || {
            self.events
                .iter()
                .filter(|(_, event)| event.ended.is_none())
        };
        let running = in_flight().filter(|(_, event)| !event.running.is_empty());
        let is_started = running.clone().all(|(_, event)| event.due.is_empty());
        let running = running.count();
        let mut ready = in_flight()
            .filter(|(id, event)| event.running.is_empty() && self.is_first(**id, event.key));
        let is_busy = running == CONCURRENCY;
        let runs_all = ready.next().is_none() && stats.in_flight() == self.in_flight();
        self.released.is_empty()
            && is_started
            && stats.retrying == 0
            && stats.running == running as u64
            && (is_busy || runs_all)
    }
}

impl Model {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: Arc::default(),
            pause: Arc::default(),
            released: watch::Sender::new(0),
        }
    }

    /// Returns the model of the next process. Attempts that haven't ended begin again, and events of a key run in the order of
    /// acceptance, behind the dead letter that blocks the key.
    pub(crate) fn next_process(&self) -> Self {
        let mut state = self.state().clone();
        state.released.clear();
        let (events, keys) = (&mut state.events, &mut state.keys);
        for event in events.values_mut().filter(|event| event.ended.is_none()) {
            event.due.clone_from(&event.routes);
            event.running.clear();
            event.outcomes.clear();
        }
        for queue in keys.values_mut() {
            let place = |id: &u64| (!events[id].blocks(self.rules), *id);
            queue.make_contiguous().sort_by_key(place);
        }
        // The new order may put an event first whose replay runs no route.
        for key in state.keys.keys().copied().collect::<Vec<_>>() {
            state.end_empty(key);
        }
        Self {
            state: Arc::new(Mutex::new(state)),
            ..Self::new(self.rules)
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn router(&self) -> EventRouter {
        EventRouter::new()
            .on_prefix("a", self.handler("x"))
            .named("x")
            .on("a", self.handler("y"))
            .named("y")
            .on_any(self.handler("all"))
            .named("all")
    }

    pub(crate) fn delivery(&self) -> DeliverySettings {
        let retry = RetryPolicy::new()
            .max_attempts(ATTEMPTS)
            .initial_delay(Duration::ZERO)
            .max_delay(Duration::ZERO);
        let delivery = DeliverySettings::new()
            .concurrency(CONCURRENCY)
            .retry(retry)
            .attempt_timeout(Duration::from_secs(10_000))
            .ordering_key(|event: &Event| {
                let key = event.decode::<String>().ok()?;
                let key = key.split(' ').next()?.to_owned();
                (key != "0").then_some(key)
            });
        match self.rules.blocks_keys {
            true => delivery.block_key_on_dead_letter(),
            false => delivery,
        }
    }

    fn handler(
        &self,
        route: &'static str,
    ) -> impl FnOnce(Event) -> BoxFuture<'static, Result<(), HandlerError>> + Clone + Send + Sync + 'static
    {
        let model = self.clone();
        move |event| Box::pin(async move { model.run(route, &event).await })
    }

    /// Checks that the route may run, waits if the run is slow, and returns the result of the run.
    async fn run(&self, name: &'static str, event: &Event) -> Result<(), HandlerError> {
        let id: u64 = event.id().parse().unwrap();
        drop(self.pause.lock().await);
        let mut released = self.released.subscribe();
        let (outcome, is_slow) = {
            let mut state = self.state();
            if let Err(fault) = state.begin(id, name, event.attempt()) {
                let text = format!("{name} ran {id} in attempt {}: {fault}", event.attempt());
                state.faults.push(text);
                return Ok(());
            }
            let run = state.events[&id].runs[name];
            let route = u64::from(name.as_bytes()[0]);
            let seed = self
                .rules
                .seed
                .wrapping_add((id << 32) ^ (run << 8) ^ route);
            let mut rng = fastrand::Rng::with_seed(seed);
            let outcome = match rng.u8(..10) {
                0..=5 => Outcome::Handled,
                6..=7 => Outcome::Failed,
                _ => Outcome::FailedPermanently,
            };
            let is_slow = rng.u8(..4) == 0 && !state.is_ending;
            if !is_slow {
                // Under the same lock, so that every run that the model shows as running waits.
                state.end(id, name, outcome, self.rules);
            }
            (outcome, is_slow)
        };
        if is_slow {
            let _ = released.changed().await;
            self.state().end(id, name, outcome, self.rules);
        }
        match outcome {
            Outcome::Handled => Ok(()),
            Outcome::Failed => Err(HandlerError::from("no")),
            Outcome::FailedPermanently => Err(HandlerError::permanent("never")),
        }
    }

    /// Ends the runs that wait.
    fn release(&self) {
        let mut state = self.state();
        let State {
            events, released, ..
        } = &mut *state;
        for (id, event) in events {
            released.extend(event.running.iter().map(|route| (*id, *route)));
        }
        self.released.send_modify(|released| *released += 1);
    }

    /// Returns whether each event that may run is running, and each running event waits in a slow run.
    pub(crate) fn is_quiet(&self, stats: &Stats) -> bool {
        self.state().is_quiet(stats)
    }

    /// Asserts that no run found a fault, that the counts are balanced, and that a quiet inbox lists exactly the events of the model.
    pub(crate) async fn check(&self, handle: &Handle) {
        let stats = handle.stats();
        balanced(&stats);
        let listed = handle.events().list(&EventFilter::new(), usize::MAX).await;
        let listed = listed.unwrap();
        let state = self.state();
        assert!(state.faults.is_empty(), "{:#?}", state.faults);
        assert!(
            state.is_quiet(&stats),
            "events wait that may run: {stats:?} {state:#?}"
        );
        assert!(
            listed
                .iter()
                .map(EventRecord::id)
                .eq(state.events.keys().rev().copied()),
            "{listed:?} {state:#?}"
        );
        let mut bytes = 0;
        for record in &listed {
            let event = &state.events[&record.id()];
            assert_eq!(record.body(), event.event.body());
            if record.state().is_in_flight() {
                bytes += record.body().len() as u64;
                assert!(
                    event.ended.is_none() || event.routes.is_empty(),
                    "{record} {event:?}"
                );
                continue;
            }
            assert_eq!(Some(record.state()), event.ended, "{record} {event:?}");
            let results = record.routes().iter();
            let results: Vec<_> = results
                .map(|result| (result.route(), result.reason().is_none()))
                .collect();
            let unique: BTreeMap<_, _> = results.iter().copied().collect();
            assert_eq!(results.len(), unique.len(), "{record}");
            assert_eq!(unique, event.results, "{record} {event:?}");
            assert_eq!(record.attempts(), event.attempt, "{record} {event:?}");
        }
        assert_eq!(stats.bytes, bytes, "{stats:?}");
    }

    /// Runs a step on a quiet inbox that holds at most `max_events` and `max_bytes`, and asserts its result.
    pub(crate) async fn apply(
        &self,
        inbox: &impl Inbox,
        step: &Step,
        (max_events, max_bytes): (u64, u64),
    ) {
        let (handle, events) = (inbox.handle(), inbox.handle().events());
        let _paused = self.pause.lock().await;
        let stats = handle.stats();
        let (mut held, mut bytes) = (stats.in_flight(), stats.bytes);
        let mut is_full = |size: u64, is_blocking: bool| {
            let is_full =
                held > 0 && (held >= max_events || bytes + size > max_bytes) && !is_blocking;
            if !is_full {
                held += 1;
                bytes += size;
            }
            is_full
        };
        match step {
            Step::Accept(event_type, key, size) => {
                let id = self.state().accepted + 1;
                let text = format!("{key} {}", "x".repeat(*size));
                let event = MockRequest::event(*event_type)
                    .message_id(id.to_string())
                    .data(text)
                    .to_event();
                let accepted = inbox.accept(event.clone()).await;
                if is_full(event.body().len() as u64, false) {
                    assert_eq!(accepted.unwrap_err().kind(), AcceptErrorKind::Full);
                    return;
                }
                assert_eq!(accepted, Ok(Accepted::New));
                let mut state = self.state();
                state.accepted = id;
                if *key > 0 {
                    state.keys.entry(*key).or_default().push_back(id);
                }
                let mut event = Modelled {
                    event_type,
                    key: *key,
                    event,
                    ended: None,
                    results: BTreeMap::new(),
                    attempt: 1,
                    routes: BTreeSet::new(),
                    due: BTreeSet::new(),
                    running: BTreeSet::new(),
                    outcomes: BTreeMap::new(),
                    runs: BTreeMap::new(),
                };
                event.restart(&Replay::All);
                state.events.insert(id, event);
            }
            Step::Copy(id) => {
                if *id <= self.state().accepted {
                    let copy = MockRequest::event("a")
                        .message_id(id.to_string())
                        .to_event();
                    assert_eq!(inbox.accept(copy).await, Ok(Accepted::Duplicate), "{id}");
                }
            }
            Step::Replay(id, routes) => {
                let record = events.get(*id).await.unwrap();
                let result = events.replay(*id, routes.clone()).await;
                let record = record.filter(|record| can_replay(record, routes));
                let Some(record) = record else {
                    return assert!(!result.unwrap(), "{id} {routes:?}");
                };
                let mut state = self.state();
                if is_full(
                    record.body().len() as u64,
                    state.events[id].blocks(self.rules),
                ) {
                    assert_eq!(result.unwrap_err().kind(), ErrorKind::Inbox);
                } else {
                    assert!(result.unwrap(), "{record} {routes:?}");
                    state.replay(*id, routes, self.rules);
                }
            }
            Step::ReplayMatching(in_state, routes) => {
                let filter = EventFilter::new().state(*in_state);
                let listed = events.list(&filter, usize::MAX).await.unwrap();
                let result = events.replay_matching(&filter, routes.clone()).await;
                let (mut state, mut count) = (self.state(), 0);
                let listed = listed.iter().rev();
                for record in listed.filter(|record| can_replay(record, routes)) {
                    let id = record.id();
                    if is_full(
                        record.body().len() as u64,
                        state.events[&id].blocks(self.rules),
                    ) {
                        assert_eq!(result.unwrap_err().kind(), ErrorKind::Inbox);
                        return;
                    }
                    count += 1;
                    state.replay(id, routes, self.rules);
                }
                assert_eq!(result.unwrap(), count);
            }
            Step::Delete(id) => {
                let record = events.get(*id).await.unwrap();
                let has_ended = record.is_some_and(|record| !record.state().is_in_flight());
                assert_eq!(events.delete(*id).await.unwrap(), has_ended);
                if has_ended {
                    self.state().delete(*id, self.rules);
                }
            }
            Step::DeleteMatching(in_state) => {
                let filter = EventFilter::new().state(*in_state);
                let listed = events.list(&filter, usize::MAX).await.unwrap();
                let deleted = events.delete_matching(&filter).await.unwrap();
                assert_eq!(deleted, listed.len() as u64);
                let mut state = self.state();
                listed
                    .iter()
                    .for_each(|record| state.delete(record.id(), self.rules));
            }
            Step::Release => self.release(),
            Step::Crash | Step::Restart => {}
        }
    }

    /// Ends every run without waiting from now on.
    pub(crate) fn finish(&self) {
        self.state().is_ending = true;
        self.release();
    }
}
