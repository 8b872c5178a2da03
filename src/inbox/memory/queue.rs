use std::cmp::Reverse;
use std::time::{Duration, Instant, SystemTime};

use futures_channel::oneshot;

use super::ages::Ages;
use super::dead_letter_queue::DeadLetterQueue;
use super::entry::Entry;
use super::limits::MemoryLimits;
use super::log::Log;
use super::parked::Parked;
use crate::delivery::{
    Admission, AttemptRecord, AttemptResult, DeadLetter, DeliverySettings, EventOutcome,
    EventRecord, Fingerprint, Job, KeyedQueue, OrderKey, Progress, Replay, SeenIds, Stats,
    WorkerPool, WorkerSlot,
};
use crate::inbox::{AcceptError, AcceptErrorKind, EventFilter, Fullness};
use crate::telemetry::ParentSpan;
use crate::waiters::Waiters;

/// The jobs in flight, the ids, the dead letters, and the counts of all events.
pub(super) struct Queue {
    pub(super) limits: MemoryLimits,
    jobs: KeyedQueue,
    pub(super) worker_pool: WorkerPool,
    /// The number of jobs that are waiting for their next attempt.
    retrying: usize,
    parked: Parked,
    /// Bytes of the bodies of all jobs in flight.
    bytes: usize,
    pub(super) ages: Ages,
    pub(super) fullness: Fullness,
    /// When the drain began, by the inbox's clock.
    pub(super) draining_since: Option<u64>,
    /// The ids of jobs in flight, and the ids of ended jobs within the window and the count. One lock guards the ids and the
    /// jobs, so no id is remembered without its event.
    ids: SeenIds,
    /// The ids of jobs that can still be withdrawn, because their worker isn't spawned yet.
    unconfirmed: Vec<Fingerprint>,
    /// The number of the newest job.
    admitted: u64,
    pub(super) dead_letters: DeadLetterQueue,
    pub(super) log: Log,
    /// The counts that aren't derived from other fields.
    stats: Stats,
    /// The tasks that are waiting until nothing is in flight.
    idle: Waiters,
    /// The jobs that are waiting for their next attempt. A drain wakes them.
    drain: Waiters,
}

impl Queue {
    pub(super) fn new(limits: MemoryLimits, delivery: &DeliverySettings) -> Self {
        Self {
            limits,
            jobs: KeyedQueue::default(),
            worker_pool: WorkerPool::new(delivery.inbox_concurrency()),
            retrying: 0,
            parked: Parked::default(),
            bytes: 0,
            ages: Ages::default(),
            fullness: Fullness::default(),
            draining_since: None,
            ids: SeenIds::new(limits.ids, limits.duplicate_window),
            unconfirmed: Vec::new(),
            admitted: 0,
            dead_letters: DeadLetterQueue::new(limits, delivery.block_key_on_dead_letter),
            log: Log::new(limits),
            stats: Stats::default(),
            idle: Waiters::default(),
            drain: Waiters::default(),
        }
    }

    /// Decides whether to accept an event with a body of `size` bytes, and counts the event. The caller pushes a new event
    /// under the same lock.
    pub(super) fn admit(
        &mut self,
        size: usize,
        id: Fingerprint,
        now: u64,
    ) -> Result<Admission, AcceptError> {
        let room = self.room(size);
        // A duplicate needs no space, so a full or draining inbox accepts it too.
        let admission = self
            .ids
            .admit(id, now, || room.map(|()| self.admitted + 1))
            .and_then(|admission| match admission {
                // The first copy may be withdrawn, so the second copy must not get a 200 yet.
                Admission::Duplicate if self.unconfirmed.contains(&id) => {
                    Err(AcceptError::new(AcceptErrorKind::Unavailable)
                        .retry_after(Duration::from_secs(1)))
                }
                admission => Ok(admission),
            });
        match &admission {
            Ok(Admission::New { number, .. }) => {
                self.admitted = *number;
                self.stats.accepted += 1;
                self.bytes += size;
                self.ages.push(*number, now);
            }
            Ok(Admission::Duplicate) => self.stats.duplicates += 1,
            Err(error) => {
                self.stats.refused += 1;
                if error.kind() == AcceptErrorKind::Full {
                    self.fullness.refused(now, self.stats.accepted);
                }
            }
        }
        admission
    }

