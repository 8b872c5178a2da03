use std::mem::take;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_channel::oneshot;

use super::batch::{Batch, BatchWriter};
use super::command::{Complete, Reply, Step};
use super::command_queue::{CommandReceiver, Pace};
use super::database::Database;
use super::error::{self, not_replayed, query_failed};
use super::file_lock::FileLock;
use super::loader::Loader;
use super::outbox::Outbox;
use super::path;
use super::schedule::Schedule;
use super::settings::Settings;
use super::shared_inbox::SharedInbox;
use super::state::{SharedState, State};
use super::store::{DeadLetterLimits, Store};
use crate::catch_panic::{catch_panic, discard};
use crate::delivery::{EventRecord, Replay, SeenIds, spawn_workers};
use crate::error::Error;
use crate::inbox::{AcceptError, AcceptErrorKind, Monitor, Monitored};
use crate::runtime::{millis, to_millis};
use crate::telemetry::PendingCounts;

/// The maximum number of rows that a turn prunes or a query reads, so events don't wait long.
pub(super) const STEP: usize = 256;

/// How long the writer waits for commands.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the writer waits for commands while a retry is pending.
const RETRY_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread that owns the database. In each turn it takes all waiting commands, writes them in one transaction, and
/// updates the shared state once.
pub(super) struct Writer {
    settings: Settings,
    pub(super) state: Arc<SharedState>,
    /// Can't be upgraded once the inbox and all its handles are dropped.
    inbox: Weak<SharedInbox>,
    pub(super) database: Database,
    loader: Loader,
    batch_writer: BatchWriter,
    outbox: Outbox,
    /// The number of requests that the last turn answered.
    answered: usize,
    /// The number of requests that the last turn expected.
    expected: usize,
    /// The due time for which a timer wakes the writer, and a channel that is closed once the timer has woken the writer or
    /// the runtime has shut down.
    timer: Option<(u64, oneshot::Sender<()>)>,
    /// Whether the message ids of earlier processes are in memory.
    ids_restored: bool,
    /// Whether the next turn begins without waiting for a command.
    more: bool,
    /// Whether the inbox is draining.
    draining: bool,
    /// Whether the events that haven't started were unloaded, because the process is shutting down.
    unloaded: bool,
}

impl Writer {
    /// Opens the database on the thread that will own it, and starts delivery. Stops early if the inbox is dropped.
    pub(super) fn open(settings: Settings, inbox: &Weak<SharedInbox>) -> Result<Self, Error> {
        let path = path::resolve(&settings.path)?;
        let alive = || inbox.upgrade().ok_or_else(error::thread_ended);
        // If the runtime can't spawn from this thread, accepted events would never run.
        let shared = alive()?;
        let spawned = catch_panic(|| shared.executor.runtime.spawn(Box::pin(async {})));
        drop(shared);
        spawned.map_err(|_| error::cannot_spawn())?;
        let wanted = || inbox.strong_count() > 0;
        let lock = FileLock::acquire(&path, settings.lock_timeout, wanted)?;
        let shared = alive()?;
        let (executor, state) = (&shared.executor, Arc::clone(&shared.state));
        let failing = |error| error::failing(&settings.path, error);
        let count_crashes = |store: &mut Store| store.count_crashes().map(drop);
        let (max_wal_bytes, clock) = (settings.max_wal_bytes, &state.clock);
        let mut database = Database::open(path, max_wal_bytes, clock, lock, count_crashes)?;
        let totals = database.store.totals;
        let limits = DeadLetterLimits {
            volume: settings.max_dead_letters,
            block_key: executor.settings.block_key_on_dead_letter,
        };
        let loader = Loader::new(&mut database, executor, settings.max_crashes).map_err(failing)?;
        if let Some(limits) = executor.limits() {
            let restored = database.store.once_keys(|key| limits.restore(key));
            restored.map_err(failing)?;
        }
        let mut writer = Self {
            batch_writer: BatchWriter::new(limits, settings.max_handled, settings.remembers()),
            settings,
            state,
            inbox: Weak::clone(inbox),
            database,
            loader,
            outbox: Outbox::new(Weak::clone(inbox)),
            answered: 0,
            expected: 1,
            timer: None,
            ids_restored: false,
            more: false,
            draining: false,
            unloaded: false,
        };
        writer.update(|state, _, counts| state.recover(totals.events.events, counts));
        // Loads events before the ids, so that events don't wait while a large store is read.
        if writer.load() {
            writer.spawn_workers();
        }
        writer.turn(Batch::default());
        Ok(writer)
    }

