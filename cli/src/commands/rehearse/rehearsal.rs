//! The run of a scenario: a queue of deliveries in virtual time, and real requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;

use super::model::{Answer, Loss, NextStep, Standing, Warning};
use super::plan::{Planned, up_to};
use super::scenario::{Nothing, OutageAnswer, Scenario};
use crate::connection::Endpoint;
use crate::envelope::{Envelope, now};
use crate::http::{Client, Request, SendErrorKind};

/// A delivery that is due. Ordered by time, and then by the order in which the sender decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    order: u64,
    /// The index of the event.
    event: usize,
    attempt: u32,
    is_copy: bool,
}

/// A line of the transcript.
#[derive(Clone, Debug)]
pub(super) enum Line {
    Attempt {
        at: Duration,
        event: usize,
        attempt: u32,
        is_copy: bool,
        answer: Answer,
        outcome: Outcome,
    },
    Warning {
        at: Duration,
        warning: Warning,
    },
    Restart {
        at: Duration,
    },
}

/// The consequence of an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Delivered,
    /// The endpoint accepted an event that it had accepted before.
    DeliveredAgain,
    /// A copy wasn't accepted. The event was, so nothing is lost.
    CopyRefused,
    RetryAt(Duration),
    Lost(Loss),
}

/// The state of each event.
#[derive(Clone, Debug, Default)]
pub(super) struct Fate {
    /// The number of times that the endpoint accepted the event.
    pub(super) accepted: u32,
    pub(super) attempts: u32,
    pub(super) accepted_at: Option<Duration>,
    pub(super) loss: Option<Loss>,
}

pub(super) struct Rehearsal<'a> {
    scenario: &'a Scenario,
    pub(super) events: &'a [Planned],
    pub(super) fates: Vec<Fate>,
    pub(super) standing: Standing,
    due: BinaryHeap<Reverse<Due>>,
    restarts: Vec<Duration>,
    random: fastrand::Rng,
    order: u64,
    client: &'a Client,
    endpoint: &'a Endpoint,
    /// The beginning of all message ids.
    prefix: &'a str,
    /// The time of the scenario's start in milliseconds since 1970, or `None` to show each event's virtual age.
    start: Option<i64>,
}

/// The requests of a rehearsal.
pub(super) struct Target<'a> {
    pub(super) client: &'a Client,
    pub(super) endpoint: &'a Endpoint,
    pub(super) prefix: &'a str,
    pub(super) start: Option<i64>,
}

