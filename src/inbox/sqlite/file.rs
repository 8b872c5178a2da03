use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind};

/// How often a lock that another process has is asked for again.
const POLL: Duration = Duration::from_millis(50);

/// The file of an inbox, and the lock beside it that makes this process its owner.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) path: PathBuf,
    /// Held as long as this is.
    _lock: File,
}

impl Owned {
    /// Becomes the owner of a file. Waits for up to `wait` while another process is, as long as
    /// `wanted` says so.
    pub(super) fn acquire(
        path: &Path,
        wait: Duration,
        wanted: impl Fn() -> bool,
    ) -> Result<Self, Error> {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder
            && !folder.is_dir()
        {
            return Err(fault(path, "its folder doesn't exist"));
        }
        if path.is_dir() {
            return Err(fault(path, "it is a folder"));
        }
        let beside = beside(path, "-lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&beside)
            .map_err(|error| caused(&beside, "the lock beside the inbox can't be opened", error))?;
        let since = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if since.elapsed() < wait && wanted() => {
                    thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    let text = format!(
                        "the inbox {} is open in another process, or a second time in this one",
                        path.display()
                    );
                    return Err(Error::new(ErrorKind::Locked, text));
                }
                Err(TryLockError::Error(error)) => {
                    return Err(caused(&beside, "the inbox can't be locked", error));
                }
            }
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }
}

/// Which file a path led to when it was opened. Whoever deletes it or puts another one in its place
/// takes all that is written from then on out of the next process's sight.
#[derive(Debug)]
pub(super) struct Identity {
    files: Vec<(PathBuf, Option<FileId>)>,
}

/// The numbers of a file's device and of the file on it.
type FileId = (u64, u64);

impl Identity {
    /// Returns that of the database and its log, both of which exist.
    pub(super) fn of(path: &Path) -> Self {
        let files = [path.to_owned(), beside(path, "-wal")];
        let with_id = |path: PathBuf| {
            let id = id(&path);
            (path, id)
        };
        Self {
            files: files.into_iter().map(with_id).collect(),
        }
    }

    /// Returns the file that is no longer where it was.
    pub(super) fn moved(&self) -> Option<&Path> {
        let mut files = self.files.iter();
        let moved = files.find(|(path, then)| then.is_some() && id(path) != *then);
        moved.map(|(path, _)| &**path)
    }
}

#[cfg(unix)]
fn id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;

    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Elsewhere a file that is open can't be deleted.
#[cfg(not(unix))]
fn id(path: &Path) -> Option<FileId> {
    fs::metadata(path).ok().map(|_| (0, 0))
}

/// Returns the path of a file that belongs to the inbox's: `inbox.db-lock`.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the error of an inbox's file.
pub(super) fn fault(path: &Path, why: &str) -> Error {
    let text = format!("the inbox {} can't be opened: {why}", path.display());
    Error::new(ErrorKind::Inbox, text)
}

/// Returns the error of an inbox's file, with what is below it.
pub(super) fn caused(
    path: &Path,
    why: &str,
    source: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    let text = format!("{why}: {}", path.display());
    Error::caused(ErrorKind::Inbox, text, source)
}
