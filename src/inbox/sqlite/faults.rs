//! What can be wrong with the store, in the user's words.

use std::path::Path;

use rusqlite::ErrorCode;

use super::file::caused;
use crate::error::Error;

/// What is said of a database that is damaged.
pub(super) const CORRUPT: &str = "the inbox is corrupt";

/// Says what is wrong with the store, in the user's words.
pub(super) fn failed(path: &Path, error: rusqlite::Error) -> (Error, &'static str) {
    let what = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk is full",
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process is writing to the inbox"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => CORRUPT,
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => "the inbox can't be written",
        Some(ErrorCode::SystemIoFailure) => "the disk fails",
        _ => "the inbox fails",
    };
    (caused(path, what, error), what)
}

/// Returns whether part of the database is damaged.
pub(super) fn is_corrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}
