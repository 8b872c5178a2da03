/// The workers of an inbox: up to N tasks, each of which takes one event after another.
///
/// While fewer than N events are in delivery an accepted one gets a worker of its own; it goes on
/// until no event waits. So there is no dispatcher, and nothing to wake.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    limit: usize,
    /// Workers that were spawned and haven't ended; one of them may be about to take its first
    /// event.
    workers: usize,
    /// Workers that have an event.
    busy: usize,
    /// Workers so far that were dropped before they began: their runtime had shut down.
    dropped: u64,
}

/// The most events that a worker delivers in one go.
const MAX_BATCH_LEN: usize = 32;

/// A worker that is to be spawned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerSlot {
    /// How many had been dropped before.
    dropped: u64,
}

impl WorkerPool {
    /// Returns a worker_pool of up to `limit`.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            workers: 0,
            busy: 0,
            dropped: 0,
        }
    }

    /// Returns a worker that is to be spawned, if one more is needed for the events that are ready,
    /// and counts it.
    pub(crate) fn reserve_slot(&mut self, ready: usize) -> Option<WorkerSlot> {
        let about_to_take = self.workers.saturating_sub(self.busy);
        if self.workers >= self.limit || ready <= about_to_take {
            return None;
        }
        self.workers += 1;
        Some(WorkerSlot {
            dropped: self.dropped,
        })
    }

    /// Returns whether the runtime has dropped a worker since this one was hired.
    pub(crate) fn was_dropped(&self, reserve_slot: WorkerSlot) -> bool {
        self.dropped > reserve_slot.dropped
    }

    /// Counts a worker that asked for its next event: it got one, or leaves.
    pub(crate) fn took(&mut self, one: bool) {
        if one {
            self.busy += 1;
        } else {
            self.workers -= 1;
        }
    }

    /// Returns how many events a worker delivers before it lets others have the thread: one, and its
    /// share of those that wait. So what comes in while all others have their turn is gone after the
    /// next, however many they are.
    pub(crate) fn batch_len(&self, ready: usize) -> usize {
        (1 + ready / self.limit).min(MAX_BATCH_LEN)
    }

    /// Counts a worker that is done with its event.
    pub(crate) fn done(&mut self) {
        self.busy -= 1;
    }

    /// Counts the end of a worker that was dropped, before it had begun or after.
    pub(crate) fn retire(&mut self, begun: bool) {
        self.workers -= 1;
        self.dropped += u64::from(!begun);
    }

    /// Returns how many events are in delivery.
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }
}
