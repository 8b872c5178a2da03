use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_channel::oneshot;

use super::batch::{Batch, BatchWriter};
use super::command::{Accept, Command, Complete, CopyPending, Reply};
use super::database::Database;
use super::inner::Inner;
use super::loader::Loader;
use super::message_ids::MessageIds;
use super::state::Shared;
use super::store::{DeadLetterLimits, Dropped};
use crate::catch_panic::{catch_panic, discard};
use crate::delivery::{DeadLetter, EventOutcome, Next, spawn_workers};
use crate::runtime::{Clock, millis};

/// The maximum number of commands per turn.
const MAX_COMMANDS: usize = 16_384;

/// The maximum number of rows that a turn prunes or a query reads, so events don't wait long.
pub(super) const STEP: usize = 256;

/// How long the writer waits for commands.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the writer waits for commands while a retry is pending.
const RETRY_TIMEOUT: Duration = Duration::from_secs(1);

/// The thread that owns the database. In each turn it takes all waiting commands, writes them in one transaction, and
/// updates the shared state once.
pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) loader: Loader,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Arc<Clock>,
    pub(super) limits: DeadLetterLimits,
    batch_writer: BatchWriter,
    message_ids: MessageIds,
    retention: Retention,
    timer: Option<Timer>,
    /// Can't be upgraded once the inbox and all its handles are dropped.
    inner: Weak<Inner>,
    /// Whether the next turn begins without waiting for a command.
    more: bool,
    /// Whether the events that haven't started were unloaded, because the process is shutting down.
    unloaded: bool,
}

/// When the writer deletes old dead letters.
struct Retention {
    keep: Duration,
    pruned_at: u64,
}

/// The call that wakes the writer for the next attempt.
struct Timer {
    at: u64,
    /// Closed once the timer has woken the writer, or the runtime has shut down.
    pending: oneshot::Sender<()>,
}

