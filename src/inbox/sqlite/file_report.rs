use std::time::SystemTime;

/// The counts and sizes of an inbox's file. [`SqliteFile::stats`](crate::SqliteFile::stats) returns them.
///
/// A process that owns the file knows more: see [`Handle::stats`](crate::Handle::stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteFileStats {
    /// The version of the file's schema.
    pub schema_version: u32,
    /// The version to which the next start migrates the file.
    pub newest_schema_version: u32,
    /// The process that owns the file, if known. `None` if no process owns the file, if an earlier version of this crate or another
    /// container owns it, or if this user may not know. On platforms other than Linux, the process may have crashed.
    pub owner: Option<u32>,
    /// The events that wait for an attempt. The file doesn't show which of them run, except the events that an earlier
    /// process accepted.
    pub waiting: u64,
    /// The events that an earlier process accepted, and that are running, or were running when the owner crashed.
    pub running: u64,
    /// The events that wait for a retry.
    pub retrying: u64,
    /// The dead letters.
    pub dead_letters: u64,
    /// The handled events that the file keeps.
    pub handled: u64,
    /// The unhandled events that the file keeps.
    pub unhandled: u64,
    /// The remembered message ids.
    pub message_ids: u64,
    /// The total size of the bodies of the events in flight, in bytes.
    pub event_bytes: u64,
    /// The total size of the bodies of the dead letters, in bytes.
    pub dead_letter_bytes: u64,
    /// The total size of the bodies of the handled and unhandled events, in bytes.
    pub handled_bytes: u64,
    /// The events that run one at a time after the next start, because they were running when a process crashed. While a process
    /// owns the file, its running events count too.
    pub poison_candidates: u64,
    /// The ordering keys that dead letters block.
    pub blocked_keys: u64,
    /// When the oldest event in flight was received.
    pub oldest_event: Option<SystemTime>,
    /// When the oldest dead letter was dead-lettered.
    pub oldest_dead_letter: Option<SystemTime>,
    /// The size of the database in bytes.
    pub file_bytes: u64,
    /// The part of the database that SQLite will use again, in bytes.
    pub free_bytes: u64,
    /// The size of the write-ahead log in bytes.
    pub wal_bytes: u64,
}

impl SqliteFileStats {
    /// Returns the number of events in flight, which the next start recovers.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.waiting + self.running + self.retrying
    }
}

/// The result of [`SqliteFile::check`](crate::SqliteFile::check).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteFileCheck {
    /// The damage that SQLite found, at most 100 messages. Empty if the database is intact.
    pub damage: Vec<String>,
    /// Whether the stored counts are right. Otherwise, the next start counts the rows again, which loses nothing.
    pub counts_match: bool,
    /// The size of each table with its indexes in bytes, largest first.
    pub table_bytes: Vec<(String, u64)>,
}
