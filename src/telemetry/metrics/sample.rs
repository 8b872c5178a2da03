use std::time::{Duration, SystemTime};

/// The values of an inbox's gauges at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) waiting: u64,
    pub(crate) running: u64,
    pub(crate) retrying: u64,
    /// Bytes of the bodies of all events in flight.
    pub(crate) bytes: u64,
    pub(crate) dead_letters: u64,
    /// The age of the oldest event in flight, or zero if no event is in flight.
    pub(crate) oldest_event_age: Duration,
    /// When the inbox last accepted an event, if it has accepted one.
    pub(crate) last_accepted: Option<SystemTime>,
}