/// The part of the shared state that the rest of a turn needs.
struct Turn {
    draining: bool,
    /// The number of events that wait for a worker, minus the events for which a task spawns one.
    ready: usize,
    forgotten: u64,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        loader: Loader,
        inner: &Arc<Inner>,
        limits: DeadLetterLimits,
        keep_dead_letters: Duration,
        message_ids: MessageIds,
    ) -> Self {
        Self {
            batch_writer: BatchWriter::new(limits, message_ids.remembers()),
            database,
            loader,
            shared: Arc::clone(&inner.shared),
            clock: Arc::clone(&inner.clock),
            limits,
            message_ids,
            retention: Retention {
                keep: keep_dead_letters,
                pruned_at: 0,
            },
            timer: None,
            inner: Arc::downgrade(inner),
            more: false,
            unloaded: false,
        }
    }

    /// Starts to deliver the events of earlier processes, and restores the message ids.
    pub(super) fn start(&mut self) {
        // Loads events before the ids, so that events don't wait while a large store is read.
        if self.load() {
            self.spawn_workers();
        }
        self.set_timer();
        let available = self.is_available();
        self.shared
            .update(|state| state.admissions.unavailable = !available);
    }

    /// Runs until the inbox and all its handles are dropped.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let mut batch = Batch::default();
            match commands.recv_timeout(self.timeout()) {
                Ok(command) => batch.push(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let others = commands.try_iter().take(MAX_COMMANDS);
            others.for_each(|command| batch.push(command));
            self.turn(batch);
        }
        self.unload();
        let closed = self.database.transaction(|store| store.set_open_path(None));
        if let Err(error) = closed {
            self.database.failed(error);
        }
    }

    fn timeout(&mut self) -> Duration {
        if std::mem::take(&mut self.more) {
            return Duration::ZERO;
        }
        let retries = self.batch_writer.has_unwritten()
            || !self.message_ids.are_restored()
            || self.database.needs_attention();
        if retries { RETRY_TIMEOUT } else { IDLE_TIMEOUT }
    }

    fn turn(&mut self, batch: Batch) {
        let idle = batch.is_idle();
        let turn = self.write(batch.accepts, batch.copies, batch.completes, idle);
        if turn.draining {
            self.unload();
        }
        for query in batch.queries {
            // A query wakes the task that waits for it, and the waker may panic.
            let _ = catch_panic(|| query(self));
        }
        self.wake_due();
        let loaded = !turn.draining && self.load();
        if idle {
            self.prune(turn.forgotten);
            let failing = self.database.health.problem().is_some();
            self.database.tidy();
            // The next turn updates the inbox's health.
            self.more |= failing && self.database.health.problem().is_none();
        }
        self.set_timer();
        if turn.ready > 0 || loaded {
            self.spawn_workers();
        }
    }

    fn is_available(&mut self) -> bool {
        let restored = self
            .message_ids
            .restore(&mut self.database, &self.shared, &self.clock);
        self.database.is_available() && restored
    }

    /// Writes events and results, updates the shared state, and answers.
    fn write(
        &mut self,
        accepts: Vec<Accept>,
        copies: Vec<CopyPending>,
        completes: Vec<Complete>,
        idle: bool,
    ) -> Turn {
        let available = self.is_available();
        let unavailable = !available;
        let (now, at) = (self.clock.now(), self.clock.system_time());
        self.recount();
        // A recount may have found that the numbers of these events are already in use.
        let next_id = self.database.store.totals().next_id;
        let available = available && accepts.first().is_none_or(|first| first.number >= next_id);
        let storable = if available { &accepts[..] } else { &[] };
        let mut written = self
            .batch_writer
            .write(&mut self.database, storable, completes, at);
        written.accepted &= available;
        self.report_dead_letters(&written.letters, &written.dropped);
        for complete in &written.completes {
            self.reschedule(complete);
        }
        // An unavailable inbox accepts no events, but only a failing inbox starts none.
        let failing = self.batch_writer.has_unwritten() || self.database.is_blocked();
        let problem = self.database.health.problem().cloned();
        let schedule = &mut self.loader.schedule;
        let (mut turn, replies) = self.shared.update(|state| {
            state.failing = failing;
            state.problem = problem;
            state.admissions.unavailable = unavailable;
            for Complete { job, next, .. } in &written.completes {
                state.written(job, *next);
            }
            let accepts = accepts.into_iter();
            let replies = accepts.map(|one| state.end_accept(one, written.accepted, schedule));
            let mut replies: Vec<Reply> = replies.collect();
            replies.extend(copies.into_iter().map(|copy| state.end_copy(copy, now)));
            if idle {
                state.admissions.expire(now);
            }
            let turn = Turn {
                draining: state.draining,
                ready: state.window.ready(),
                forgotten: state.admissions.forgotten(),
            };
            (turn, replies)
        });
        // The task that gets the reply spawns a worker.
        let attended = replies.into_iter().filter_map(Reply::send);
        turn.ready = turn.ready.saturating_sub(attended.count());
        discard(written.completes);
        turn
    }

    /// Records rows that another process wrote or deleted.
    fn recount(&mut self) {
        if let Some(before) = self.database.recount() {
            let now = self.database.store.totals();
            self.loader.schedule.extend(now.next_id.saturating_sub(1));
            self.shared.update(|state| state.recount(before, now));
        }
    }

    fn reschedule(&mut self, complete: &Complete) {
        let schedule = &mut self.loader.schedule;
        let job = &complete.job;
        schedule.end_poison_candidate(job.number);
        match complete.next {
            Next::Retry(_) => schedule.retry(job.number, complete.due_at()),
            Next::End(EventOutcome::Dead) if self.limits.block_key => {}
            Next::End(_) => schedule.release(job.key.as_ref()),
        }
    }

    /// Counts dead letters, and then calls the hooks. The events of the dead letters count as dead only afterwards.
    fn report_dead_letters(&mut self, letters: &[DeadLetter], dropped: &Dropped) {
        if letters.is_empty() && dropped.unblocked.is_empty() {
            return;
        }
        self.count_dead_letters(dropped);
        if let Some(inner) = self.inner.upgrade() {
            letters
                .iter()
                .for_each(|letter| inner.executor.dead_lettered(letter));
        }
    }

    /// Counts the kept and the dropped dead letters, and releases the keys that the dropped ones blocked.
    pub(super) fn count_dead_letters(&mut self, dropped: &Dropped) {
        for key in &dropped.unblocked {
            self.loader.schedule.release(Some(key));
        }
        let kept = self.database.store.totals().dead_letters;
        self.shared.update(|state| {
            state.stats.dead_letters = kept;
            state.stats.dead_letters_dropped += dropped.count;
        });
    }

    fn wake_due(&mut self) {
        let due = self.loader.schedule.wake_due(self.clock.now());
        if due > 0 {
            self.shared.update(|state| state.due(due));
        }
    }

    /// Loads events that may run. Returns whether any event was loaded.
    fn load(&mut self) -> bool {
        if !self.loader.has_work() {
            return false;
        }
        let capacity = {
            let state = self.shared.lock();
            (!state.failing).then(|| state.window.capacity())
        };
        let Some(capacity) = capacity else {
            return false;
        };
        let mut loaded = self.loader.load(&mut self.database, capacity, &self.clock);
        // Recounts before the inbox can become idle.
        self.recount();
        self.more |= loaded.more;
        self.report_dead_letters(&loaded.letters, &loaded.dropped);
        let jobs = std::mem::take(&mut loaded.jobs);
        let any = !jobs.is_empty();
        self.shared.update(|state| {
            state.delay(loaded.delayed);
            for size in &loaded.letter_sizes {
                state.died_waiting(*size);
            }
            jobs.into_iter()
                .for_each(|job| state.window.push(Box::new(job)));
        });
        any
    }

    /// Unloads the events that haven't started. The events stay on disk. From now on, the process is shutting down, so
    /// an exit while an event is running isn't a crash.
    fn unload(&mut self) {
        let ready = self.shared.update(|state| state.window.take_ready());
        discard(ready);
        if self.unloaded {
            return;
        }
        match self.database.transaction(|store| store.clear_running()) {
            Ok(()) => self.unloaded = true,
            Err(error) => self.database.failed(error),
        }
    }

    /// Deletes expired dead letters and message ids in small steps.
    fn prune(&mut self, forgotten: u64) {
        self.more |= self.batch_writer.forget(&mut self.database, forgotten);
        let now = self.clock.now();
        if now.saturating_sub(self.retention.pruned_at) < millis(IDLE_TIMEOUT) {
            return;
        }
        let before = now.saturating_sub(millis(self.retention.keep));
        match self.delete_before(before, STEP) {
            Ok(STEP..) => self.more = true,
            Ok(_) => self.retention.pruned_at = now,
            Err(error) => {
                self.retention.pruned_at = now;
                self.database.failed(error);
            }
        }
    }

    fn set_timer(&mut self) {
        let Some(due) = self.loader.schedule.next_due() else {
            return;
        };
        let now = self.clock.now();
        let pending =
            |timer: &Timer| timer.at > now && timer.at <= due && !timer.pending.is_canceled();
        if !self.timer.as_ref().is_some_and(pending)
            && let Some(inner) = self.inner.upgrade()
        {
            let delay = Duration::from_millis(due.saturating_sub(now));
            let pending = inner.wake_after(delay);
            self.timer = Some(Timer { at: due, pending });
        }
    }

    fn spawn_workers(&self) {
        if let Some(inner) = self.inner.upgrade() {
            spawn_workers(&inner);
        }
    }
}
