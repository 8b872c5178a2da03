use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::error::{caused, locked, unusable};
use crate::error::Error;

/// How often a locked file is tried again.
const POLL: Duration = Duration::from_millis(50);

/// The lock that makes this inbox the only owner of its file.
#[derive(Debug)]
pub(super) struct FileLock {
    _lock: File,
}

impl FileLock {
    /// Locks the file of an inbox. While another inbox has locked it, waits for up to `timeout`, as long as `wanted`
    /// returns true.
    pub(super) fn acquire(
        path: &Path,
        timeout: Duration,
        wanted: impl Fn() -> bool,
    ) -> Result<Self, Error> {
        let folder = path.parent();
        let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) {
            return Err(unusable(path, "its folder doesn't exist"));
        }
        if path.is_dir() {
            return Err(unusable(path, "it is a folder"));
        }
        let lock_path = beside(path, "-lock");
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true);
        let lock = lock
            .open(&lock_path)
            .map_err(|error| caused(&lock_path, "the lock file can't be opened", error))?;
        let since = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { _lock: lock }),
                Err(TryLockError::WouldBlock) if since.elapsed() < timeout && wanted() => {
                    thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => return Err(locked(path)),
                Err(TryLockError::Error(error)) => {
                    return Err(caused(&lock_path, "the lock file can't be locked", error));
                }
            }
        }
    }
}

/// Returns the path of a file beside the database: `inbox.db-lock`.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}
