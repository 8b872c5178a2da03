use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::file_identity::{FileId, file_id, id_at};
use super::file_lock::try_lock;

/// The descriptors that hold no lock, and that stay open because this process may have other connections to their files.
static KEPT: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// The lock on a database file.
///
/// SQLite's own locks belong to the process, and the operating system drops all of them when the process closes any
/// descriptor of the file. So the descriptor that holds this lock stays open while this process may have other
/// connections to the file.
#[derive(Debug)]
pub(super) struct DatabaseLock {
    /// Taken when the lock is dropped.
    file: Option<File>,
}

impl DatabaseLock {
    /// Locks the database, and creates the file if it is new. Returns `None` if another inbox has locked the database.
    pub(super) fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        let file = open(path)?;
        let locked = try_lock(&file);
        if matches!(locked, Ok(true)) {
            return Ok(Some(Self { file: Some(file) }));
        }
        close(file);
        locked.map(|_| None)
    }
}

impl Drop for DatabaseLock {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let _ = file.unlock();
            close(file);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(id) = id_at(path)
        && let Some(index) = kept.iter().position(|file| is_same(&file.metadata(), id))
    {
        return Ok(kept.swap_remove(index));
    }
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).read(true).write(true);
    // The same mode that SQLite uses.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
    // If the process may only read the file, opens the file for reading: SQLite then reports the error.
    let file = options.open(path);
    file.or_else(|error| File::open(path).map_err(|_| error))
}

/// Closes a descriptor that holds no lock, unless this process has the file open elsewhere.
fn close(file: File) {
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    let id = file.metadata().map(|file| file_id(&file));
    kept.push(file);
    let (Ok(id), Ok(descriptors)) = (id, fs::read_dir("/proc/self/fd")) else {
        return;
    };
    let open = descriptors
        .flatten()
        .map(|descriptor| fs::metadata(descriptor.path()));
    let open = open.filter(|file| is_same(file, id)).count();
    let ours = kept
        .iter()
        .filter(|file| is_same(&file.metadata(), id))
        .count();
    if open <= ours {
        kept.retain(|file| !is_same(&file.metadata(), id));
    }
}

fn is_same(file: &io::Result<fs::Metadata>, id: FileId) -> bool {
    file.as_ref().is_ok_and(|file| file_id(file) == id)
}
