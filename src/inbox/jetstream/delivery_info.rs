use std::num::NonZeroU32;
use std::time::SystemTime;

use async_nats::jetstream::Message;

use super::checkpoints::nanos;

/// The server's data about a delivered message.
pub(super) struct DeliveryInfo {
    pub(super) attempt: NonZeroU32,
    pub(super) sequence: u64,
    /// The number of deliveries that the consumer has made.
    pub(super) consumer_sequence: u64,
    pub(super) published: SystemTime,
}

impl DeliveryInfo {
    /// Returns `None` if the message isn't from a stream.
    pub(super) fn of(message: &Message) -> Option<Self> {
        let info = message.info().ok()?;
        let attempt = u32::try_from(info.delivered).unwrap_or(u32::MAX);
        Some(Self {
            attempt: NonZeroU32::new(attempt).unwrap_or(NonZeroU32::MIN),
            sequence: info.stream_sequence,
            consumer_sequence: info.consumer_sequence,
            published: SystemTime::from(info.published),
        })
    }

    /// Returns the event's sequence and its time of publication, in nanoseconds since the Unix epoch.
    pub(super) fn position(&self) -> (u64, u64) {
        (self.sequence, nanos(self.published))
    }
}
