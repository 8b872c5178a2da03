use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The lease of the event of an attempt, for handlers that record in their own transaction that they have handled the event.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) event: i64,
    pub(crate) worker: i64,
    /// The quoted name of the inbox's schema.
    pub(crate) schema: Arc<str>,
    is_used: Arc<AtomicBool>,
}

impl Lease {
    pub(crate) fn new(event: i64, worker: i64, schema: Arc<str>) -> Self {
        Self {
            event,
            worker,
            schema,
            is_used: Arc::default(),
        }
    }

    /// Records that a handler may have recorded that it has handled the event.
    pub(crate) fn mark_used(&self) {
        self.is_used.store(true, Ordering::Relaxed);
    }

    /// Returns whether a handler may have recorded that it has handled the event.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }
}
