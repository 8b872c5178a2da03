use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::pending;

use super::database::Database;
use super::error::{self, backup_failed, not_read, owned, read_only};
use super::file_lock::FileLock;
use super::lock_owner::owner;
use super::path::{self, beside};
use super::settings::Settings;
use super::store::{self, Reader, Store};
use super::{SqliteFileCheck, SqliteFileStats};
use crate::error::{Error, ErrorKind};
use crate::inbox::EventLog;
use crate::runtime::{BoxFuture, Clock, Runtime};

/// The file of a [`SqliteInbox`](crate::SqliteInbox), without its router: no event runs.
///
/// For tools that read a file while a process owns it, or that change a file while no process owns it. Inside the process that
/// owns the file, use [`Handle::events`](crate::Handle::events) to change it.
///
/// A file that isn't an inbox stays unchanged, and no file is created next to it. Every operation runs on its own thread, so a slow
/// disk doesn't block the caller's runtime.
///
/// # Examples
///
/// A nightly backup, inside or outside the process that owns the file:
///
/// ```no_run
/// use botisimo_webhooks::{Error, SqliteFile};
///
/// async fn back_up() -> Result<(), Error> {
///     let file = SqliteFile::open_read_only("inbox.db").await?;
///     file.backup("/backups/inbox.db", |_, _| ()).await
/// }
/// ```
#[derive(Clone)]
pub struct SqliteFile {
    inner: Arc<FileInner>,
}

/// The part of a file that its clones share.
pub(super) struct FileInner {
    /// The path without symbolic links.
    pub(super) path: PathBuf,
    /// Absent if the file is open for reading.
    locked: Option<Locked>,
}

/// A file that this process has locked.
struct Locked {
    database: Mutex<Database>,
    clock: Arc<Clock>,
}

impl Drop for Locked {
    fn drop(&mut self) {
        let database = self.database.get_mut();
        database.unwrap_or_else(PoisonError::into_inner).close();
    }
}

impl SqliteFile {
    /// Opens a file for reading. Neither locks nor changes the file, so a process may own the file.
    ///
    /// If the owner crashed, SQLite may rewrite the file `-shm`, which is only an index.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the file doesn't exist, isn't an inbox, can't be read, or was written
    /// by a newer version of this crate.
    pub async fn open_read_only(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = absolute(path.as_ref())?;
        on_thread(move |_| {
            let path = path::resolve(&path)?;
            store::read(&path, |_| Ok(()))?;
            Ok(Self::new(path, None))
        })
        .await
    }

    /// Locks a file that no process owns, so that events can be replayed and deleted. No inbox can open the file until this `SqliteFile`,
    /// its clones and their event logs are dropped.
    ///
    /// The next process that opens the file runs the replayed events and counts them as `recovered`.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Locked`](crate::ErrorKind::Locked) if a process owns the file. The message contains the process id, if the
    /// id is known.
    ///
    /// Returns [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) for the reasons that [`open_read_only`](Self::open_read_only) lists, if the
    /// file can't be written, or if its schema isn't the newest. Starting the service migrates the schema.
    pub async fn lock(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = absolute(path.as_ref())?;
        on_thread(move |_| {
            let path = path::resolve(&path)?;
            // A foreign file gets no lock file.
            let check = || store::read(&path, |reader| reader.store(&path).map(drop));
            check()?;
            let lock = FileLock::acquire(&path, Duration::ZERO, || true);
            let lock = lock.map_err(|error| match error.kind() {
                ErrorKind::Locked => owned(&path, owner(&path)),
                _ => error,
            })?;
            // The last owner may have been a newer version.
            check()?;
            let clock = Arc::new(clock());
            let max_wal_bytes = Settings::new(&path).max_wal_bytes;
            // A crash of the last owner counts when the next one starts.
            let database = Database::open(path.clone(), max_wal_bytes, &clock, lock, |_| Ok(()))?;
            let database = Mutex::new(database);
            Ok(Self::new(path, Some(Locked { database, clock })))
        })
        .await
    }

