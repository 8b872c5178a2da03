use std::time::Duration;

use super::volume::Volume;

/// The settings of the inbox and its schema.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) schema: String,
    /// The limit of all events in the database.
    pub(super) max_events: Volume,
    /// The limit of the events that this process has leased.
    pub(super) max_in_memory: Volume,
    pub(super) duplicate_window: Duration,
    pub(super) max_dead_letters: u64,
    pub(super) keep_dead_letters: Duration,
    /// How long the inbox keeps handled and unhandled events.
    pub(super) keep_handled: Duration,
    pub(super) max_handled: u64,
    pub(super) max_crashes: u32,
    pub(super) lease: Duration,
    /// Whether this process runs events.
    pub(super) runs_events: bool,
}

impl Settings {
    pub(super) fn new() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let volume = |events, bytes| Volume { events, bytes };
        Self {
            schema: "botisimo".to_owned(),
            max_events: volume(1_000_000, 1 << 30),
            max_in_memory: volume(1024, 16 << 20),
            duplicate_window: DAY * 7,
            max_dead_letters: 100_000,
            keep_dead_letters: DAY * 30,
            keep_handled: Duration::ZERO,
            max_handled: 100_000,
            max_crashes: 3,
            lease: Duration::from_secs(6),
            runs_events: true,
        }
    }

    /// Returns whether the inbox keeps handled events.
    pub(super) fn keeps_handled(&self) -> bool {
        !self.keep_handled.is_zero()
    }

    /// Returns the time between two extensions of the lease. Two extensions may fail before the lease ends.
    pub(super) fn heartbeat_period(&self) -> Duration {
        (self.lease / 4).min(Duration::from_secs(1))
    }
}
