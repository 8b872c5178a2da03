use std::fmt;

use super::EventOutcome;

/// What has become of all events since the inbox was opened, at one moment.
///
/// Every accepted event is counted under exactly one of the others, whenever this is read:
///
/// ```text
/// accepted + recovered + replayed == handled + unhandled + dead + published + in_flight
/// ```
///
/// The counts of requests that never became an event, `malformed`, `unverified`, `overloaded` and
/// `rejected`, are
/// kept by the front door: they are 0 in the stats of an inbox's own handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Events that the inbox took over, each answered 200 unless its sender was gone by then.
    pub accepted: u64,
    /// Events that a durable inbox found unfinished when it was opened.
    pub recovered: u64,
    /// Dead letters that were sent round again.
    pub replayed: u64,
    /// Events whose every route did its work.
    pub handled: u64,
    /// Events that no route took, those of `on_any` aside.
    pub unhandled: u64,
    /// Events of which a route failed for good.
    pub dead: u64,
    /// Events that an inbox without deliveries of its own gave to its workers elsewhere, which count
    /// what becomes of them; see `JetStreamInbox`.
    pub published: u64,
    /// Events that wait for a place among those in delivery.
    pub waiting: u64,
    /// Events in delivery.
    pub running: u64,
    /// Events that wait for the time of their next attempt.
    pub retrying: u64,
    /// Attempts that were followed by another one.
    pub retried: u64,
    /// Bytes of the bodies of all events in flight.
    pub bytes: u64,
    /// Dead letters that are kept.
    pub dead_letters: u64,
    /// Dead letters that were dropped because there was no room for more.
    pub dead_letters_dropped: u64,
    /// Copies of events that were accepted before: answered 200, not run again.
    pub duplicates: u64,
    /// Events that the inbox refused, answered 503.
    pub refused: u64,
    /// Requests whose body is no event.
    pub malformed: u64,
    /// Requests without the secret.
    pub unverified: u64,
    /// Requests that the front door answered 503 by itself: too many bytes of bodies were in
    /// flight, or the inbox didn't answer in time. An event of the latter may be accepted all
    /// the same.
    pub overloaded: u64,
    /// Requests that were answered otherwise than by 200 for any other reason.
    pub rejected: u64,
}

impl Stats {
    /// Returns how many accepted events haven't ended: those that wait, those in delivery, and
    /// those between two attempts.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.waiting + self.running + self.retrying
    }

    /// Counts an event that ended.
    pub(crate) fn end(&mut self, event_outcome: EventOutcome) {
        match event_outcome {
            EventOutcome::Handled => self.handled += 1,
            EventOutcome::Unhandled => self.unhandled += 1,
            EventOutcome::Dead => self.dead += 1,
        }
    }
}

/// Writes a line for `accepted`, and for each other count that isn't 0.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
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
            ("bytes", self.bytes),
            ("dead letters", self.dead_letters),
            ("dropped", self.dead_letters_dropped),
            ("duplicates", self.duplicates),
            ("refused", self.refused),
            ("malformed", self.malformed),
            ("unverified", self.unverified),
            ("overloaded", self.overloaded),
            ("rejected", self.rejected),
        ];
        let (name, count) = ("accepted", self.accepted);
        write!(f, "{name:<12}{count:>8}")?;
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "\n{name:<12}{count:>8}")?;
        }
        Ok(())
    }
}
