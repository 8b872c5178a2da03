use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::error::{self, Fault, is_conflict};
use super::file_identity::FileIdentity;
use super::file_lock::FileLock;
use super::store::{Store, Totals, Wal};
use crate::error::Error;
use crate::runtime::Clock;
use crate::telemetry;

/// How many bytes are written between two checkpoints.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// How often the inbox's clock is stored at least: an hour, in milliseconds.
const CLOCK_PERIOD: u64 = 60 * 60 * 1000;

/// How often a fault that lasts is reported again: every minute.
const REPORT_PERIOD: u64 = 60 * 1000;

/// How often changes by other connections are looked for: every second.
const CHECK_PERIOD: u64 = 1000;

/// A fault that was reported.
struct Report {
    fault: Fault,
    error: Error,
    /// By the inbox's clock.
    at: u64,
}

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
    fault: Option<Report>,
    /// The damage that was reported. It doesn't pass.
    damage: Option<Report>,
    /// The number by which SQLite tells that another connection has changed the database.
    data_version: i64,
    /// When it was read last.
    checked_at: u64,
    /// Whether the totals are to be counted anew.
    recount: bool,
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
            clock,
            moved: false,
            max_wal_bytes,
            written: 0,
            blocked_bytes: 0,
            fault: None,
            damage: None,
            data_version: store.data_version().unwrap_or_default(),
            checked_at: 0,
            recount: false,
            store,
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
            Ok(_) if self.fault.is_some() && !self.moved && !self.is_blocked() => self.recovered(),
            Ok(_) => {}
            Err(_) => {
                // A log that can't grow starts anew once all of it has been copied.
                self.checkpoint();
            }
        }
        changed
    }

    fn recovered(&mut self) {
        self.fault = None;
        telemetry::inbox_recovered();
    }

    /// Writes the inbox's clock while nothing else is written: once an hour, and to see whether a fault has passed.
    pub(super) fn keep_time(&mut self) {
        let last = self.store.totals().clock.now;
        let is_old = self.clock.now().saturating_sub(last) >= CLOCK_PERIOD;
        if (is_old || self.fault.is_some() && !self.moved && !self.is_blocked())
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
        self.repeat_reports();
        if let Some(error) = moved {
            self.store.truncate_wal();
            self.report(error, Fault::MOVED);
        } else if self.is_blocked() {
            self.report(error::wal_full(), Fault::WAL_FULL);
        } else if let Some(report) = &self.fault
            && [Fault::MOVED, Fault::WAL_FULL].contains(&report.fault)
        {
            self.recovered();
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
        self.blocked_bytes > 0
            || self.written > 0
            || self.fault.is_some()
            || self.moved
            || self.recount
    }

    /// Reports that the database fails.
    pub(super) fn failed(&mut self, error: rusqlite::Error) {
        let fault = Fault::of(&error);
        self.recount |= is_conflict(&error);
        let error = error::failing(&self.path, error);
        self.report(error, fault);
    }

    /// Reports a fault at first, and every minute while it lasts.
    fn report(&mut self, error: Error, fault: Fault) {
        let at = self.clock.now();
        let reported = if fault == Fault::CORRUPT {
            &mut self.damage
        } else {
            &mut self.fault
        };
        if let Some(last) = reported
            && last.fault == fault
            && at.saturating_sub(last.at) < REPORT_PERIOD
        {
            return;
        }
        if fault == Fault::CORRUPT {
            telemetry::inbox_corrupt(&error);
        } else {
            telemetry::inbox_failing(&error);
        }
        *reported = Some(Report { fault, error, at });
    }

    /// Repeats the reports of faults that last.
    fn repeat_reports(&mut self) {
        let reports = [&self.fault, &self.damage].map(|report| {
            let report = report.as_ref()?;
            Some((report.error.clone(), report.fault))
        });
        for (error, fault) in reports.into_iter().flatten() {
            self.report(error, fault);
        }
    }

    /// Returns why the inbox can't store or read events now.
    pub(super) fn problem(&self) -> Option<&Error> {
        let report = self.fault.as_ref().or(self.damage.as_ref());
        report.map(|report| &report.error)
    }

    /// Counts the rows again, soon: there are others than this inbox wrote.
    pub(super) fn needs_recount(&mut self) {
        self.recount = true;
    }

    /// Counts the rows again if another connection changed them. Returns the totals before that.
    pub(super) fn recount(&mut self) -> Option<Totals> {
        let now = self.clock.now();
        if now.saturating_sub(self.checked_at) >= CHECK_PERIOD {
            self.checked_at = now;
            let version = self.store.data_version().unwrap_or(self.data_version);
            self.recount |= version != self.data_version;
            self.data_version = version;
        }
        if !std::mem::take(&mut self.recount) {
            return None;
        }
        let before = self.store.totals();
        match self.transaction(Store::recount) {
            Ok(()) => Some(before),
            Err(error) => {
                self.recount = true;
                self.failed(error);
                None
            }
        }
    }
}
