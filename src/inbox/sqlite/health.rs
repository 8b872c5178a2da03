use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::faults::CORRUPT;
use super::file::Identity;
use super::schema::BUSY;
use crate::error::{Error, ErrorKind};
use crate::telemetry;

/// How much is written between two checkpoints.
const CHECKPOINT: u64 = 16 << 20;

/// A page in the log, and what describes it there.
const FRAME: u64 = 4096 + 24;

/// How long a checkpoint waits for those who read the log.
const TRUNCATE: Duration = Duration::from_millis(100);

/// Whether the store takes events, as far as is known, and the bound of its log.
pub(super) struct Health {
    identity: Identity,
    /// How large the log may be.
    max_log: u64,
    /// About how much was written since the last checkpoint.
    written: u64,
    /// Bytes of the log that a checkpoint couldn't take over.
    blocked: u64,
    /// What was said last to be wrong.
    said: Option<&'static str>,
    /// Whether it was said that the inbox is corrupt.
    corrupt: bool,
}

impl Health {
    pub(super) fn new(path: &Path, max_log: u64) -> Self {
        Self {
            identity: Identity::of(path),
            max_log,
            written: 0,
            blocked: 0,
            said: None,
            corrupt: false,
        }
    }

    /// Returns why events can't be taken now, though the database would.
    pub(super) fn check(&self, connection: &Connection) -> Result<(), Error> {
        if let Some(path) = self.identity.moved() {
            empty_log(connection);
            let text = format!(
                "{} was deleted, moved or replaced while it was open: what is written now would be lost",
                path.display()
            );
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        if self.is_blocked() {
            let text = "the write-ahead log has reached its bound, because another process reads from the database and has done so for long";
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        Ok(())
    }

    /// Returns whether the log has reached its bound.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked > 0 && self.blocked >= self.max_log
    }

    /// Takes in how much was written, and checkpoints the log when it is time.
    pub(super) fn committed(&mut self, bytes: u64, connection: &Connection) {
        if self.identity.moved().is_some() {
            empty_log(connection);
        }
        self.written += bytes;
        if self.written >= CHECKPOINT.min(self.max_log / 2) {
            self.checkpoint(connection);
        }
    }

    /// Moves what is in the log to the database, as far as no reader needs it in the log.
    pub(super) fn checkpoint(&mut self, connection: &Connection) {
        self.written = 0;
        // One that fails leaves the log as it is, and the next commit will say what is wrong.
        let Ok(mut log) = run(connection, "PRAGMA wal_checkpoint(PASSIVE)") else {
            return;
        };
        // Readers that come one after another never keep a checkpoint from its end, and still have the
        // log grow: it begins anew only once nobody reads it.
        if log.bytes >= self.max_log / 2
            && let Some(truncated) = empty_log(connection)
        {
            log = truncated;
        }
        self.blocked = if log.done { 0 } else { log.bytes };
    }

    /// Returns whether something is to be tried again soon.
    pub(super) fn is_uneasy(&self) -> bool {
        self.blocked > 0 || self.written > 0 || self.said.is_some()
    }

    /// Says what is wrong, once for each new thing.
    pub(super) fn say(&mut self, error: &Error, what: &'static str) {
        if what == CORRUPT {
            // It doesn't pass, whatever else can be read and written.
            if !std::mem::replace(&mut self.corrupt, true) {
                telemetry::inbox_corrupt(error);
            }
        } else if self.said.replace(what) != Some(what) {
            telemetry::inbox_failing(error);
        }
    }

    /// Says that nothing is wrong any more.
    pub(super) fn well(&mut self, connection: &Connection) {
        if self.said.is_some() && self.check(connection).is_ok() {
            self.said = None;
            telemetry::inbox_recovered();
        }
    }
}

/// The log after a checkpoint.
struct Log {
    bytes: u64,
    /// Whether all of it is in the database.
    done: bool,
}

/// Moves what is in the log to the database and cuts it to nothing, if its readers let that be.
///
/// Where one of the two files has been moved it is what saves the other: from a log that isn't there
/// any more the next process would learn nothing, and that of the old file it would take for one of
/// the file that is in its place.
fn empty_log(connection: &Connection) -> Option<Log> {
    let _ = connection.busy_timeout(TRUNCATE);
    let log = run(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    let _ = connection.busy_timeout(BUSY);
    log.ok()
}

fn run(connection: &Connection, checkpoint: &str) -> rusqlite::Result<Log> {
    connection.query_row(checkpoint, [], |row| {
        let (busy, frames, done): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Log {
            bytes: u64::try_from(frames).unwrap_or(0) * FRAME,
            done: busy == 0 && frames <= done,
        })
    })
}