    /// Returns an error if there is no space for one more event of `size` bytes.
    fn room(&self, size: usize) -> Result<(), AcceptError> {
        let count = self.in_flight();
        if self.draining_since.is_some() {
            return Err(AcceptError::new(AcceptErrorKind::Draining));
        }
        // An empty inbox accepts an event of any size. If the inbox always refused a large event, the sender would
        // disable the endpoint.
        if count > 0 && (count >= self.limits.events || self.bytes + size > self.limits.bytes) {
            return Err(AcceptError::new(AcceptErrorKind::Full));
        }
        Ok(())
    }

    /// Pushes a new job. If the job needs a new worker, returns the worker's slot. The job can then be withdrawn until it is
    /// confirmed.
    pub(super) fn push(&mut self, job: Box<Job>, id: Fingerprint) -> Option<WorkerSlot> {
        self.jobs.push(job);
        let slot = self.reserve_slot()?;
        self.unconfirmed.push(id);
        Some(slot)
    }

    /// Confirms a job whose worker was spawned. Returns false if the runtime dropped the worker.
    pub(super) fn confirm(&mut self, id: Fingerprint, slot: WorkerSlot) -> bool {
        if self.worker_pool.was_dropped(slot) {
            return false;
        }
        self.unconfirmed.retain(|unconfirmed| *unconfirmed != id);
        true
    }

    /// Removes an unconfirmed job as if it had never arrived, unless another worker has taken it.
    pub(super) fn withdraw(&mut self, id: Fingerprint, number: u64) -> Option<Box<Job>> {
        self.unconfirmed.retain(|unconfirmed| *unconfirmed != id);
        let job = self.jobs.remove(number)?;
        self.ids.remove(id);
        self.ages.remove(number);
        self.bytes -= job.size();
        self.stats.accepted -= 1;
        self.stats.refused += 1;
        Some(job)
    }

    /// Reserves a slot if the ready jobs need one more worker.
    pub(super) fn reserve_slot(&mut self) -> Option<WorkerSlot> {
        self.worker_pool.reserve_slot(self.jobs.ready())
    }

    /// Returns a worker's next job. If there is no job, the worker ends.
    pub(super) fn next(&mut self) -> Option<Box<Job>> {
        let job = self.jobs.pop();
        if let Some(job) = &job {
            self.log.start(job);
        }
        self.worker_pool.took(job.is_some());
        job
    }

    /// See [`WorkerPool::batch_len`].
    pub(super) fn batch_len(&self) -> usize {
        self.worker_pool.batch_len(self.jobs.ready())
    }

    /// Counts a handled or unhandled event, and keeps it in the log.
    pub(super) fn finish(
        &mut self,
        job: Box<Job>,
        outcome: EventOutcome,
        attempt: AttemptResult,
        ended_at: SystemTime,
    ) {
        self.worker_pool.done();
        self.end(&job, outcome);
        self.log.finish(job, outcome, attempt, ended_at);
    }

    /// Counts an event whose dead letter is stored.
    pub(super) fn finish_dead(&mut self, job: &Job) {
        self.worker_pool.done();
        self.end(job, EventOutcome::Dead);
    }

    /// Counts an event that ended while it waited for its next attempt.
    pub(super) fn finish_retrying(&mut self, job: &Job) {
        self.retrying -= 1;
        self.end(job, EventOutcome::Dead);
    }

    fn end(&mut self, job: &Job, outcome: EventOutcome) {
        self.bytes -= job.size();
        self.ages.remove(job.number);
        self.stats.end(outcome);
        // If dead letters block keys, the key of a dead-lettered event stays blocked.
        if outcome != EventOutcome::Dead || !self.dead_letters.blocks_keys() {
            self.jobs.release(job.key.as_ref());
        }
    }

