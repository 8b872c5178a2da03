use std::fmt;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::runtime::to_millis;

/// The counts of a [`JetStreamWorker`](crate::JetStreamWorker) since its start, and the operations that are currently failing.
///
/// An event counts once for each route that gets it, and again for each further delivery. At any moment:
///
/// ```text
/// taken == acked + retried + dead + returned + running
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Events that the server delivered to this worker.
    pub taken: u64,
    /// Events whose route succeeded or had nothing to do, and whose acknowledgement the server has confirmed.
    pub acked: u64,
    /// Events that the server will redeliver to any worker of the group, because their route failed or the server didn't answer
    /// their acknowledgement.
    pub retried: u64,
    /// Events whose route failed permanently, stored as dead letters.
    pub dead: u64,
    /// Events that the worker returned without a result, because of a drain or a runtime shutdown, or because the worker was
    /// already running them.
    pub returned: u64,
    /// Events that are currently running.
    pub running: u64,
    /// Dead letters that this worker replayed.
    pub replayed: u64,
    /// The operations that are currently failing.
    pub stalls: Vec<Stall>,
}

/// An operation that is currently failing. The worker retries the operation, and warns every minute.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stall {
    /// The route's name; `None` if all routes are affected.
    pub route: Option<String>,
    /// When the operation began to fail, by this machine's current clock.
    pub since: SystemTime,
    /// The latest cause, which contains no payload.
    pub cause: String,
}

/// How an event left a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Acked,
    Retried,
    Dead,
    Returned,
}

impl WorkerStats {
    /// Returns the name and the value of each count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let counts = [
            ("taken", self.taken),
            ("acked", self.acked),
            ("retried", self.retried),
            ("dead", self.dead),
            ("returned", self.returned),
            ("running", self.running),
            ("replayed", self.replayed),
        ];
        counts.into_iter()
    }

    pub(super) fn enter(&mut self) {
        self.taken += 1;
        self.running += 1;
    }

    pub(super) fn leave(&mut self, exit: Exit) {
        self.running -= 1;
        *match exit {
            Exit::Acked => &mut self.acked,
            Exit::Retried => &mut self.retried,
            Exit::Dead => &mut self.dead,
            Exit::Returned => &mut self.returned,
        } += 1;
    }
}

/// Writes a line for `taken`, for each other count that isn't 0, and for each stall.
impl fmt::Display for WorkerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}{:>8}", "taken", self.taken)?;
        for (name, count) in self.iter().skip(1).filter(|(_, count)| *count > 0) {
            write!(f, "\n{name:<12}{count:>8}")?;
        }
        for stall in &self.stalls {
            let route = stall.route.as_deref().unwrap_or("all routes");
            write!(f, "\nstalled: {}: {}", route.escape_debug(), stall.cause)?;
        }
        Ok(())
    }
}

/// Serializes each count under its name, and the stalls as a sequence under `stalls`.
impl Serialize for WorkerStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, count) in self.iter() {
            map.serialize_entry(name, &count)?;
        }
        map.serialize_entry("stalls", &self.stalls)?;
        map.end()
    }
}

/// Serializes `since` as milliseconds since the Unix epoch.
impl Serialize for Stall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("route", &self.route)?;
        map.serialize_entry("since", &to_millis(self.since))?;
        map.serialize_entry("cause", &self.cause)?;
        map.end()
    }
}