    fn new(path: PathBuf, locked: Option<Locked>) -> Self {
        let inner = FileInner { path, locked };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the absolute path of the file, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Returns the events of the file, to list them. If the file is [locked](Self::lock), also to replay and delete them.
    ///
    /// The file doesn't show which events run. Such an event is [`Waiting`](crate::EventState::Waiting), unless an earlier process
    /// accepted it. A replay can't check the name of the route in [`Replay::Only`](crate::Replay::Only), because no router is known.
    /// A replay is possible even if the inbox is full.
    ///
    /// # Errors
    ///
    /// The methods of the log return an error if the file's schema isn't the newest. The methods that change the file return an error
    /// if the file isn't locked.
    #[must_use]
    pub fn events(&self) -> EventLog {
        EventLog::new(Arc::clone(&self.inner) as _)
    }

    /// Deletes all handled and unhandled events that ended longer ago than `older_than`. Returns the number of deleted events.
    ///
    /// [`EventLog::prune`] deletes dead letters.
    ///
    /// # Errors
    ///
    /// Fails if the file isn't [locked](Self::lock), or if the database fails.
    pub async fn prune_handled(&self, older_than: Duration) -> Result<u64, Error> {
        let inner = Arc::clone(&self.inner);
        on_thread(move |_| inner.prune_handled(older_than)).await
    }

    /// Counts the events, and measures the file. Reads all events, so a large file takes seconds.
    ///
    /// # Errors
    ///
    /// Fails if the database fails.
    pub async fn stats(&self) -> Result<SqliteFileStats, Error> {
        let inner = Arc::clone(&self.inner);
        on_thread(move |_| inner.stats()).await
    }

    /// Checks the integrity of the database. Reads the whole file.
    ///
    /// # Errors
    ///
    /// Fails if the file can't be read at all.
    pub async fn check(&self) -> Result<SqliteFileCheck, Error> {
        let inner = Arc::clone(&self.inner);
        on_thread(move |_| store::read(&inner.path, |reader| Ok(reader.check()))).await
    }

    /// Copies the inbox to the new file `to`, and syncs the copy to disk. Calls `progress` after each step with the number of copied
    /// bytes and the number of all bytes.
    ///
    /// The copy is complete: it has every event that the inbox had accepted when the backup began. The owner of the file continues
    /// in the meantime, but its write-ahead log grows: see [`max_wal_bytes`](crate::SqliteInboxBuilder::max_wal_bytes). The
    /// copy has the permissions of the file, and appears under its name once it is complete.
    ///
    /// # Errors
    ///
    /// Fails if `to` exists, if the copy can't be written, or if the database fails.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the backup stops and deletes its file. If the process is killed, a file with the suffix `-partial` stays.
    pub async fn backup(
        &self,
        to: impl AsRef<Path>,
        mut progress: impl FnMut(u64, u64) + Send + 'static,
    ) -> Result<(), Error> {
        let inner = Arc::clone(&self.inner);
        let to = absolute(to.as_ref())?;
        on_thread(move |is_wanted| {
            inner.backup(&to, |done, all| {
                progress(done, all);
                is_wanted()
            })
        })
        .await
    }
}

impl FileInner {
    /// Reads the events with a store and the time by the inbox's clock.
    pub(super) fn read<T>(
        &self,
        mut read: impl FnMut(&Store, u64) -> Result<T, Error>,
    ) -> Result<T, Error> {
        store::read(&self.path, |reader| {
            let now = self.now(&reader)?;
            read(&reader.store(&self.path)?, now)
        })
    }

    /// Changes the file. `now` is the time by the inbox's clock.
    pub(super) fn change<T>(
        &self,
        change: impl FnOnce(&mut Database, u64) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let locked = self.locked.as_ref().ok_or_else(|| read_only(&self.path))?;
        let database = locked.database.lock();
        let mut database = database.unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut database, locked.clock.now());
        // No schedule waits for these keys: the next start reads them from the file.
        database.store.unblocked.clear();
        database.checkpoint();
        changed
    }

