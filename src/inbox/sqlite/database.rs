use std::path::PathBuf;
use std::sync::Arc;

use super::error::{self, Fault, is_conflict};
use super::file_identity::FileIdentity;
use super::file_lock::FileLock;
use super::health::Health;
use super::path::{self, beside};
use super::store::{self, Store, Totals};
use crate::error::Error;
use crate::runtime::Clock;

/// The maximum time between two writes of the inbox's clock: an hour, in milliseconds.
const CLOCK_PERIOD: u64 = 60 * 60 * 1000;

/// The time between two checks for changes by other connections: a second.
const CHECK_PERIOD: u64 = 1000;

/// The store, its files, and its health.
pub(super) struct Database {
    path: PathBuf,
    pub(super) store: Store,
    clock: Arc<Clock>,
    pub(super) health: Health,
    files: FileIdentity,
    /// Whether a file was deleted, moved or replaced.
    moved: bool,
    /// When the store was last checked for changes by other connections, by the inbox's clock.
    checked_at: u64,
    /// Whether a recount of the rows is due.
    recount: bool,
    /// Dropped last, because the database must be closed before the next owner opens it.
    _lock: FileLock,
}

impl Database {
    /// Opens the locked file, and runs `prepare` in the first transaction.
    pub(super) fn open(
        path: PathBuf,
        max_wal_bytes: u64,
        clock: &Arc<Clock>,
        lock: FileLock,
        prepare: impl FnOnce(&mut Store) -> rusqlite::Result<()>,
    ) -> Result<Self, Error> {
        path::check_new(&path)?;
        let has_wal = beside(&path, "-wal").exists();
        let connection = store::open(&path)?;
        let failing = |error| error::failing(&path, error);
        let mut store = Store::new(connection, max_wal_bytes).map_err(failing)?;
        // In an inbox that never accepted an event, nothing depends on the clock.
        if store.totals.next_id > 1 {
            store.totals.clock = clock.resume(store.totals.clock);
        }
        if let Some(old_path) = store.open_path().map_err(failing)?
            && !has_wal
        {
            path::check_wal(&path, &old_path)?;
        }
        let now = clock.read(store.totals.clock);
        let opened = store.transaction(now, |store| {
            store.set_open_path(Some(&path))?;
            prepare(store)
        });
        opened.map_err(failing)?;
        // Moves the path from the log into the database file, so that a copy of this file alone shows that its log is
        // missing.
        store.truncate_wal();
        Ok(Self {
            files: FileIdentity::new(&path),
            path,
            store,
            clock: Arc::clone(clock),
            health: Health::default(),
            moved: false,
            checked_at: 0,
            recount: false,
            _lock: lock,
        })
    }

    /// Records that the file was closed, so a copy of the database file alone is complete.
    pub(super) fn close(&mut self) {
        self.try_transaction(|store| store.set_open_path(None));
    }

    /// Runs `change` in a transaction. A successful transaction shows that a fault has passed.
    pub(super) fn transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Store) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let last = self.store.totals.clock;
        let changed = self.store.transaction(self.clock.read(last), change);
        if changed.is_err() {
            // If the log can't grow, SQLite restarts the log once a checkpoint has copied the whole log.
            self.store.checkpoint();
        } else if self.is_writable() {
            self.health.recovered();
        }
        changed
    }

    /// Runs `change` in a transaction, and reports a failure.
    pub(super) fn try_transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Store) -> rusqlite::Result<T>,
    ) -> Option<T> {
        let changed = self.transaction(change);
        changed.map_err(|error| self.failed(error)).ok()
    }

    /// Reports a failure of the database.
    pub(super) fn failed(&mut self, error: rusqlite::Error) {
        let fault = Fault::of(&error);
        self.recount |= is_conflict(&error);
        let error = error::failing(&self.path, error);
        self.health.report(fault, error, self.clock.now());
    }

    /// Returns whether the inbox can store events now, and updates the health. The writer calls this method once per turn.
    pub(super) fn is_available(&mut self) -> bool {
        if self.store.is_blocked() {
            self.store.checkpoint();
        }
        let (now, moved) = (self.clock.now(), self.files.moved().map(error::moved));
        self.moved = moved.is_some();
        self.health.repeat(now);
        if let Some(error) = moved {
            self.store.truncate_wal();
            self.health.report(Fault::MOVED, error, now);
        } else if self.store.is_blocked() {
            self.health.report(Fault::WAL_FULL, error::wal_full(), now);
        } else if matches!(self.health.fault(), Some(Fault::MOVED | Fault::WAL_FULL)) {
            self.health.recovered();
        }
        self.is_writable()
    }

    fn is_writable(&self) -> bool {
        !self.moved && !self.store.is_blocked()
    }

    /// Checkpoints the write-ahead log when it has grown enough.
    ///
    /// If a file was moved, this method empties the log after each write. Otherwise, the content of a deleted log would be
    /// lost, or the next process would apply the old log to a new database.
    pub(super) fn checkpoint(&mut self) {
        if !self.moved {
            self.store.checkpoint_if_due();
        } else if self.store.needs_checkpoint() {
            self.store.truncate_wal();
        }
    }

    /// Maintains the database in an idle turn. Empties the write-ahead log, stores the inbox's clock every hour, and
    /// checks whether a fault has passed.
    pub(super) fn tidy(&mut self) {
        if self.store.needs_checkpoint() {
            self.store.checkpoint();
        }
        let last = self.store.totals.clock.now;
        let is_old = self.clock.now().saturating_sub(last) >= CLOCK_PERIOD;
        if is_old || self.health.fault().is_some() && self.is_writable() {
            self.try_transaction(|_| Ok(()));
        }
    }

    /// Returns whether the writer should check the database again soon.
    pub(super) fn needs_attention(&self) -> bool {
        let fault = self.health.fault().is_some();
        self.store.needs_checkpoint() || self.moved || fault || self.recount
    }

    /// Schedules a recount, because the file contains rows that this inbox didn't write.
    pub(super) fn needs_recount(&mut self) {
        self.recount = true;
    }

    /// Recounts the rows if another connection changed them. Returns the totals from before the recount.
    pub(super) fn recount(&mut self) -> Option<Totals> {
        let now = self.clock.now();
        if now.saturating_sub(self.checked_at) >= CHECK_PERIOD {
            self.checked_at = now;
            self.recount |= self.store.was_changed();
        }
        if !std::mem::take(&mut self.recount) {
            return None;
        }
        let before = self.store.totals;
        self.recount = self.try_transaction(Store::recount).is_none();
        (!self.recount).then_some(before)
    }
}
