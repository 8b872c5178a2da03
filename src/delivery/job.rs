use std::sync::Arc;

use super::Progress;
use crate::event::Event;
use crate::telemetry::ParentSpan;

/// What events are put in order by: those of one key are delivered one after another.
pub(crate) type OrderKey = Arc<[u8]>;

/// An accepted event on its way through its attempts.
pub(crate) struct Job {
    /// Its place in the order of acceptance.
    pub(crate) number: u64,
    pub(crate) event: Event,
    pub(crate) parent_span: ParentSpan,
    pub(crate) progress: Progress,
    pub(crate) key: Option<OrderKey>,
}

impl Job {
    /// Returns how many bytes it counts as.
    pub(crate) fn size(&self) -> usize {
        self.event.body().len()
    }
}
