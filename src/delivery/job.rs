use std::sync::Arc;

use super::Progress;
use crate::event::Event;
use crate::telemetry::ParentSpan;

/// The ordering key of an event: events of one key run one after another.
pub(crate) type OrderKey = Arc<[u8]>;

/// An accepted event with the state of its attempts.
pub(crate) struct Job {
    /// The event's position in the order of acceptance.
    pub(crate) number: u64,
    pub(crate) event: Event,
    pub(crate) parent_span: ParentSpan,
    pub(crate) progress: Progress,
    pub(crate) key: Option<OrderKey>,
}

impl Job {
    /// Returns how many bytes the job counts against an inbox's limits.
    pub(crate) fn size(&self) -> usize {
        self.event.body().len()
    }
}
