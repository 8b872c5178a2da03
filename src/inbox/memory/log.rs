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
    /// The events whose first attempt is running. Most events end in this attempt, and the list is short, so a list is faster
    /// than a map.
    running: Vec<Running>,
    /// The events in flight that have been attempted before.
    attempted: BTreeMap<u64, Attempted>,
    /// Bytes of the reasons in the attempts of `attempted`.
    text: usize,
    /// The handled and unhandled events, in the order in which they ended.
    ended: VecDeque<Ended>,
    /// Bytes of the bodies and reasons of `ended`.
    bytes: usize,
}

/// An event whose first attempt is running.
struct Running {
    number: u64,
    event: Event,
}

/// An event in flight that has been attempted before.
struct Attempted {
    event: Event,
    state: EventState,
    attempts: u32,
    history: Vec<AttemptRecord>,
}

/// An event in flight that has started.
pub(super) struct Started<'a> {
    pub(super) number: u64,
    pub(super) event: &'a Event,
    pub(super) state: EventState,
    attempts: u32,
    history: &'a [AttemptRecord],
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
            running: Vec::new(),
            attempted: BTreeMap::new(),
            text: 0,
            ended: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Notes that an attempt starts.
    pub(super) fn start(&mut self, job: &Job) {
        if !self.attempted.is_empty()
            && let Some(attempted) = self.attempted.get_mut(&job.number)
        {
            attempted.state = EventState::Running;
            attempted.attempts = job.progress.attempts();
            return;
        }
        let (number, event) = (job.number, job.event.clone());
        self.running.push(Running { number, event });
    }

    /// Notes that an event waits for its next attempt.
    pub(super) fn retry(&mut self, number: u64, attempt: AttemptRecord) {
        if let Some(Running { event, .. }) = self.take_running(number) {
            self.attempted
                .insert(number, Attempted::waiting(event, Vec::new()));
        }
        let Some(attempted) = self.attempted.get_mut(&number) else {
            return;
        };
        attempted.state = EventState::Retrying;
        attempted.attempts = attempt.number();
        // The limit in bytes for handled events also limits, separately, the reasons of all events in flight.
        let space = self.limits.handled_bytes.saturating_sub(self.text);
        let before = AttemptRecord::text(&attempted.history, &[]);
        attempt.push_to(&mut attempted.history, space);
        self.text = self.text - before + AttemptRecord::text(&attempted.history, &[]);
    }

    /// Notes that an event waits for the limits of a route. `attempt` is absent if no route ran.
    pub(super) fn park(&mut self, number: u64, attempt: Option<AttemptRecord>, is_retrying: bool) {
        if let Some(attempt) = attempt {
            self.retry(number, attempt);
        } else if self.take_running(number).is_none()
            && let Some(attempted) = self.attempted.get_mut(&number)
        {
            // The attempt doesn't count.
            attempted.attempts -= 1;
        }
        if let Some(attempted) = self.attempted.get_mut(&number) {
            attempted.state = match is_retrying {
                true => EventState::Retrying,
                false => EventState::Waiting,
            };
        }
    }

    /// Notes that an event waits for a worker again.
    pub(super) fn requeue(&mut self, number: u64) {
        if let Some(attempted) = self.attempted.get_mut(&number) {
            attempted.state = EventState::Waiting;
        }
    }

    /// Notes that an ended event was replayed.
    pub(super) fn replay(&mut self, number: u64, event: Event, history: Vec<AttemptRecord>) {
        if !history.is_empty() {
            self.text += AttemptRecord::text(&history, &[]);
            self.attempted
                .insert(number, Attempted::waiting(event, history));
        }
    }

    /// Returns the finished attempts at an event in flight.
    pub(super) fn history(&self, number: u64) -> Vec<AttemptRecord> {
        let attempted = self.attempted.get(&number);
        attempted.map_or_else(Vec::new, |attempted| attempted.history.clone())
    }

    /// Removes an event in flight, and returns its finished attempts.
    pub(super) fn remove(&mut self, number: u64) -> Vec<AttemptRecord> {
        if self.take_running(number).is_some() {
            return Vec::new();
        }
        let Some(attempted) = self.attempted.remove(&number) else {
            return Vec::new();
        };
        self.text -= AttemptRecord::text(&attempted.history, &[]);
        attempted.history
    }

    fn take_running(&mut self, number: u64) -> Option<Running> {
        let mut running = self.running.iter();
        let index = running.position(|running| running.number == number)?;
        Some(self.running.swap_remove(index))
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
            let Some(oldest) = self.ended.pop_front() else {
                break;
            };
            self.bytes -= oldest.size;
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
        let ended = self.ended.remove(index)?;
        self.bytes -= ended.size;
        Some(ended)
    }

    /// Returns whether the event is in flight and has been attempted before.
    pub(super) fn was_attempted(&self, number: u64) -> bool {
        self.attempted.contains_key(&number)
    }

    pub(super) fn started(&self) -> impl Iterator<Item = Started<'_>> {
        let running = self.running.iter().map(|running| Started {
            number: running.number,
            event: &running.event,
            state: EventState::Running,
            attempts: 1,
            history: &[],
        });
        let attempted = self.attempted.iter().map(|(number, attempted)| Started {
            number: *number,
            event: &attempted.event,
            state: attempted.state,
            attempts: attempted.attempts,
            history: &attempted.history,
        });
        running.chain(attempted)
    }

    pub(super) fn ended(&self) -> impl Iterator<Item = &Ended> {
        self.ended.iter()
    }
}

impl Attempted {
    fn waiting(event: Event, history: Vec<AttemptRecord>) -> Self {
        Self {
            event,
            state: EventState::Waiting,
            attempts: 0,
            history,
        }
    }
}

impl Started<'_> {
    pub(super) fn record(&self) -> EventRecord {
        let (event, history) = (self.event.clone(), self.history.to_vec());
        EventRecord::in_flight(self.number, event, self.state, self.attempts, history)
    }
}

impl Ended {
    pub(super) fn state(&self) -> EventState {
        self.outcome.into()
    }

    /// Returns the result of each route over all attempts.
    pub(super) fn results(&self) -> Vec<RouteResult> {
        match self.job.progress.results() {
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
