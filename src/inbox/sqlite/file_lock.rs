use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::database_lock::DatabaseLock;
use super::error::{caused, locked};
use super::file_identity::{file_id, id_at};
use super::lock_owner::{owner, write_owner};
use super::path::beside;
use crate::error::Error;

/// The time between two tries to lock a file.
const POLL: Duration = Duration::from_millis(50);

/// The locks that make this inbox the only owner of its file: one on a file next to the database, on all platforms, and
/// one on the database itself. The second lock also works if the database has another name or the lock file is deleted.
#[derive(Debug)]
pub(super) struct FileLock {
    /// Released first. `None` except on Linux: on other platforms, a lock on the whole file would also lock out SQLite.
    _database: Option<DatabaseLock>,
    beside: File,
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Removes the process id.
        let _ = self.beside.set_len(0);
    }
}

impl FileLock {
    /// Locks the file of an inbox. If another inbox has locked the file, retries for up to `timeout`, while `wanted`
    /// returns true.
    pub(super) fn acquire(
        path: &Path,
        timeout: Duration,
        wanted: impl Fn() -> bool,
    ) -> Result<Self, Error> {
        let (lock_path, since) = (beside(path, "-lock"), Instant::now());
        loop {
            let lock = Self::try_acquire(path, &lock_path);
            let lock = lock.map_err(|e| caused(&lock_path, "the inbox can't be locked", e))?;
            match lock {
                Some(lock) => return Ok(lock),
                None if since.elapsed() < timeout && wanted() => thread::sleep(POLL),
                None => return Err(locked(path, owner(path))),
            }
        }
    }

    /// Returns `None` if another inbox has locked the file.
    fn try_acquire(path: &Path, lock_path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true);
        let beside = options.open(lock_path)?;
        // If the file was deleted in the meantime, other processes lock a new file.
        if !try_lock(&beside)? || id_at(lock_path) != Some(file_id(&beside.metadata()?)) {
            return Ok(None);
        }
        let mut database = None;
        if cfg!(target_os = "linux") {
            database = DatabaseLock::try_acquire(path)?;
            if database.is_none() {
                return Ok(None);
            }
        }
        write_owner(&beside);
        Ok(Some(Self {
            _database: database,
            beside,
        }))
    }
}

/// Locks a file. Returns false if another descriptor has locked the file.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}
