use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::error::{self, Fault};
use super::file_identity::FileIdentity;
use super::file_lock::FileLock;
use super::store::{Store, Wal};
use crate::error::Error;
use crate::runtime::Clock;
use crate::telemetry;

/// How many bytes are written between two checkpoints.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// How often the inbox's clock is stored at least: an hour, in milliseconds.
const CLOCK_PERIOD: u64 = 60 * 60 * 1000;

/// The store, its files, and whether it works.
pub(super) struct Database {
    path: PathBuf,
    pub(super) store: Store,
    clock: Arc<Clock>,
    files: FileIdentity,
    /// Whether a file was deleted, moved or replaced.
    moved: bool,
    max_wal_bytes: u64,
    /// About how many bytes were written since the last checkpoint.
    written: u64,
    /// The size of a write-ahead log that the last checkpoint couldn't copy, because a process reads it.
    blocked_bytes: u64,
    /// The fault that was reported last and hasn't passed.
    fault: Option<Fault>,
    /// Whether damage was reported. Damage doesn't pass.
    corrupt: bool,
    /// Dropped last: the next owner must find the database closed.
    _lock: FileLock,
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
            files: FileIdentity::new(path),
            path: path.to_owned(),
            store,
            clock,
            moved: false,
            max_wal_bytes,
            written: 0,
            blocked_bytes: 0,
            fault: None,
            corrupt: false,
            _lock: lock,
        })
    }

    /// Runs `change` in a transaction, and reports if the database fails or has recovered.
    pub(super) fn transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Store) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let last = self.store.totals().clock;
        let changed = self.store.transaction(self.clock.read(last), change);
        match &changed {
            Ok(_) if self.fault.is_some() && !self.moved && !self.is_blocked() => {
                self.fault = None;
                telemetry::inbox_recovered();
            }
            Ok(_) => {}
            Err(_) => {
                // A log that can't grow starts anew once all of it has been copied.
                self.checkpoint();
            }
        }
        changed
    }

    /// Keeps the reading of the inbox's clock up to date while nothing is written.
    pub(super) fn keep_time(&mut self) {
        let last = self.store.totals().clock.now;
        if self.clock.now().saturating_sub(last) >= CLOCK_PERIOD
            && let Err(error) = self.transaction(|_| Ok(()))
        {
            self.failed(error);
        }
    }

    /// Checks whether events can be stored now. Called once a turn.
    pub(super) fn is_available(&mut self) -> bool {
        if self.is_blocked() {
            self.checkpoint();
        }
        let moved = self.files.moved().map(error::moved);
        self.moved = moved.is_some();
        if let Some(error) = moved {
            self.store.truncate_wal();
            self.report(&error, Fault::MOVED);
        } else if self.is_blocked() {
            self.report(&error::wal_full(), Fault::WAL_FULL);
        }
        !self.moved && !self.is_blocked()
    }

    /// Returns whether the write-ahead log has reached its limit.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_bytes > 0 && self.blocked_bytes >= self.max_wal_bytes
    }

    /// Counts what was written, and checkpoints the write-ahead log when it has grown enough.
    ///
    /// If a file was moved, the log never keeps anything. If the log itself was deleted, that saves its content. If the
    /// database was replaced, the next process would apply the old log to the new database.
    pub(super) fn count_written(&mut self) {
        let written = self.store.take_written();
        self.written += written;
        if self.moved && written > 0 {
            self.store.truncate_wal();
        } else if self.written >= CHECKPOINT_BYTES.min(self.max_wal_bytes / 2) && self.written > 0 {
            self.checkpoint();
        }
    }

    /// Checkpoints a write-ahead log that isn't empty.
    pub(super) fn tidy(&mut self) {
        if self.written > 0 || self.blocked_bytes > 0 {
            self.checkpoint();
        }
    }

    fn checkpoint(&mut self) {
        self.written = 0;
        let Some(mut wal) = self.store.checkpoint() else {
            return;
        };
        // Readers that follow one another let a checkpoint finish and the log still grow: it starts anew only while
        // nobody reads it.
        if wal.bytes >= self.max_wal_bytes / 2
            && let Some(truncated) = self.store.truncate_wal()
        {
            wal = truncated;
        }
        let Wal { bytes, done } = wal;
        self.blocked_bytes = if done { 0 } else { bytes };
    }

    /// Returns whether the writer should look at the database again soon.
    pub(super) fn needs_attention(&self) -> bool {
        self.blocked_bytes > 0 || self.written > 0 || self.fault.is_some() || self.moved
    }

    /// Reports that the database fails.
    pub(super) fn failed(&mut self, error: rusqlite::Error) {
        let fault = Fault::of(&error);
        let error = error::failing(&self.path, error);
        self.report(&error, fault);
    }

    /// Reports each fault once, until it passes or another one takes its place.
    fn report(&mut self, error: &Error, fault: Fault) {
        if fault == Fault::CORRUPT {
            if !std::mem::replace(&mut self.corrupt, true) {
                telemetry::inbox_corrupt(error);
            }
        } else if self.fault.replace(fault) != Some(fault) {
            telemetry::inbox_failing(error);
        }
    }
}
