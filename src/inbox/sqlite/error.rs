//! The errors of the inbox, its files and its database.

use std::borrow::Cow;
use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use crate::error::{BoxError, Error, ErrorKind};
use crate::inbox::AcceptError;

/// A fault of the database, worded for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault(&'static str);

impl Fault {
    pub(super) const CORRUPT: Self = Self("the inbox is corrupt");
    pub(super) const MOVED: Self = Self("a file of the inbox is gone");
    pub(super) const WAL_FULL: Self = Self("the write-ahead log is full");

    pub(super) fn of(error: &rusqlite::Error) -> Self {
        if let Some(
            ffi::SQLITE_IOERR_SHMOPEN
            | ffi::SQLITE_IOERR_SHMSIZE
            | ffi::SQLITE_IOERR_SHMLOCK
            | ffi::SQLITE_IOERR_SHMMAP,
        ) = error.sqlite_error().map(|error| error.extended_code)
        {
            return Self("its file system doesn't support a write-ahead log: use a local disk");
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self("the disk is full"),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                Self("another process is writing to the inbox")
            }
            Some(ErrorCode::DatabaseCorrupt) => Self::CORRUPT,
            Some(ErrorCode::NotADatabase) => Self("it isn't a SQLite database"),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                Self("the inbox can't be written: check the permissions of the file and its folder")
            }
            Some(ErrorCode::SystemIoFailure) => Self("the disk fails"),
            Some(ErrorCode::ConstraintViolation) => {
                Self("another process has written to the inbox")
            }
            _ => Self("the database fails"),
        }
    }
}

/// Returns whether a part of the database is damaged.
pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

/// Returns whether another process writes to the database.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked};

    matches!(
        error.sqlite_error_code(),
        Some(DatabaseBusy | DatabaseLocked)
    )
}

/// Returns whether a row that another process wrote conflicts with a new row.
pub(super) fn is_conflict(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation)
}

/// Returns the error of a database that is open.
pub(super) fn failing(path: &Path, error: rusqlite::Error) -> Error {
    caused(path, Fault::of(&error).0, error)
}

/// Returns the error of a database that SQLite can't open.
pub(super) fn not_opened(path: &Path, error: rusqlite::Error) -> Error {
    let text = format!("the inbox can't be opened: {}", Fault::of(&error).0);
    caused(path, &text, error)
}

/// Returns the error of a database that can't be read.
pub(super) fn not_read(path: &Path, error: rusqlite::Error) -> Error {
    use ErrorCode::{CannotOpen, PermissionDenied, ReadOnly};

    let text = match error.sqlite_error_code() {
        Some(CannotOpen | PermissionDenied | ReadOnly) => {
            "the inbox can't be read: check the permissions of the file and its folder".to_owned()
        }
        _ => format!("the inbox can't be read: {}", Fault::of(&error).0),
    };
    caused(path, &text, error)
}

/// Returns the error of a file that stays unchanged, because it is only open for reading.
pub(super) fn read_only(path: &Path) -> Error {
    let path = path.display();
    inbox(format!(
        "the inbox {path} is open for reading only: see `SqliteFile::lock`"
    ))
}

/// Returns the error of a file whose schema is older than the newest schema.
pub(super) fn old_schema(path: &Path, version: usize, newest: usize) -> Error {
    let path = path.display();
    inbox(format!(
        "an older version of this crate wrote the inbox {path} (schema version {version}, the newest is {newest}): \
         start the service with this version once, which migrates the file"
    ))
}

/// Returns the error of a backup. `what` describes the failed step.
pub(super) fn backup(to: &Path, what: &str) -> Error {
    let to = to.display();
    inbox(format!("the backup {to} can't be made: {what}"))
}

/// Returns the error of a backup, with its cause.
pub(super) fn backup_failed(to: &Path, error: impl Into<BoxError>) -> Error {
    caused(to, "the backup can't be made", error)
}

/// Returns the error of a file, with its cause.
pub(super) fn caused(path: &Path, what: &str, source: impl Into<BoxError>) -> Error {
    inbox_caused(format!("{what}: {}", path.display()), source)
}

/// Returns the error of a file that this inbox doesn't open, because of `why`.
pub(super) fn unusable(path: &Path, why: &str) -> Error {
    let path = path.display();
    inbox(format!("the inbox {path} can't be opened: {why}"))
}

/// Returns the error of a file that an inbox has locked. `owner` is the inbox's process, if known.
pub(super) fn locked(path: &Path, owner: Option<u32>) -> Error {
    let by = match owner {
        Some(process) if process == std::process::id() => "opened twice in this process".to_owned(),
        Some(process) => format!("locked by process {process}"),
        None => "locked by another process, or opened twice in this one".to_owned(),
    };
    let text = format!("the inbox {} is {by}: see `lock_timeout`", path.display());
    Error::new(ErrorKind::Locked, text)
}

/// Returns the error of a file that can't be changed, because a process runs its events.
pub(super) fn owned(path: &Path, owner: Option<u32>) -> Error {
    let by = match owner {
        Some(process) if process == std::process::id() => {
            "this process: use `Handle::events`".to_owned()
        }
        Some(process) => {
            format!("process {process}: use its inspector, or stop the process first")
        }
        None => "another process: use its inspector, or stop the process first".to_owned(),
    };
    let text = format!("the inbox {} is owned by {by}", path.display());
    Error::new(ErrorKind::Locked, text)
}

pub(super) fn moved(path: &Path) -> Error {
    let why =
        "was deleted, moved or replaced while the inbox had it open: events would be lost there";
    inbox(format!("{} {why}", path.display()))
}

pub(super) fn wal_full() -> Error {
    inbox(
        "the write-ahead log has reached `max_wal_bytes`, because a process has been reading the database for too long",
    )
}

/// Returns the error of a query that failed in the database.
pub(super) fn query_failed(error: rusqlite::Error) -> Error {
    inbox_caused("the inbox's database failed", error)
}

pub(super) fn not_replayed(error: AcceptError) -> Error {
    inbox_caused("the event can't be replayed now", error)
}

pub(super) fn runtime_missing(error: impl Into<BoxError>) -> Error {
    let text = "`open` needs a tokio runtime: call it in one, or pass a runtime to `open_with`";
    inbox_caused(text, error)
}

pub(super) fn cannot_spawn() -> Error {
    inbox(
        "the runtime can't spawn tasks from the inbox's thread: pass a runtime that holds a handle",
    )
}

pub(super) fn thread_not_started(error: std::io::Error) -> Error {
    inbox_caused("the inbox's thread can't be started", error)
}

pub(super) fn thread_ended() -> Error {
    inbox("the inbox's thread has ended")
}

fn inbox(text: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Inbox, text)
}

fn inbox_caused(text: impl Into<Cow<'static, str>>, source: impl Into<BoxError>) -> Error {
    Error::caused(ErrorKind::Inbox, text, source)
}
