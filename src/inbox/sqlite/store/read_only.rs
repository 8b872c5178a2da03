//! Connections that change no file and leave no file behind.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Store;
use super::schema::{BUSY_TIMEOUT, NEWEST, Refusal, known_version};
use crate::error::Error;
use crate::inbox::sqlite::error::{not_read, old_schema, unusable};
use crate::inbox::sqlite::file_identity::{FileId, file_id};
use crate::inbox::sqlite::path::{beside, check_new};

/// How many times a file is read again, because a process opened or closed it in the meantime.
const MAX_READS: u32 = 100;

/// A connection to the database of an inbox, in a read transaction. All queries see the same moment.
pub(crate) struct Reader {
    pub(super) connection: Connection,
    /// The version of the schema.
    pub(crate) version: usize,
}

impl Reader {
    /// Returns the store of the database.
    ///
    /// # Errors
    ///
    /// Returns an error if the schema isn't the newest one.
    pub(crate) fn store(self, path: &Path) -> Result<Store, Error> {
        if self.version < NEWEST {
            return Err(old_schema(path, self.version, NEWEST));
        }
        Store::new(self.connection, 0).map_err(|error| not_read(path, error))
    }
}

/// How a connection reads the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// There is no write-ahead log, so no process has the file open. SQLite reads the database file alone.
    NoLog,
    /// No process has the file open, but there is a log, for example in a copy. SQLite keeps the index of the log in memory. Otherwise
    /// SQLite would create the file `-shm` and leave it behind.
    Alone,
    /// A process has the file open, or has crashed.
    Shared,
}

/// The state of the files. In a mode without locks, the state shows whether a process opened the file.
#[derive(PartialEq, Eq)]
struct Files {
    database: Option<(FileId, u64, Option<SystemTime>)>,
    has_wal: bool,
    has_shm: bool,
}

impl Files {
    fn at(path: &Path) -> Self {
        let database = fs::metadata(path).ok();
        Self {
            database: database.map(|file| (file_id(&file), file.len(), file.modified().ok())),
            has_wal: beside(path, "-wal").exists(),
            has_shm: beside(path, "-shm").exists(),
        }
    }

    fn mode(&self) -> Mode {
        match (self.has_wal, self.has_shm) {
            _ if !cfg!(unix) => Mode::Shared,
            (false, _) => Mode::NoLog,
            (true, false) => Mode::Alone,
            (true, true) => Mode::Shared,
        }
    }
}

/// Calls `read` with a connection to the database. If another process opens or closes the file in the meantime, may call `read` again.
///
/// # Errors
///
/// Returns an error if the file isn't an inbox, or if a newer version of this crate wrote it.
pub(crate) fn read<T>(
    path: &Path,
    mut read: impl FnMut(Reader) -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 0..MAX_READS {
        let before = Files::at(path);
        if before.database.is_none() {
            check_new(path)?;
            return Err(unusable(path, "the file doesn't exist"));
        }
        // SQLite would delete the log of an empty database.
        check_new(path)?;
        let mode = before.mode();
        let result = open(path, mode).and_then(&mut read);
        if mode == Mode::Shared || Files::at(path) == before {
            return result;
        }
    }
    let why = "other processes open and close it all the time: try again";
    Err(unusable(path, why))
}

fn open(path: &Path, mode: Mode) -> Result<Reader, Error> {
    // A connection to a shared file may write the file `-shm`, so a foreign database is refused before.
    if mode == Mode::Shared && cfg!(unix) {
        match connect(path, Mode::NoLog) {
            Err(Refusal::Failed(error)) if !is_foreign(&error) => {}
            Err(refusal) => return Err(refused(path, refusal)),
            Ok(_) => {}
        }
    }
    match connect(path, mode) {
        Ok(Reader { version: 0, .. }) => {
            Err(unusable(path, "it is empty: no inbox has opened it yet"))
        }
        Ok(reader) => Ok(reader),
        Err(refusal) => Err(refused(path, refusal)),
    }
}

fn is_foreign(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::NotADatabase)
}

fn refused(path: &Path, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Failed(error) => not_read(path, error),
        Refusal::Unusable(why) => unusable(path, &why),
    }
}

fn connect(path: &Path, mode: Mode) -> Result<Reader, Refusal> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match mode {
        Mode::NoLog => open_uri(path, "immutable=1", flags),
        Mode::Alone => open_uri(path, "vfs=unix-none", flags),
        Mode::Shared => Connection::open_with_flags(path, flags),
    }?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // The log stays as it is when this connection is the last one.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    if mode == Mode::Alone {
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE")?;
    }
    connection.execute_batch("BEGIN")?;
    let version = known_version(&connection)?;
    Ok(Reader {
        connection,
        version,
    })
}

fn open_uri(path: &Path, query: &str, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            _ if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            // Writing to a string never fails.
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    Connection::open_with_flags(format!("{uri}?{query}"), flags | OpenFlags::SQLITE_OPEN_URI)
}