    /// Returns the time that the inbox's clock would show after a start.
    fn now(&self, reader: &Reader) -> Result<u64, Error> {
        match &self.locked {
            Some(locked) => Ok(locked.clock.now()),
            None => {
                let last = reader
                    .clock()
                    .map_err(|error| not_read(&self.path, error))?;
                Ok(clock().resume(last).now)
            }
        }
    }

    fn stats(&self) -> Result<SqliteFileStats, Error> {
        let mut stats = store::read(&self.path, |reader| {
            let now = self.now(&reader)?;
            reader
                .stats(now)
                .map_err(|error| not_read(&self.path, error))
        })?;
        stats.owner = owner(&self.path);
        stats.wal_bytes = fs::metadata(beside(&self.path, "-wal")).map_or(0, |wal| wal.len());
        Ok(stats)
    }

    fn backup(&self, to: &Path, mut progress: impl FnMut(u64, u64) -> bool) -> Result<(), Error> {
        let failed = |error: io::Error| backup_failed(to, error);
        if fs::symlink_metadata(to).is_ok() {
            return Err(error::backup(to, "the file exists"));
        }
        let partial = beside(to, "-partial");
        let file = create_new(&partial, &self.path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                let what = "its file with the suffix `-partial` exists: if no backup is running, delete this file";
                error::backup(to, what)
            }
            _ => failed(error),
        })?;
        let copied = store::read(&self.path, |reader| {
            file.set_len(0).map_err(failed)?;
            let page_size = reader
                .page_size()
                .map_err(|error| not_read(&self.path, error))?;
            let copied = store::back_up(&reader, &partial, |done, all| {
                progress(done * page_size, all * page_size)
            });
            match copied.map_err(|error| backup_failed(to, error))? {
                true => Ok(()),
                false => Err(error::backup(to, "it was canceled")),
            }
        });
        let published = copied.and_then(|()| {
            file.sync_all().map_err(failed)?;
            publish(&partial, to).map_err(failed)
        });
        if published.is_err() {
            let _ = fs::remove_file(&partial);
        }
        published
    }
}

impl fmt::Debug for SqliteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteFile")
            .field("path", &self.inner.path)
            .field("locked", &self.inner.locked.is_some())
            .finish()
    }
}

/// The clocks of a file whose events don't run.
struct Clocks;

impl Runtime for Clocks {
    fn spawn(&self, task: BoxFuture<()>) {
        drop(task);
    }

    fn sleep(&self, _: Duration) -> BoxFuture<()> {
        Box::pin(pending())
    }
}

fn clock() -> Clock {
    Clock::new(Arc::new(Clocks))
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path)
        .map_err(|error| error::caused(path, "the path can't be resolved", error))
}

/// Runs an operation on its own thread. The operation can ask whether its result is still wanted.
pub(super) async fn on_thread<T: Send + 'static>(
    operation: impl FnOnce(&dyn Fn() -> bool) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let (answer, answered) = oneshot::channel();
    let run = move || {
        let result = operation(&|| !answer.is_canceled());
        let _ = answer.send(result);
    };
    thread::Builder::new()
        .name("botisimo-file".to_owned())
        .spawn(run)
        .map_err(error::thread_not_started)?;
    answered
        .await
        .unwrap_or_else(|_| Err(error::thread_ended()))
}

/// Creates a file with the permissions of the file `like`.
fn create_new(path: &Path, like: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

        options.mode(fs::metadata(like)?.permissions().mode() & 0o777);
    }
    #[cfg(not(unix))]
    let _ = like;
    options.open(path)
}

/// Gives a complete file its name, and never replaces another file.
fn publish(partial: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(partial, path) {
        Ok(()) => fs::remove_file(partial)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
        // The file system has no hard links.
        Err(_) if fs::symlink_metadata(path).is_err() => fs::rename(partial, path)?,
        Err(error) => return Err(error),
    }
    #[cfg(unix)]
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()?;
    Ok(())
}