    /// Adds the attempts of an event to its dead letter, unless they don't fit into the dead-letter queue.
    pub(super) fn add_history(
        &self,
        letter: DeadLetter,
        attempt: Option<AttemptRecord>,
    ) -> DeadLetter {
        let mut history = self.log.history(letter.id());
        if let Some(attempt) = attempt {
            attempt
                .sharing(letter.routes())
                .push_to(&mut history, usize::MAX);
        }
        let complete = letter.clone().with_history(history);
        if complete.size() > self.limits.dead_letter_bytes {
            return letter;
        }
        complete
    }

    /// Stores the dead letter of an event that isn't counted yet, and releases the keys of the dropped letters. Returns the number
    /// of dropped letters.
    pub(super) fn push_dead_letter(
        &mut self,
        letter: DeadLetter,
        key: Option<OrderKey>,
        since: u64,
    ) -> u64 {
        let dropped = self.dead_letters.dropped();
        self.log.remove(letter.id());
        for key in self.dead_letters.push(letter, key, since) {
            self.jobs.release(Some(&key));
        }
        self.dead_letters.dropped() - dropped
    }

    /// Counts a job that is waiting for its next attempt. Returns a receiver that resolves when a drain begins, or `None` if the
    /// inbox is draining.
    pub(super) fn retry(
        &mut self,
        number: u64,
        attempt: AttemptRecord,
    ) -> Option<oneshot::Receiver<()>> {
        self.log.retry(number, attempt);
        self.worker_pool.done();
        self.retrying += 1;
        self.stats.retried += 1;
        self.draining_since.is_none().then(|| self.drain.wait())
    }

    /// Returns a job to the queue for its next attempt.
    pub(super) fn requeue(&mut self, job: Box<Job>) {
        self.retrying -= 1;
        self.log.requeue(job.number);
        self.jobs.push_first(job);
    }

    /// Keeps a job whose route waits for its limits. If another route is retried after `retry`, returns a receiver that resolves
    /// when a drain begins.
    pub(super) fn park(
        &mut self,
        mut job: Box<Job>,
        now: Instant,
        retry: Option<Duration>,
        attempt: Option<AttemptRecord>,
    ) -> Option<oneshot::Receiver<()>> {
        self.worker_pool.done();
        self.stats.retried += u64::from(retry.is_some() && attempt.is_some());
        self.log.park(job.number, attempt, retry.is_some());
        let is_draining = self.draining_since.is_some();
        if is_draining {
            job.progress.elapse(Duration::MAX);
        }
        // The limits may have a permit for the job by now.
        if job.progress.park() || (is_draining && retry.is_some()) {
            self.log.requeue(job.number);
            self.jobs.push_first(job);
            return None;
        }
        self.parked.push(job, now, retry.is_some());
        retry.map(|_| self.drain.wait())
    }

    /// Returns a parked job to the queue.
    pub(super) fn unpark(&mut self, number: u64, now: Instant, is_due: bool) {
        // During a drain, each retry is due.
        let is_due = is_due || self.draining_since.is_some();
        if let Some(job) = self.parked.take(number, now, is_due) {
            self.log.requeue(number);
            self.jobs.push_first(job);
        }
    }

    /// Turns an ended event into a job. Returns false if the inbox keeps no ended event with this id.
    pub(super) fn replay(
        &mut self,
        id: u64,
        routes: &Replay,
        now: u64,
    ) -> Result<bool, AcceptError> {
        let Some(letter) = self.dead_letters.get(id) else {
            return self.replay_handled(id, routes, now);
        };
        let Ok(event) = letter.event().cloned() else {
            return Ok(false);
        };
        let progress = Progress::replay(letter.routes(), routes);
        let history = letter.history().to_vec();
        let is_blocking = self.dead_letters.is_blocking(id);
        if let Err(error) = self.room(event.body().len()) {
            // The events that this letter blocks may fill the inbox. If the replay were refused, no space would become free.
            if error.kind() != AcceptErrorKind::Full || !is_blocking {
                return Err(error);
            }
        }
        self.bytes += event.body().len();
        self.stats.replayed += 1;
        self.ages.insert(id, now);
        self.log.replay(id, event.clone(), history);
        let job = Box::new(Job {
            number: id,
            event,
            parent_span: ParentSpan::none(),
            progress,
            key: self.dead_letters.remove(id),
        });
        if is_blocking {
            // The job is the first of its key, as the letter was.
            self.jobs.push_first(job);
        } else {
            self.jobs.push(job);
        }
        Ok(true)
    }

