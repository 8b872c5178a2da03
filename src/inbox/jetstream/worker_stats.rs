use std::fmt;

/// What has become of all events that a [`JetStreamWorker`](crate::JetStreamWorker) took since it was
/// started, at one moment; an event counts once for each route that takes it, and again for each time that
/// it comes.
///
/// ```text
/// taken == acked + retried + dead + returned + running
/// ```
///
/// holds whenever this is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerStats {
    /// Events that the server delivered to this worker.
    pub taken: u64,
    /// Events whose route did its work, or had none to do, and which the server knows to be done.
    pub acked: u64,
    /// Events that the server will deliver again, to any worker of the group: their route failed, or their
    /// end could not be told to the server.
    pub retried: u64,
    /// Events whose route failed for good, and which are among the dead letters.
    pub dead: u64,
    /// Events that were given back without an attempt or in the middle of one: because of a drain, or
    /// because the runtime shut down.
    pub returned: u64,
    /// Events that the worker has at this moment.
    pub running: u64,
    /// Dead letters that were sent round again by way of this worker.
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

impl WorkerStats {
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
        let counts = [
            ("acked", self.acked),
            ("retried", self.retried),
            ("dead", self.dead),
            ("returned", self.returned),
            ("running", self.running),
            ("replayed", self.replayed),
        ];
        let (name, count) = ("taken", self.taken);
        write!(f, "{name:<12}{count:>8}")?;
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "\n{name:<12}{count:>8}")?;
        }
        Ok(())
    }
}