    /// Runs until the inbox and all its handles are dropped.
    pub(super) fn run(mut self, commands: &CommandReceiver) {
        loop {
            let (timeout, mut pace) = (self.timeout(), self.pace(commands));
            let answers_due = self.outbox.check();
            let wait = answers_due.map_or(timeout, |due| due.min(timeout));
            let Some(batch) = commands.receive(wait, &mut pace) else {
                break;
            };
            self.expected = pace.requests;
            // After the shorter wait, the writer has only answers to send.
            if wait == timeout || !batch.is_empty() {
                self.turn(batch);
            }
        }
        self.unload();
        self.database.close();
    }

    /// Returns the commands for which the next turn waits. After an answer, a busy client sends its next request. Some requests are
    /// still on their way, so the expectation falls slowly.
    fn pace(&self, commands: &CommandReceiver) -> Pace {
        let nothing_waits = !self.draining
            && self.batch_writer.unwritten.is_empty()
            && !self.loader.schedule.has_work();
        // If too many ends wait, the window starts no event.
        let max_ends = self.settings.max_in_memory.events / 4;
        Pace {
            requests: (self.answered + commands.requests())
                .max(self.expected - self.expected.div_ceil(4))
                .max(1),
            ends: if nothing_waits {
                usize::try_from(max_ends).unwrap_or(usize::MAX)
            } else {
                0
            },
        }
    }

    fn timeout(&mut self) -> Duration {
        if take(&mut self.more) {
            return Duration::ZERO;
        }
        let retries = !self.batch_writer.unwritten.is_empty()
            || !self.ids_restored
            || self.database.needs_attention();
        if retries { RETRY_TIMEOUT } else { IDLE_TIMEOUT }
    }

    fn turn(&mut self, mut batch: Batch) {
        let (idle, queries) = (batch.is_idle(), take(&mut batch.queries));
        let unparked = take(&mut batch.unparked);
        self.answered = batch.requests();
        let (draining, ready) = self.write(batch);
        self.draining = draining;
        if !unparked.is_empty() {
            // Each event goes to the front of the schedule.
            let unparked = unparked.into_iter().rev();
            self.update(|_, schedule, _| unparked.for_each(|id| schedule.unpark(id)));
        }
        if draining {
            self.unload();
        }
        for query in queries {
            // A query wakes the task that waits for it, and the waker may panic.
            let _ = catch_panic(|| query(self));
        }
        if self.loader.schedule.wake_due(self.state.clock.now()) {
            self.update(|_, _, _| ());
        }
        let loaded = !draining && self.load();
        if idle {
            self.prune();
            let failing = self.database.health.fault().is_some();
            self.database.tidy();
            // The next turn updates the inbox's health.
            self.more |= failing && self.database.health.fault().is_none();
        }
        self.set_timer();
        if ready || loaded {
            self.spawn_workers();
        }
    }

