use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::database_lock::DatabaseLock;
use super::error::{caused, locked};
use super::file_identity::file_id;
use super::path::beside;
use crate::error::Error;

/// The time between two tries to lock a file.
const POLL: Duration = Duration::from_millis(50);

/// The locks that make this inbox the only owner of its file: one on a file next to the database, on all platforms, and
/// one on the database itself. The second lock also works if the database has another name or the lock file is deleted.
#[derive(Debug)]
pub(super) struct FileLock {
    /// Released first.
    _database: DatabaseLock,
    _beside: File,
}

impl FileLock {
    /// Locks the file of an inbox. If another inbox has locked the file, retries for up to `timeout`, as long as
    /// `wanted` returns true.
    pub(super) fn acquire(
        path: &Path,
        timeout: Duration,
        wanted: impl Fn() -> bool,
    ) -> Result<Self, Error> {
        let lock_path = beside(path, "-lock");
        let since = Instant::now();
        let mut file = None;
        loop {
            let lock = Self::try_acquire(path, &lock_path, &mut file);
            let lock = lock.map_err(|e| caused(&lock_path, "the inbox can't be locked", e))?;
            match lock {
                Some(lock) => return Ok(lock),
                None if since.elapsed() < timeout && wanted() => thread::sleep(POLL),
                None => return Err(locked(path)),
            }
        }
    }

    /// Returns `None` if another inbox has locked the file. Keeps the descriptor of the lock file in `file`.
    fn try_acquire(
        path: &Path,
        lock_path: &Path,
        file: &mut Option<File>,
    ) -> io::Result<Option<Self>> {
        let beside = match file.take() {
            Some(beside) => beside,
            None => {
                let mut options = OpenOptions::new();
                let options = options.create(true).truncate(false).write(true);
                options.open(lock_path)?
            }
        };
        if !try_lock(&beside)? {
            *file = Some(beside);
            return Ok(None);
        }
        // If the file was deleted in the meantime, other processes lock a new file.
        let here = lock_path.metadata().ok().map(|file| file_id(&file));
        if here != Some(file_id(&beside.metadata()?)) {
            return Ok(None);
        }
        let database = DatabaseLock::try_acquire(path)?;
        Ok(database.map(|database| Self {
            _database: database,
            _beside: beside,
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
