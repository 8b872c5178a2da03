use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::database::Database;
use super::error;
use super::file_lock::FileLock;
use super::inner::{DROPPED_DELAY, Inner};
use super::loader::Loader;
use super::message_ids::MessageIds;
use super::path::{self, beside};
use super::schedule::Schedule;
use super::store::{self, DeadLetterLimits, Store};
use super::writer::Writer;
use crate::catch_panic::catch_panic;
use crate::error::Error;
use crate::runtime::{Runtime, millis};

/// The settings of the writer.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// `open` makes this path absolute, because the process may change its working directory.
    pub(super) path: PathBuf,
    pub(super) lock_timeout: Duration,
    pub(super) max_wal_bytes: u64,
    pub(super) max_remembered_ids: usize,
    pub(super) duplicate_window: Duration,
    pub(super) max_dead_letters: u64,
    pub(super) max_dead_letter_bytes: u64,
    pub(super) keep_dead_letters: Duration,
    pub(super) max_crashes: u32,
}

impl Setup {
    pub(super) fn new(path: &Path) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            path: path.to_owned(),
            lock_timeout: Duration::ZERO,
            max_wal_bytes: 64 << 20,
            max_remembered_ids: 1_000_000,
            duplicate_window: DAY * 7,
            max_dead_letters: 100_000,
            max_dead_letter_bytes: 256 << 20,
            keep_dead_letters: DAY * 30,
            max_crashes: 3,
        }
    }

    /// Opens the database on the thread that will own it, and starts delivery. Stops early if the inbox is dropped.
    pub(super) fn open(self, inner: &Weak<Inner>) -> Result<Writer, Error> {
        let path = path::resolve(&self.path)?;
        let alive = || inner.upgrade().ok_or_else(error::thread_ended);
        check_runtime(&*alive()?.executor.runtime)?;
        let wanted = || inner.strong_count() > 0;
        let lock = FileLock::acquire(&path, self.lock_timeout, wanted)?;
        let inner = alive()?;
        path::check_new(&path)?;
        let has_wal = beside(&path, "-wal").exists();
        let connection = store::open(&path)?;
        let clock = Arc::clone(&inner.clock);
        let mut database = Database::new(&path, connection, self.max_wal_bytes, clock, lock)?;
        let failing = |e| error::failing(&path, e);
        if let Some(old_path) = database.store.open_path().map_err(failing)?
            && !has_wal
        {
            path::check_wal(&path, &old_path)?;
        }
        let limits = DeadLetterLimits {
            letters: self.max_dead_letters,
            bytes: self.max_dead_letter_bytes,
            block_key: inner.executor.settings.block_key_on_dead_letter,
        };
        let policy = &inner.executor.settings.retry;
        let max_delay = millis(policy.longest_delay().max(DROPPED_DELAY));
        let schedule = schedule(&mut database, &path, limits, max_delay).map_err(failing)?;
        let totals = database.store.totals();
        inner.shared.update(|state| {
            state.stats.waiting = totals.events;
            state.stats.recovered = totals.events;
            state.stats.bytes = totals.event_bytes;
            state.stats.dead_letters = totals.dead_letters;
        });
        let concurrency = inner.executor.settings.inbox_concurrency();
        let loader = Loader::new(schedule, totals, concurrency, self.max_crashes, limits);
        let fingerprints = Arc::clone(&inner.fingerprints);
        let ids = MessageIds::new(fingerprints, self.max_remembered_ids, self.duplicate_window);
        let mut writer = Writer::new(
            database,
            loader,
            &inner,
            limits,
            self.keep_dead_letters,
            ids,
        );
        writer.start();
        Ok(writer)
    }
}

/// Counts the crashes of earlier processes, and returns the schedule of the events that they left.
fn schedule(
    database: &mut Database,
    path: &Path,
    limits: DeadLetterLimits,
    max_delay: u64,
) -> rusqlite::Result<Schedule> {
    database.transaction(|store| {
        store.set_open_path(Some(path))?;
        store.count_crashes()
    })?;
    // Moves the path from the log into the database file, so that a copy of this file alone shows that its log is
    // missing.
    database.store.truncate_wal();
    let last = database.store.totals().next_id.saturating_sub(1);
    let mut schedule = Schedule::new(last, max_delay);
    if limits.block_key {
        let blocked = database.store.blocked_keys()?;
        blocked.into_iter().for_each(|key| schedule.block(key));
    } else {
        database.transaction(Store::unblock_keys)?;
    }
    Ok(schedule)
}

/// Checks that the runtime can spawn from this thread. Otherwise accepted events would never run.
fn check_runtime(runtime: &dyn Runtime) -> Result<(), Error> {
    catch_panic(|| runtime.spawn(Box::pin(async {}))).map_err(|_| error::cannot_spawn())
}
