/// The workers of an inbox: up to a limit of tasks, each of which runs one job after another.
///
/// While fewer jobs run than the limit allows, each new job gets a worker. A worker goes on until no job is ready. So there is
/// no dispatcher, and no idle worker to wake.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    limit: usize,
    /// The count of workers that were spawned and haven't ended.
    workers: usize,
    /// The count of workers that run a job.
    busy: usize,
    /// The count of all workers so far that were dropped before they began, because their runtime had shut down.
    dropped: u64,
}

/// The largest batch of jobs that a worker runs before it yields.
const MAX_BATCH_LEN: usize = 32;

/// A place in the pool, reserved for a worker that is about to be spawned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerSlot {
    /// The pool's count of dropped workers at the reservation.
    dropped: u64,
}

impl WorkerPool {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            workers: 0,
            busy: 0,
            dropped: 0,
        }
    }

    /// Reserves a slot if the `ready` jobs need one more worker.
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

    /// Returns whether the runtime has dropped a worker since the slot was reserved.
    pub(crate) fn was_dropped(&self, slot: WorkerSlot) -> bool {
        self.dropped > slot.dropped
    }

    /// Counts a worker that asked for its next job. It got one, or it ends.
    pub(crate) fn took(&mut self, job: bool) {
        if job {
            self.busy += 1;
        } else {
            self.workers -= 1;
        }
    }

    /// Returns the number of jobs that a worker runs before it yields: one, and the worker's share of the `ready` jobs. So
    /// a task that shares the thread waits for a bounded number of jobs.
    pub(crate) fn batch_len(&self, ready: usize) -> usize {
        (1 + ready / self.limit).min(MAX_BATCH_LEN)
    }

    /// Counts a worker that has finished its job.
    pub(crate) fn done(&mut self) {
        self.busy -= 1;
    }

    /// Counts a worker that the runtime dropped, after or before it had begun.
    pub(crate) fn retire(&mut self, begun: bool) {
        self.workers -= 1;
        self.dropped += u64::from(!begun);
    }

    /// Returns the count of the jobs that run.
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }
}
