/// The workers of an inbox: a limited number of tasks that each run one job after another.
///
/// While the pool is below its limit, each new job gets a worker. A worker runs until no job is ready. So the pool needs no
/// dispatcher, and no idle worker has to be woken.
#[derive(Debug)]
pub(crate) struct WorkerPool {
    limit: usize,
    /// The number of workers that were spawned and haven't ended.
    workers: usize,
    /// The number of workers that are running a job.
    busy: usize,
    /// The total number of workers that the runtime dropped before their first poll, because it had shut down.
    dropped: u64,
}

/// The largest batch of jobs that a worker runs before it yields.
const MAX_BATCH_LEN: usize = 32;

/// A slot in the pool, reserved for a worker that is about to be spawned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerSlot {
    /// The pool's count of dropped workers when the slot was reserved.
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

    /// Counts a worker that asked for its next job. If it got no job, the worker ends.
    pub(crate) fn took(&mut self, job: bool) {
        if job {
            self.busy += 1;
        } else {
            self.workers -= 1;
        }
    }

    /// Returns the number of jobs that a worker runs before it yields: one, plus the worker's share of the `ready` jobs. So
    /// other tasks on the thread wait for a bounded number of jobs.
    pub(crate) fn batch_len(&self, ready: usize) -> usize {
        (1 + ready / self.limit).min(MAX_BATCH_LEN)
    }

    /// Counts a worker that has finished its job.
    pub(crate) fn done(&mut self) {
        self.busy -= 1;
    }

    /// Counts a worker that the runtime dropped. `begun` is false if the runtime dropped the worker before its first poll.
    pub(crate) fn retire(&mut self, begun: bool) {
        self.workers -= 1;
        self.dropped += u64::from(!begun);
    }

    /// Returns the number of running jobs.
    pub(crate) fn busy(&self) -> usize {
        self.busy
    }
}