    /// Writes events and results, updates the shared state, and answers. Returns whether the inbox is draining, and
    /// whether events are waiting for a worker that no task will spawn.
    fn write(&mut self, batch: Batch) -> (bool, bool) {
        let available = self.is_available();
        self.recount();
        let before = self.database.store.totals;
        let first = batch.accepts.first();
        // A recount may have found that the numbers of these events are already in use.
        let is_free = first.is_none_or(|first| first.job.number >= before.next_id);
        let storable = available && is_free;
        let accepts = if storable { &batch.accepts[..] } else { &[] };
        self.batch_writer.unwritten.extend(batch.completes);
        let (stored, mut written) = self.batch_writer.write(&mut self.database, accepts);
        if stored && !accepts.is_empty() {
            self.state.metrics.batch("sqlite", accepts.len());
        }
        self.database.checkpoint();
        self.report_dead_letters(&written);
        let mut missing = self.database.store.totals.missing - before.missing;
        if missing > 0 {
            self.database.needs_recount();
        }
        // An unavailable inbox accepts no events, but only a failing inbox starts none.
        let failing = !self.batch_writer.unwritten.is_empty() || self.database.store.is_blocked();
        let (health, mut health_changed) = (self.database.health.clone(), false);
        let (now, block_key) = (self.state.clock.now(), self.batch_writer.limits.block_key);
        let (draining, ready, forgettable, replies) = self.update(|state, schedule, counts| {
            state.failing = failing;
            health_changed = !state.health.is_same(&health);
            state.health = health;
            state.admissions.unavailable = !available;
            for complete in &mut written {
                state.written(complete, schedule, block_key, &mut missing, counts);
            }
            let accepts = batch.accepts.into_iter();
            let replies = accepts.map(|accept| state.end_accept(accept, stored, schedule, counts));
            let mut replies: Vec<Reply> = replies.collect();
            let copies = batch.copies.into_iter();
            replies.extend(copies.map(|copy| state.end_copy(copy, now, counts)));
            let forgettable = state.admissions.expire(now);
            let ready = state.window.ready.len();
            let draining = state.admissions.draining_since.is_some();
            (draining, ready, forgettable, replies)
        });
        if health_changed && let Some(inbox) = self.inbox.upgrade() {
            Monitor::rouse(&(inbox as Arc<dyn Monitored>));
        }
        self.batch_writer.forgettable = forgettable;
        // The task that gets the reply spawns a worker.
        let attended = replies.iter().filter(|reply| reply.runs).count();
        self.outbox.send(replies);
        (draining, ready > attended)
    }

