use std::sync::atomic::{AtomicU32, Ordering};

/// After this many events in a row that match no route, the patterns are probably wrong.
pub(super) const LIMIT: u32 = 100;

/// Marks that the limit was reached.
const REACHED: u32 = u32::MAX;

/// The number of events in a row that matched no route.
#[derive(Debug, Default)]
pub(super) struct Unmatched {
    events: AtomicU32,
}

impl Unmatched {
    /// Counts an event. Returns true for the event that reaches the limit for the first time.
    pub(super) fn count(&self, matched: bool) -> bool {
        // Relaxed: no other memory depends on this count.
        let events = self.events.load(Ordering::Relaxed);
        if events == REACHED || (matched && events == 0) {
            return false;
        }
        let next = match events + 1 {
            _ if matched => 0,
            LIMIT => REACHED,
            next => next,
        };
        // If another worker counts at the same time, one event isn't counted.
        let order = Ordering::Relaxed;
        let counted = self.events.compare_exchange(events, next, order, order);
        counted.is_ok() && next == REACHED
    }
}
