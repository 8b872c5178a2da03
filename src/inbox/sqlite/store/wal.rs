use std::time::Duration;

use super::Store;
use super::schema::BUSY_TIMEOUT;

/// The size of a page in the write-ahead log, with its header.
const FRAME_BYTES: u64 = 4096 + 24;

/// The approximate number of bytes written between two checkpoints.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// How long a truncating checkpoint waits for readers.
const TRUNCATE_TIMEOUT: Duration = Duration::from_millis(100);

/// The growth of the write-ahead log.
#[derive(Debug, Default)]
pub(super) struct Wal {
    max_bytes: u64,
    /// The approximate number of bytes written since the last checkpoint.
    written: u64,
    /// The size of the log if the last checkpoint couldn't copy all of it, because a process was reading it. Otherwise
    /// 0.
    blocked_bytes: u64,
}

impl Wal {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            ..Self::default()
        }
    }

    /// Counts a body of `size` bytes as written. SQLite writes whole pages, and most pages hold several bodies.
    pub(super) fn wrote(&mut self, size: u64) {
        self.written += size * 3 / 2;
    }

    /// Counts a commit, which writes a few pages in addition to the pages of the bodies.
    pub(super) fn committed(&mut self) {
        self.written += 5 * 4096;
    }
}

impl Store {
    /// Returns whether the write-ahead log has reached its limit.
    pub(crate) fn is_blocked(&self) -> bool {
        self.wal.blocked_bytes > 0 && self.wal.blocked_bytes >= self.wal.max_bytes
    }

    /// Returns whether the write-ahead log contains pages that the next checkpoint may copy.
    pub(crate) fn needs_checkpoint(&self) -> bool {
        self.wal.written > 0 || self.wal.blocked_bytes > 0
    }

    /// Copies the write-ahead log into the database if the log has grown enough.
    pub(crate) fn checkpoint_if_due(&mut self) {
        if self.wal.written >= CHECKPOINT_BYTES.min(self.wal.max_bytes / 2) && self.wal.written > 0
        {
            self.checkpoint();
        }
    }

    /// Copies the write-ahead log into the database, up to the first frame that a reader needs. After a failure, the log
    /// is unchanged, and the next commit reports the error.
    pub(crate) fn checkpoint(&mut self) {
        // If there is always a reader, a checkpoint can finish but the log still grows, because SQLite restarts the log
        // only while no process is reading it.
        if let Some(bytes) = self.run_checkpoint("PRAGMA wal_checkpoint(PASSIVE)")
            && bytes >= self.wal.max_bytes / 2
        {
            self.truncate_wal();
        }
    }

    /// Copies the whole write-ahead log into the database and empties it, if no reader needs it.
    pub(crate) fn truncate_wal(&mut self) {
        let _ = self.connection.busy_timeout(TRUNCATE_TIMEOUT);
        self.run_checkpoint("PRAGMA wal_checkpoint(TRUNCATE)");
        let _ = self.connection.busy_timeout(BUSY_TIMEOUT);
    }

    /// Runs a checkpoint, and returns the size of the log in bytes.
    fn run_checkpoint(&mut self, checkpoint: &str) -> Option<u64> {
        self.wal.written = 0;
        let wal = self.connection.query_row(checkpoint, [], |row| {
            let (busy, frames, done): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let bytes = u64::try_from(frames).unwrap_or(0) * FRAME_BYTES;
            Ok((bytes, busy == 0 && frames <= done))
        });
        let (bytes, done) = wal.ok()?;
        self.wal.blocked_bytes = if done { 0 } else { bytes };
        Some(bytes)
    }
}