impl<'a> Rehearsal<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        events: &'a [Planned],
        target: &Target<'a>,
        random: fastrand::Rng,
    ) -> Self {
        let mut rehearsal = Self {
            scenario,
            events,
            fates: vec![Fate::default(); events.len()],
            standing: Standing::default(),
            due: BinaryHeap::new(),
            restarts: scenario.restarts.iter().map(|time| time.0).collect(),
            random,
            order: 0,
            client: target.client,
            endpoint: target.endpoint,
            prefix: target.prefix,
            start: target.start,
        };
        rehearsal.restarts.sort_unstable_by(|a, b| b.cmp(a));
        for (index, event) in events.iter().enumerate() {
            for (copy, at) in event.sent_at.iter().enumerate() {
                rehearsal.push(*at, index, 1, copy > 0);
            }
        }
        rehearsal
    }

    fn push(&mut self, at: Duration, event: usize, attempt: u32, is_copy: bool) {
        self.order += 1;
        let order = self.order;
        self.due.push(Reverse(Due {
            at,
            order,
            event,
            attempt,
            is_copy,
        }));
    }

    /// Returns the number of deliveries that are known to be due.
    pub(super) fn remaining(&self) -> usize {
        self.due.len()
    }

    /// Returns the number of restarts that are still ahead.
    pub(super) fn remaining_restarts(&self) -> usize {
        self.restarts.len()
    }

    /// Returns whether the next step is a restart.
    pub(super) fn is_restart_next(&self) -> bool {
        let next = self.due.peek().map(|Reverse(due)| due.at);
        next.is_some_and(|next| self.restarts.last().is_some_and(|at| *at <= next))
    }

    /// Sends the deliveries that are due next. Returns `None` at the end.
    ///
    /// A restart is a step of its own, and the caller waits for it.
    pub(super) async fn step(&mut self) -> Option<Vec<Line>> {
        let next = self.due.peek().map(|Reverse(due)| due.at)?;
        if self.is_restart_next() {
            let at = self.restarts.pop()?;
            return Some(vec![Line::Restart { at }]);
        }
        let mut batch = Vec::new();
        while batch.len() < self.scenario.concurrency
            && let Some(Reverse(due)) = self.due.peek()
            && due.at == next
        {
            batch.extend(self.due.pop().map(|Reverse(due)| due));
        }
        let answers = join_all(batch.iter().map(|due| self.attempt(due))).await;
        let mut lines = Vec::new();
        for (due, answer) in batch.into_iter().zip(answers) {
            self.finish(&due, answer, &mut lines);
        }
        Some(lines)
    }

    /// Returns the answer to a delivery, or `None` if the sender doesn't send it.
    async fn attempt(&self, due: &Due) -> Option<Answer> {
        if self.standing.disabled_at.is_some() {
            return None;
        }
        let mut outages = self.scenario.outages.iter();
        let outage = outages
            .find(|outage| (outage.from.0..outage.from.0 + outage.lasts.0).contains(&due.at));
        Some(match outage.map(|outage| outage.answer) {
            Some(OutageAnswer::Status(status)) => Answer::Status(status),
            Some(OutageAnswer::Nothing(Nothing::Timeout)) => Answer::Timeout,
            Some(OutageAnswer::Nothing(Nothing::Unreachable)) => Answer::Unreachable,
            None => self.send(due).await,
        })
    }

    async fn send(&self, due: &Due) -> Answer {
        let event = &self.events[due.event];
        let id = format!("{}-{}", self.prefix, event.number);
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let timestamp = match self.start {
            Some(start) => start.saturating_add(millis(event.made_at)),
            // Time is virtual, so a handler that looks at the age of the event must see the virtual age.
            None => now().saturating_sub(millis(due.at.saturating_sub(event.made_at))),
        };
        let envelope = Envelope::new(&id, timestamp, &event.event_type, event.data.clone());
        let request = Request {
            method: Method::POST,
            uri: self.endpoint.uri.clone(),
            headers: self.endpoint.headers.clone(),
            body: envelope.to_bytes(),
        };
        let start = Instant::now();
        let quick = self.scenario.sender.quick.0;
        match tokio::time::timeout(quick, self.client.send(request)).await {
            Ok(Ok(answer)) if start.elapsed() <= quick => Answer::Status(answer.status.as_u16()),
            Ok(Ok(_)) | Err(_) => Answer::Timeout,
            Ok(Err(error)) if error.kind() == SendErrorKind::Timeout => Answer::Timeout,
            Ok(Err(_)) => Answer::Unreachable,
        }
    }

    /// Decides about an event after an attempt.
    fn finish(&mut self, due: &Due, answer: Option<Answer>, lines: &mut Vec<Line>) {
        let sender = &self.scenario.sender;
        let event = &self.events[due.event];
        let fate = &mut self.fates[due.event];
        let Some(answer) = answer else {
            if !due.is_copy && fate.accepted == 0 {
                fate.loss = Some(Loss::Disabled);
            }
            return;
        };
        fate.attempts += 1;
        let decision = sender.decide(answer, due.at, event.made_at, due.attempt);
        let outcome = match decision {
            NextStep::Delivered => {
                fate.accepted += 1;
                fate.accepted_at.get_or_insert(due.at);
                match fate.accepted {
                    1 => Outcome::Delivered,
                    _ => Outcome::DeliveredAgain,
                }
            }
            NextStep::RetryAt(at) => Outcome::RetryAt(at),
            NextStep::Dropped(_) if due.is_copy => Outcome::CopyRefused,
            NextStep::Dropped(loss) => {
                fate.loss = Some(loss);
                Outcome::Lost(loss)
            }
        };
        lines.push(Line::Attempt {
            at: due.at,
            event: due.event,
            attempt: due.attempt,
            is_copy: due.is_copy,
            answer,
            outcome,
        });
        let warnings = self.standing.record(sender, answer, due.at);
        lines.extend(warnings.into_iter().map(|warning| Line::Warning {
            at: due.at,
            warning,
        }));
        if let NextStep::RetryAt(at) = decision {
            self.push(at, due.event, due.attempt + 1, due.is_copy);
        }
        let is_first = matches!(outcome, Outcome::Delivered) && !due.is_copy;
        if is_first && self.random.f64() < self.scenario.network.repeated {
            let delay = up_to(sender.first_retry.0, &mut self.random);
            self.push(due.at + delay, due.event, due.attempt + 1, true);
        }
    }
}
