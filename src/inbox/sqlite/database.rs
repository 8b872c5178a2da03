use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::error::{self, Fault, is_conflict};
use super::file_identity::FileIdentity;
use super::file_lock::FileLock;
use super::health::Health;
use super::store::{Store, Totals};
use crate::error::Error;
use crate::runtime::Clock;

/// The approximate number of bytes written between two checkpoints.
const CHECKPOINT_BYTES: u64 = 16 << 20;

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
    wal: WalLimit,
    changes: Changes,
    /// Dropped last, because the database must be closed before the next owner opens it.
    _lock: FileLock,
}

/// The growth of the write-ahead log.
struct WalLimit {
    max_bytes: u64,
    /// The approximate number of bytes written since the last checkpoint.
    written: u64,
    /// The size of the log if the last checkpoint couldn't copy all of it, because a process was reading it. Otherwise
    /// 0.
    blocked_bytes: u64,
}

/// Detects changes that other connections make to the database.
struct Changes {
    /// SQLite's data version. A commit by another connection changes it.
    version: i64,
    /// When the version was last read, by the inbox's clock.
    checked_at: u64,
    /// Whether a recount of the rows is due.
    recount: bool,
}

impl Database {
    pub(super) fn new(
        path: &Path,
        connection: Connection,
        max_wal_bytes: u64,
        clock: Arc<Clock>,
        lock: FileLock,
    ) -> Result<Self, Error> {
        let mut store = Store::new(connection).map_err(|e| error::failing(path, e))?;
        let totals = store.totals();
        // In an inbox that never accepted an event, nothing depends on the clock.
        if totals.next_id > 1 {
            store.resume(clock.resume(totals.clock));
        }
        Ok(Self {
            path: path.to_owned(),
            health: Health::new(Arc::clone(&clock)),
            clock,
            files: FileIdentity::new(path),
            moved: false,
            wal: WalLimit {
                max_bytes: max_wal_bytes,
                written: 0,
                blocked_bytes: 0,
            },
            changes: Changes {
                version: store.data_version().unwrap_or_default(),
                checked_at: 0,
                recount: false,
            },
            store,
            _lock: lock,
        })
    }

    /// Runs `change` in a transaction. A successful transaction shows that a fault has passed.
    pub(super) fn transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Store) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let last = self.store.totals().clock;
        let changed = self.store.transaction(self.clock.read(last), change);
        if changed.is_err() {
            // If the log can't grow, SQLite restarts it once all of it has been copied.
            self.checkpoint();
        } else if self.is_writable() {
            self.health.recovered();
        }
        changed
    }

    /// Reports a failure of the database.
    pub(super) fn failed(&mut self, error: rusqlite::Error) {
        let fault = Fault::of(&error);
        self.changes.recount |= is_conflict(&error);
        self.health.report(error::failing(&self.path, error), fault);
    }

    /// Checks whether events can be stored now. The writer calls this once per turn.
    pub(super) fn is_available(&mut self) -> bool {
        if self.is_blocked() {
            self.checkpoint();
        }
        let moved = self.files.moved().map(error::moved);
        self.moved = moved.is_some();
        self.health.repeat();
        if let Some(error) = moved {
            self.store.truncate_wal();
            self.health.report(error, Fault::MOVED);
        } else if self.is_blocked() {
            self.health.report(error::wal_full(), Fault::WAL_FULL);
        } else if matches!(self.health.fault(), Some(Fault::MOVED | Fault::WAL_FULL)) {
            self.health.recovered();
        }
        self.is_writable()
    }

    fn is_writable(&self) -> bool {
        !self.moved && !self.is_blocked()
    }

    /// Returns whether the write-ahead log has reached its limit.
    pub(super) fn is_blocked(&self) -> bool {
        self.wal.blocked_bytes > 0 && self.wal.blocked_bytes >= self.wal.max_bytes
    }

    /// Counts the bytes written, and checkpoints the write-ahead log when it has grown enough.
    ///
    /// If a file was moved, this empties the log after each write. Otherwise, the content of a deleted log would be
    /// lost, or the next process would apply the old log to a new database.
    pub(super) fn count_written(&mut self) {
        let written = self.store.take_written();
        self.wal.written += written;
        if written == 0 {
            return;
        }
        if self.moved {
            self.store.truncate_wal();
        } else if self.wal.written >= CHECKPOINT_BYTES.min(self.wal.max_bytes / 2) {
            self.checkpoint();
        }
    }

    /// Maintains the database in an idle turn. Empties the write-ahead log, stores the inbox's clock every hour, and
    /// checks whether a fault has passed.
    pub(super) fn tidy(&mut self) {
        self.count_written();
        if self.wal.written > 0 || self.wal.blocked_bytes > 0 {
            self.checkpoint();
        }
        let last = self.store.totals().clock.now;
        let is_old = self.clock.now().saturating_sub(last) >= CLOCK_PERIOD;
        if is_old || self.health.fault().is_some() && self.is_writable() {
            let written = self.transaction(|_| Ok(()));
            written.unwrap_or_else(|error| self.failed(error));
        }
    }

    fn checkpoint(&mut self) {
        self.wal.written = 0;
        let Some(mut wal) = self.store.checkpoint() else {
            return;
        };
        // If there is always a reader, a checkpoint can finish but the log still grows, because SQLite restarts the log
        // only while no process is reading it.
        if wal.bytes >= self.wal.max_bytes / 2
            && let Some(truncated) = self.store.truncate_wal()
        {
            wal = truncated;
        }
        self.wal.blocked_bytes = if wal.done { 0 } else { wal.bytes };
    }

    /// Returns whether the writer should check the database again soon.
    pub(super) fn needs_attention(&self) -> bool {
        let wal = self.wal.blocked_bytes > 0 || self.wal.written > 0;
        wal || self.moved || self.health.fault().is_some() || self.changes.recount
    }

    /// Schedules a recount, because the file contains rows that this inbox didn't write.
    pub(super) fn needs_recount(&mut self) {
        self.changes.recount = true;
    }

    /// Recounts the rows if another connection changed them. Returns the totals from before the recount.
    pub(super) fn recount(&mut self) -> Option<Totals> {
        let (now, changes) = (self.clock.now(), &mut self.changes);
        if now.saturating_sub(changes.checked_at) >= CHECK_PERIOD {
            changes.checked_at = now;
            let version = self.store.data_version().unwrap_or(changes.version);
            changes.recount |= version != changes.version;
            changes.version = version;
        }
        if !std::mem::take(&mut changes.recount) {
            return None;
        }
        let before = self.store.totals();
        match self.transaction(Store::recount) {
            Ok(()) => Some(before),
            Err(error) => {
                self.changes.recount = true;
                self.failed(error);
                None
            }
        }
    }
}
