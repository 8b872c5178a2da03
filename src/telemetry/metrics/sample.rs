use std::time::{Duration, SystemTime};

/// The values of an inbox's gauges at one moment. A value is absent if the inbox doesn't know it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) in_flight: Option<InFlight>,
    /// The number of dead letters that the inbox keeps.
    pub(crate) dead_letters: Option<u64>,
    /// The age of the oldest event in flight, or zero if no event is in flight.
    pub(crate) oldest_event_age: Option<Duration>,
    /// When the inbox last accepted an event or a copy.
    pub(crate) last_accepted: Option<SystemTime>,
}

/// The number of accepted events that haven't ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) waiting: u64,
    pub(crate) running: u64,
    pub(crate) retrying: u64,
    /// Bytes of the bodies of all events in flight.
    pub(crate) bytes: u64,
}