    /// Turns a handled or unhandled event into a job.
    fn replay_handled(&mut self, id: u64, routes: &Replay, now: u64) -> Result<bool, AcceptError> {
        let Some(size) = self.log.body_len(id) else {
            return Ok(false);
        };
        self.room(size)?;
        let Some(ended) = self.log.take(id) else {
            return Ok(false);
        };
        self.bytes += size;
        self.stats.replayed += 1;
        self.ages.insert(id, now);
        let (results, history) = (ended.results(), ended.history());
        let mut job = ended.job;
        self.log.replay(id, job.event.clone(), history);
        job.progress = Progress::replay(&results, routes);
        self.jobs.push(job);
        Ok(true)
    }

    /// Returns up to `limit` events that match the filter, newest first.
    pub(super) fn list(&self, filter: &EventFilter, limit: usize) -> Vec<EventRecord> {
        let entries = self.entries();
        let mut found: Vec<_> = entries.filter(|entry| entry.matches(filter)).collect();
        found.sort_unstable_by_key(|entry| Reverse(entry.id()));
        let records = found.iter().map(Entry::record);
        let matching = records.filter(|record| filter.matches_routes(record));
        matching.take(limit).collect()
    }

    /// Returns the event with this id.
    pub(super) fn get(&self, id: u64) -> Option<EventRecord> {
        let entry = self.entries().find(|entry| entry.id() == id);
        entry.map(|entry| entry.record())
    }

    /// Returns each event that the inbox keeps once.
    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let waiting = self.jobs.iter().chain(self.parked.iter());
        let waiting = waiting.filter(|job| !self.log.was_attempted(job.number));
        let started = self.log.started().map(Entry::Started);
        let ended = self.log.ended().map(Entry::Ended);
        let dead = self.dead_letters.iter(None).map(Entry::Dead);
        waiting
            .map(Entry::Waiting)
            .chain(started)
            .chain(ended)
            .chain(dead)
    }

    /// Deletes an ended event. Returns false if the inbox keeps no ended event with this id.
    pub(super) fn delete(&mut self, id: u64) -> bool {
        if self.dead_letters.get(id).is_none() {
            return self.log.take(id).is_some();
        }
        let key = self.dead_letters.remove(id);
        if self.dead_letters.blocks_keys() {
            self.jobs.release(key.as_ref());
        }
        true
    }

    /// Refuses new events from now on. Returns the jobs that are waiting for their next attempt. They are due now.
    pub(super) fn drain(&mut self, now: u64) -> Waiters {
        self.draining_since.get_or_insert(now);
        self.drain.take()
    }

    /// Returns whether the inbox has no space for a small event.
    pub(super) fn is_full(&self) -> bool {
        let room = self.room(1);
        room.is_err_and(|error| error.kind() == AcceptErrorKind::Full)
    }

    /// Returns a receiver that resolves once no job is in flight, or `None` if the inbox is idle.
    pub(super) fn idle(&mut self) -> Option<oneshot::Receiver<()>> {
        (self.in_flight() > 0).then(|| self.idle.wait())
    }

    /// If no job is in flight, returns the tasks that are waiting for an idle inbox.
    pub(super) fn take_idle_waiters(&mut self) -> Option<Waiters> {
        (self.in_flight() == 0).then(|| self.idle.take())
    }

    pub(super) fn in_flight(&self) -> usize {
        let waiting = self.jobs.waiting() + self.parked.waiting();
        let retrying = self.retrying + self.parked.retrying();
        waiting + self.worker_pool.busy() + retrying
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            waiting: (self.jobs.waiting() + self.parked.waiting()) as u64,
            running: self.worker_pool.busy() as u64,
            retrying: (self.retrying + self.parked.retrying()) as u64,
            bytes: self.bytes as u64,
            dead_letters: self.dead_letters.len() as u64,
            dead_letters_dropped: self.dead_letters.dropped(),
            ..self.stats
        }
    }
}
