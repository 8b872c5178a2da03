use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use super::limits::MemoryLimits;
use crate::delivery::{
    AttemptRecord, AttemptResult, EventOutcome, EventRecord, EventState, Job, RouteResult,
};
use crate::event::Event;
use crate::outcome::Report;

/// The events that have started, and the handled events that ended last. Dead letters are in their own queue.
///
/// An event that waits for its first attempt has no entry, so it costs no memory here.
pub(super) struct Log {
    limits: MemoryLimits,
    /// The events in flight that have started at least once.
    started: BTreeMap<u64, Started>,
    /// Bytes of the reasons in the attempts of `started`.
    text: usize,
    /// The handled and unhandled events, in the order in which they ended.
    ended: VecDeque<Ended>,
    /// Bytes of the bodies and reasons of `ended`.
    bytes: usize,
}

/// An event in flight that has started.
pub(super) struct Started {
    event: Event,
    state: EventState,
    attempts: u32,
    history: Vec<AttemptRecord>,
}

/// A handled or unhandled event.
pub(super) struct Ended {
    pub(super) job: Box<Job>,
    outcome: EventOutcome,
    ended_at: SystemTime,
    /// The report and the duration of the last attempt. The record of that attempt is built when the event is listed.
    report: Report,
    duration: Duration,
    /// The earlier attempts.
    history: Vec<AttemptRecord>,
    size: usize,
}

impl Log {
    pub(super) fn new(limits: MemoryLimits) -> Self {
        Self {
            limits,
            started: BTreeMap::new(),
            text: 0,
            ended: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Notes that an attempt starts.
    pub(super) fn start(&mut self, job: &Job) {
        let started = self.started.entry(job.number);
        let started = started.or_insert_with(|| Started::waiting(job.event.clone(), Vec::new()));
        started.state = EventState::Running;
        started.attempts = job.progress.attempts();
    }

    /// Notes that an event waits for its next attempt.
    pub(super) fn retry(&mut self, number: u64, attempt: AttemptRecord) {
        let Some(started) = self.started.get_mut(&number) else {
            return;
        };
        started.state = EventState::Retrying;
        // The reasons of all events in flight have at most as many bytes as the handled events.
        let space = self.limits.handled_bytes.saturating_sub(self.text);
        let before = AttemptRecord::text(&started.history, &[]);
        attempt.push_to(&mut started.history, space);
        self.text = self.text - before + AttemptRecord::text(&started.history, &[]);
    }

    /// Notes that an event waits for a worker again.
    pub(super) fn requeue(&mut self, number: u64) {
        if let Some(started) = self.started.get_mut(&number) {
            started.state = EventState::Waiting;
        }
    }

    /// Notes that an ended event was replayed.
    pub(super) fn replay(&mut self, number: u64, event: Event, history: Vec<AttemptRecord>) {
        if !history.is_empty() {
            self.text += AttemptRecord::text(&history, &[]);
            self.started
                .insert(number, Started::waiting(event, history));
        }
    }

    /// Returns the finished attempts at an event in flight.
    pub(super) fn history(&self, number: u64) -> Vec<AttemptRecord> {
        let started = self.started.get(&number);
        started.map_or_else(Vec::new, |started| started.history.clone())
    }

    /// Removes an event in flight, and returns its finished attempts.
    pub(super) fn remove(&mut self, number: u64) -> Vec<AttemptRecord> {
        let Some(started) = self.started.remove(&number) else {
            return Vec::new();
        };
        if !started.history.is_empty() {
            self.text -= AttemptRecord::text(&started.history, &[]);
        }
        started.history
    }

    /// Keeps a handled or unhandled event, and drops the oldest events beyond the limits.
    pub(super) fn finish(
        &mut self,
        job: Box<Job>,
        outcome: EventOutcome,
        attempt: AttemptResult,
        ended_at: SystemTime,
    ) {
        let history = self.remove(job.number);
        let size = job.size() + AttemptRecord::text(&history, &[]);
        if self.limits.handled_events == 0 || size > self.limits.handled_bytes {
            return;
        }
        self.bytes += size;
        self.ended.push_back(Ended {
            job,
            outcome,
            ended_at,
            report: attempt.report,
            duration: attempt.duration,
            history,
            size,
        });
        while self.ended.len() > self.limits.handled_events
            || self.bytes > self.limits.handled_bytes
        {
            self.take_at(0);
        }
    }

    /// Returns the body's size of a handled or unhandled event, or `None` if the log doesn't keep the event.
    pub(super) fn body_len(&self, number: u64) -> Option<usize> {
        let mut ended = self.ended.iter();
        let ended = ended.find(|ended| ended.job.number == number)?;
        Some(ended.job.size())
    }

    /// Removes a handled or unhandled event.
    pub(super) fn take(&mut self, number: u64) -> Option<Ended> {
        let mut ended = self.ended.iter();
        let index = ended.position(|ended| ended.job.number == number)?;
        self.take_at(index)
    }

    fn take_at(&mut self, index: usize) -> Option<Ended> {
        let ended = self.ended.remove(index)?;
        self.bytes -= ended.size;
        Some(ended)
    }

    pub(super) fn is_started(&self, number: u64) -> bool {
        self.started.contains_key(&number)
    }

    pub(super) fn started(&self) -> impl Iterator<Item = (u64, &Started)> {
        self.started
            .iter()
            .map(|(number, started)| (*number, started))
    }

    pub(super) fn ended(&self) -> impl Iterator<Item = &Ended> {
        self.ended.iter()
    }
}

impl Started {
    fn waiting(event: Event, history: Vec<AttemptRecord>) -> Self {
        Self {
            event,
            state: EventState::Waiting,
            attempts: 0,
            history,
        }
    }

    pub(super) fn event(&self) -> &Event {
        &self.event
    }

    pub(super) fn state(&self) -> EventState {
        self.state
    }

    pub(super) fn record(&self, number: u64) -> EventRecord {
        let (event, history) = (self.event.clone(), self.history.clone());
        EventRecord::in_flight(number, event, self.state, self.attempts, history)
    }
}

impl Ended {
    pub(super) fn state(&self) -> EventState {
        self.outcome.into()
    }

    /// Returns the result of each route over all attempts.
    pub(super) fn results(&self) -> Vec<RouteResult> {
        match self.job.progress.ends() {
            // If the first attempt handled the event, only the report has the routes.
            [] => RouteResult::handled(&self.report),
            results => results.to_vec(),
        }
    }

    /// Returns all attempts.
    pub(super) fn history(&self) -> Vec<AttemptRecord> {
        let mut history = self.history.clone();
        let number = self.job.progress.attempts();
        AttemptRecord::new(number, self.ended_at, self.duration, &self.report)
            .push_to(&mut history, usize::MAX);
        history
    }

    pub(super) fn record(&self) -> EventRecord {
        let (job, state) = (&self.job, self.state());
        let results = (self.results(), job.progress.attempts());
        let event = job.event.clone();
        EventRecord::ended(
            job.number,
            event,
            state,
            results,
            self.history(),
            self.ended_at,
        )
    }
}