    /// Updates the shared state, and the schedule of the keys that dead letters no longer block.
    fn update<T>(
        &mut self,
        change: impl FnOnce(&mut State, &mut Schedule, &mut PendingCounts<'_>) -> T,
    ) -> T {
        let schedule = &mut self.loader.schedule;
        for key in self.database.store.unblocked.drain(..) {
            schedule.release(Some(&key));
        }
        let totals = self.database.store.totals;
        self.state.update_and_count(|state, counts| {
            let changed = change(state, schedule, counts);
            state.set_totals(totals, schedule.retrying(), counts);
            changed
        })
    }

    fn is_available(&mut self) -> bool {
        self.ids_restored = self.ids_restored || self.restore_ids();
        self.database.is_available() && self.ids_restored
    }

    /// Restores the message ids of earlier processes. Returns false on failure: the inbox then can't accept events.
    fn restore_ids(&mut self) -> bool {
        let (max_ids, window) = (
            self.settings.max_remembered_ids,
            self.settings.duplicate_window,
        );
        let (mut ids, now) = (SeenIds::new(max_ids, window), self.state.clock.now());
        let read = self.database.store.message_ids(|number, at, id| {
            ids.recall(self.state.fingerprints.of(id), number, at.min(now), now);
        });
        if let Err(error) = read {
            self.database.failed(error);
            return false;
        }
        let next_id = self.database.store.totals.next_id;
        self.update(|state, _, _| state.admissions.restore(next_id, ids));
        true
    }

    /// Recounts the rows if another process may have changed them, and updates the counts.
    fn recount(&mut self) {
        if let Some(before) = self.database.recount() {
            let now = self.database.store.totals;
            let last = &mut self.loader.schedule.last;
            *last = now.next_id.saturating_sub(1).max(*last);
            self.update(|state, _, counts| state.recount(before, now, counts));
        }
    }

    /// Counts the stored dead letters, and then calls the hooks. `stats.dead` counts the events only after the hooks have
    /// run.
    fn report_dead_letters(&mut self, written: &[Complete]) {
        let letters = written.iter().filter_map(|complete| match &complete.step {
            Step::DeadLetter(letter, _) => Some(letter),
            Step::Retry { .. } | Step::Wait | Step::End(..) => None,
        });
        let mut letters = letters.peekable();
        if letters.peek().is_some()
            && let Some(inbox) = self.inbox.upgrade()
        {
            let kept = self.database.store.totals.dead_letters.events;
            self.state.lock().stats.dead_letters = kept;
            letters.for_each(|letter| inbox.executor.dead_lettered(letter));
        }
    }

    /// Loads events that may run. Returns whether any event was loaded.
    fn load(&mut self) -> bool {
        if !self.loader.schedule.has_work() {
            return false;
        }
        let (free, workers) = {
            let state = self.state.lock();
            if state.failing {
                return false;
            }
            let workers = state.window.free_workers(self.loader.concurrency);
            (state.window.free(), workers)
        };
        let clock = &self.state.clock;
        let loaded = self.loader.load(&mut self.database, free, workers, clock);
        let (jobs, ended) = (loaded.jobs, loaded.ended);
        let any = !jobs.is_empty();
        self.more |= loaded.more || !ended.is_empty();
        // Recounts before the inbox can become idle.
        self.recount();
        self.update(|state, _, _| {
            let sizes = ended.iter().map(|complete| complete.size);
            sizes.for_each(|size| state.window.push_ended(size));
            let jobs = jobs.into_iter().map(Box::new);
            jobs.for_each(|job| state.window.push(job));
        });
        self.batch_writer.unwritten.extend(ended);
        any
    }

    /// Unloads the events that haven't started. The events stay on disk. The process is shutting down, so an exit while an
    /// event is running isn't a crash.
    fn unload(&mut self) {
        let ready = self.state.update(|state| state.window.take_ready());
        discard(ready);
        if !self.unloaded {
            let cleared = self.database.try_transaction(Store::clear_running);
            self.unloaded = cleared.is_some();
        }
    }

    /// Deletes expired message ids, dead letters and handled events in small steps.
    fn prune(&mut self) {
        self.more |= self.batch_writer.forget(&mut self.database);
        let keep = millis(self.settings.keep_dead_letters);
        let before = self.state.clock.now().saturating_sub(keep);
        match self.delete_before(before) {
            Ok(deleted) => self.more |= deleted == STEP,
            Err(error) => self.database.failed(error),
        }
        match self.delete_once_keys() {
            Ok(deleted) => self.more |= deleted == STEP,
            Err(error) => self.database.failed(error),
        }
        if self.database.store.totals.handled.events > 0 {
            let keep = millis(self.settings.keep_handled);
            let before = self.state.clock.now().saturating_sub(keep);
            match self.delete_handled_before(before) {
                Ok(deleted) => self.more |= deleted == STEP,
                Err(error) => self.database.failed(error),
            }
        }
    }

    /// Deletes keys of routes that no unfinished event can share. Returns the number of deleted keys.
    fn delete_once_keys(&mut self) -> rusqlite::Result<usize> {
        let store = &self.database.store;
        let oldest = store.oldest()?.map(|(_, received_at)| received_at);
        let now = self.state.clock.system_time();
        let horizon = to_millis(oldest.map_or(now, |oldest| oldest.min(now)));
        if !store.has_expired_once_keys(horizon)? {
            return Ok(0);
        }
        let delete = |store: &mut Store| store.delete_once_keys(horizon, STEP);
        self.database.transaction(delete)
    }

    fn set_timer(&mut self) {
        let Some(due) = self.loader.schedule.next_due() else {
            return;
        };
        let now = self.state.clock.now();
        let is_set = self
            .timer
            .as_ref()
            .is_some_and(|(at, pending)| *at > now && *at <= due && !pending.is_canceled());
        if !is_set && let Some(inbox) = self.inbox.upgrade() {
            let delay = Duration::from_millis(due.saturating_sub(now));
            self.timer = Some((due, inbox.wake_after(delay)));
        }
    }

    fn spawn_workers(&self) {
        if let Some(inbox) = self.inbox.upgrade() {
            spawn_workers(&inbox);
            Monitor::wake(&inbox);
        }
    }

    /// Deletes up to [`STEP`] dead letters that are older than `time`, and returns the number of deleted letters.
    pub(super) fn delete_before(&mut self, time: u64) -> rusqlite::Result<usize> {
        let old = self.database.store.dead_letters_before(time, STEP)?;
        self.delete(&old)
    }

    /// Deletes up to [`STEP`] handled events that are older than `time`, and returns the number of deleted events.
    fn delete_handled_before(&mut self, time: u64) -> rusqlite::Result<usize> {
        if !self.database.store.has_handled_before(time)? {
            return Ok(0);
        }
        let delete = |store: &mut Store| store.delete_handled_before(time, STEP);
        self.database.transaction(delete)
    }

    /// Deletes handled events, and returns the number of deleted events.
    pub(super) fn delete_handled(&mut self, ids: &[u64]) -> rusqlite::Result<usize> {
        if ids.is_empty() {
            return Ok(0);
        }
        self.database.transaction(|store| {
            let mut count = 0;
            for id in ids {
                count += usize::from(store.delete_handled(*id)?);
            }
            Ok(count)
        })
    }

    /// Deletes dead letters, and returns the number of deleted letters.
    pub(super) fn delete(&mut self, letters: &[u64]) -> rusqlite::Result<usize> {
        if letters.is_empty() {
            return Ok(0);
        }
        let delete = |store: &mut Store| store.delete_dead_letters(letters);
        let deleted = self.database.transaction(delete)?;
        self.update(|_, _, _| ());
        Ok(deleted)
    }

    /// Turns ended events back into events in flight in one transaction, while the inbox has space. Returns the number of
    /// replayed events.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no space for an event, after replaying the events before it.
    pub(super) fn replay(
        &mut self,
        records: &[EventRecord],
        routes: &Replay,
    ) -> Result<u64, Error> {
        if records.is_empty() {
            return Ok(0);
        }
        let (draining, limit, held) = {
            let state = self.state.lock();
            let admissions = &state.admissions;
            let draining = admissions.draining_since.is_some();
            (draining, admissions.limit, state.held())
        };
        if draining {
            return Err(not_replayed(AcceptError::new(AcceptErrorKind::Draining)));
        }
        if self.database.store.is_blocked() {
            return Err(not_replayed(AcceptError::new(AcceptErrorKind::Unavailable)));
        }
        let now = self.state.clock.now();
        let requeue = |store: &mut Store| store.requeue(records, routes, now, held, limit);
        let requeued = self.database.transaction(requeue);
        let (requeued, full) = requeued.map_err(query_failed)?;
        let (replayed, at) = (requeued.len() as u64, self.state.clock.system_time());
        let ids: Vec<u64> = requeued.iter().map(|event| event.id).collect();
        for event in requeued {
            let schedule = &mut self.loader.schedule;
            schedule.requeue(event.id, event.key, event.blocked);
        }
        self.update(|state, _, counts| {
            state.probe.replayed(ids.into_iter(), at);
            state.stats.replayed += replayed;
            state.in_flight += replayed;
            counts.replayed(replayed);
        });
        if full {
            return Err(not_replayed(AcceptError::new(AcceptErrorKind::Full)));
        }
        Ok(replayed)
    }
}
