use std::io;
use std::path::Path;

/// The lock on a database file.
///
/// SQLite's own locks belong to the process, and the operating system drops all of them when the process closes any
/// descriptor of the file. So the descriptor that holds this lock stays open while this process may have other
/// connections to the file.
#[derive(Debug)]
pub(super) struct DatabaseLock {
    #[cfg(target_os = "linux")]
    id: super::file_identity::FileId,
}

/// On other platforms, this lock does nothing, because a lock on the whole file would also lock out SQLite.
#[cfg(not(target_os = "linux"))]
impl DatabaseLock {
    pub(super) fn try_acquire(_: &Path) -> io::Result<Option<Self>> {
        Ok(Some(Self {}))
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;
    use std::fs::{self, File, OpenOptions};
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::{DatabaseLock, Path, io};
    use crate::inbox::sqlite::file_identity::{FileId, file_id};
    use crate::inbox::sqlite::file_lock::try_lock;

    /// The descriptors of database files that this process keeps open for a lock.
    static OPEN: Mutex<BTreeMap<FileId, Descriptor>> = Mutex::new(BTreeMap::new());

    struct Descriptor {
        file: File,
        locked: bool,
    }

    fn open() -> MutexGuard<'static, BTreeMap<FileId, Descriptor>> {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    impl DatabaseLock {
        /// Locks the database, and creates the file if it is new. Returns `None` if another inbox has locked the
        /// database.
        pub(in super::super) fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
            let mut open = open();
            if !path.exists() {
                let mut options = OpenOptions::new();
                let options = options.create(true).truncate(false).write(true);
                // The same mode that SQLite uses.
                options.mode(0o644);
                drop(options.open(path)?);
            }
            let id = file_id(&fs::metadata(path)?);
            let descriptor = match open.entry(id) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Descriptor {
                    file: open_file(path)?,
                    locked: false,
                }),
            };
            if descriptor.locked {
                return Ok(None);
            }
            let locked = try_lock(&descriptor.file);
            descriptor.locked = matches!(locked, Ok(true));
            if !descriptor.locked {
                close(&mut open, id);
            }
            // `then_some` would construct a lock even on failure, and drop it.
            Ok(locked?.then(|| Self { id }))
        }
    }

    impl Drop for DatabaseLock {
        fn drop(&mut self) {
            let mut open = open();
            if let Some(descriptor) = open.get_mut(&self.id) {
                let _ = descriptor.file.unlock();
                descriptor.locked = false;
            }
            close(&mut open, self.id);
        }
    }

    /// Opens a file for a lock. Also opens a file that can't be written, because SQLite reports that error.
    fn open_file(path: &Path) -> io::Result<File> {
        let written = OpenOptions::new().read(true).write(true).open(path);
        written.or_else(|_| File::open(path))
    }

    /// Closes a descriptor that holds no lock, unless this process has the file open elsewhere.
    fn close(open: &mut BTreeMap<FileId, Descriptor>, id: FileId) {
        let Ok(descriptors) = fs::read_dir("/proc/self/fd") else {
            return;
        };
        let of_file = descriptors.filter(|descriptor| {
            let path = descriptor.as_ref().map(fs::DirEntry::path);
            let file = path.ok().and_then(|path| fs::metadata(path).ok());
            file.is_some_and(|file| file_id(&file) == id)
        });
        if of_file.count() <= 1 {
            open.remove(&id);
        }
    }
}
