use std::time::Duration;

use super::Store;
use super::schema::BUSY_TIMEOUT;

/// The size of a page in the write-ahead log, with its header.
const FRAME_BYTES: u64 = 4096 + 24;

/// How long a truncating checkpoint waits for readers.
const TRUNCATE_TIMEOUT: Duration = Duration::from_millis(100);

/// The write-ahead log after a checkpoint.
pub(crate) struct Wal {
    pub(crate) bytes: u64,
    /// Whether the database contains the whole log.
    pub(crate) done: bool,
}

impl Store {
    /// Copies the write-ahead log into the database, up to the first frame that a reader needs. Returns `None` on
    /// failure. The log then stays unchanged, and the next commit reports the error.
    pub(crate) fn checkpoint(&self) -> Option<Wal> {
        self.wal("PRAGMA wal_checkpoint(PASSIVE)")
    }

    /// Copies the whole write-ahead log into the database and empties it, if no reader needs it.
    pub(crate) fn truncate_wal(&self) -> Option<Wal> {
        let _ = self.connection.busy_timeout(TRUNCATE_TIMEOUT);
        let wal = self.wal("PRAGMA wal_checkpoint(TRUNCATE)");
        let _ = self.connection.busy_timeout(BUSY_TIMEOUT);
        wal
    }

    fn wal(&self, checkpoint: &str) -> Option<Wal> {
        let wal = self.connection.query_row(checkpoint, [], |row| {
            let (busy, frames, done): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(Wal {
                bytes: u64::try_from(frames).unwrap_or(0) * FRAME_BYTES,
                done: busy == 0 && frames <= done,
            })
        });
        wal.ok()
    }
}
