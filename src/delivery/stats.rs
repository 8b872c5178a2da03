use std::fmt;
use std::time::Duration;

use serde::ser::{Serialize, Serializer};

use super::EventOutcome;
use crate::telemetry::{InFlight, Sample};

/// A snapshot of an inbox's counts since the inbox was opened.
///
/// At any moment, every accepted event is in exactly one count on the right-hand side:
///
/// ```text
/// accepted + recovered + replayed == handled + unhandled + dead + published + in_flight
/// ```
///
/// The receiver, not the inbox, counts `malformed`, `unverified`, `overloaded` and `rejected` requests. In the stats of an
/// inbox's own handle these counts are 0.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{EventRouter, Inbox, MemoryInbox};
///
/// let inbox = MemoryInbox::new(EventRouter::new());
/// for (name, value) in inbox.handle().stats().iter() {
///     println!("{name} {value}");
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Events that the inbox stored. The receiver answered each of these events with 200, unless the client had
    /// disconnected.
    pub accepted: u64,
    /// Unfinished events that a durable inbox found when it was opened.
    pub recovered: u64,
    /// Events that were replayed.
    pub replayed: u64,
    /// Events that every matching route handled or skipped.
    pub handled: u64,
    /// Events for which no route other than `on_any` routes matched.
    pub unhandled: u64,
    /// Events that were dead-lettered because a route failed permanently.
    pub dead: u64,
    /// Events that an inbox published for workers in other processes. The workers count the outcomes. See `JetStreamInbox`.
    pub published: u64,
    /// Events that are waiting for a worker or for the limits of a route.
    pub waiting: u64,
    /// Events whose attempt is running.
    pub running: u64,
    /// Events that are waiting for their next attempt.
    pub retrying: u64,
    /// Attempts that were followed by a retry.
    pub retried: u64,
    /// Routes that skipped an event: see [`Outcome::Skipped`](crate::Outcome::Skipped).
    pub skipped: u64,
    /// Bytes of the bodies of all events in flight.
    pub bytes: u64,
    /// Dead letters that the inbox keeps.
    pub dead_letters: u64,
    /// Dead letters that the inbox dropped because it had too many.
    pub dead_letters_dropped: u64,
    /// Copies of accepted events. The receiver answers each copy with 200, and the copy doesn't run.
    pub duplicates: u64,
    /// Events that the inbox refused. The receiver answered each of these events with 503.
    pub refused: u64,
    /// Requests whose body isn't an event.
    pub malformed: u64,
    /// Requests without the secret.
    pub unverified: u64,
    /// Requests that the receiver answered with 503 without a refusal from the inbox. Either too many bytes of bodies
    /// were in flight, or the inbox didn't answer in time. In the second case the inbox may have accepted the event.
    pub overloaded: u64,
    /// All other requests that the receiver didn't answer with 200.
    pub rejected: u64,
}

impl Stats {
    /// Returns the number of accepted events that haven't ended: waiting, running and retrying.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.waiting + self.running + self.retrying
    }

    /// Returns the name and the value of each field, in the order of the fields.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        [
            ("accepted", self.accepted),
            ("recovered", self.recovered),
            ("replayed", self.replayed),
            ("handled", self.handled),
            ("unhandled", self.unhandled),
            ("dead", self.dead),
            ("published", self.published),
            ("waiting", self.waiting),
            ("running", self.running),
            ("retrying", self.retrying),
            ("retried", self.retried),
            ("skipped", self.skipped),
            ("bytes", self.bytes),
            ("dead_letters", self.dead_letters),
            ("dead_letters_dropped", self.dead_letters_dropped),
            ("duplicates", self.duplicates),
            ("refused", self.refused),
            ("malformed", self.malformed),
            ("unverified", self.unverified),
            ("overloaded", self.overloaded),
            ("rejected", self.rejected),
        ]
        .into_iter()
    }

    /// Returns the values of the inbox's gauges. The oldest event in flight has this age.
    pub(crate) fn sample(&self, oldest_event_age: Duration) -> Sample {
        Sample {
            in_flight: Some(InFlight {
                waiting: self.waiting,
                running: self.running,
                retrying: self.retrying,
                bytes: self.bytes,
            }),
            dead_letters: Some(self.dead_letters),
            oldest_event_age: Some(oldest_event_age),
            last_accepted: None,
        }
    }

    /// Counts an event that ended.
    pub(crate) fn end(&mut self, outcome: EventOutcome) {
        match outcome {
            EventOutcome::Handled => self.handled += 1,
            EventOutcome::Unhandled => self.unhandled += 1,
            EventOutcome::Dead => self.dead += 1,
        }
    }
}

/// Writes a line for `accepted` and for each other count that isn't 0.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut newline = "";
        for (name, count) in self.iter() {
            if count > 0 || name == "accepted" {
                write!(f, "{newline}{name:<20}{count:>8}")?;
                newline = "\n";
            }
        }
        Ok(())
    }
}

/// Serializes each field under its name.
impl Serialize for Stats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}
