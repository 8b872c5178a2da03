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

/// How many bytes are written between two checkpoints.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// How often the inbox's clock is stored at least: an hour, in milliseconds.
const CLOCK_PERIOD: u64 = 60 * 60 * 1000;

/// How often changes by other connections are looked for: every second.
const CHECK_PERIOD: u64 = 1000;

/// The store, its files, and whether it works.
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
    /// Dropped last: the next owner must find the database closed.
    _lock: FileLock,
}

/// The growth of the write-ahead log.
struct WalLimit {
    max_bytes: u64,
    /// About how many bytes were written since the last checkpoint.
    written: u64,
    /// The size of a log that the last checkpoint couldn't copy, because a process reads it.
    blocked_bytes: u64,
}

/// The changes of the database by other connections.
struct Changes {
    /// The number by which SQLite tells them.
    version: i64,
    /// When it was read last, by the inbox's clock.
    checked_at: u64,
    /// Whether the rows must be counted again.
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
        // In an inbox that never accepted an event, nothing goes by the clock.
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

    /// Runs `change` in a transaction. If it succeeds, a fault has passed.
    pub(super) fn transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Store) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let last = self.store.totals().clock;
        let changed = self.store.transaction(self.clock.read(last), change);
        if changed.is_err() {
            // A log that can't grow starts anew once all of it has been copied.
            self.checkpoint();
        } else if self.is_writable() {
            self.health.recovered();
        }
        changed
    }

    /// Reports that the database fails.
    pub(super) fn failed(&mut self, error: rusqlite::Error) {
        let fault = Fault::of(&error);
        self.changes.recount |= is_conflict(&error);
        self.health.report(error::failing(&self.path, error), fault);
    }

    /// Checks whether events can be stored now. Called once a turn.
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

    /// Counts what was written, and checkpoints the write-ahead log when it has grown enough.
    ///
    /// If a file was moved, the log never keeps anything. If the log itself was deleted, that saves its content. If the
    /// database was replaced, the next process would apply the old log to the new database.
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

    /// Does what waits for an idle turn: empties the write-ahead log, writes the inbox's clock once an hour, and sees whether a
    /// fault has passed.
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
        // Readers that follow one another let a checkpoint finish and the log still grow: it starts anew only while
        // no process reads it.
        if wal.bytes >= self.wal.max_bytes / 2
            && let Some(truncated) = self.store.truncate_wal()
        {
            wal = truncated;
        }
        self.wal.blocked_bytes = if wal.done { 0 } else { wal.bytes };
    }

    /// Returns whether the writer should look at the database again soon.
    pub(super) fn needs_attention(&self) -> bool {
        let wal = self.wal.blocked_bytes > 0 || self.wal.written > 0;
        wal || self.moved || self.health.fault().is_some() || self.changes.recount
    }

    /// Has the rows counted again soon, because other rows are there than this inbox wrote.
    pub(super) fn needs_recount(&mut self) {
        self.changes.recount = true;
    }

    /// Counts the rows again if another connection changed them. Returns the totals before that.
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
