use std::fmt;

use serde::ser::{Serialize, Serializer};

/// The counts of a [`JetStreamWorker`](crate::JetStreamWorker) since its start.
///
/// An event counts once for each route that gets it, and again for each further delivery. At any moment:
///
/// ```text
/// taken == acked + retried + dead + returned + running
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Routes that skipped an event: see [`Outcome::Skipped`](crate::Outcome::Skipped).
    pub skipped: u64,
    /// Dead letters that this worker replayed.
    pub replayed: u64,
}

/// How an event left a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Acked,
    Retried,
    Dead,
    Returned,
}

impl Exit {
    /// Returns the name of the exit's count.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Acked => "acked",
            Self::Retried => "retried",
            Self::Dead => "dead",
            Self::Returned => "returned",
        }
    }
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
            ("skipped", self.skipped),
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

/// Writes a line for `taken`, and for each other count that isn't 0.
impl fmt::Display for WorkerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<12}{:>8}", "taken", self.taken)?;
        for (name, count) in self.iter().skip(1).filter(|(_, count)| *count > 0) {
            write!(f, "\n{name:<12}{count:>8}")?;
        }
        Ok(())
    }
}

/// Serializes each count under its name.
impl Serialize for WorkerStats {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}
