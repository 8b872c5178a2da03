use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::{Connection, MAIN_DB, OpenFlags, TransactionBehavior};

use crate::error::Error;
use crate::inbox::sqlite::error::{not_opened, unusable};

/// Identifies a database of this crate: the bytes of `bwhk`.
const APPLICATION_ID: i32 = 0x6277_686B;

/// The migrations. Each migration updates the schema to the next version. Released migrations never change.
const MIGRATIONS: [&str; 5] = [
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
];

/// The newest version of the schema.
pub(crate) const NEWEST: usize = MIGRATIONS.len();

/// How long a transaction waits while another process writes to the file. The writer also waits, so this timeout is
/// well below the receiver's `response_timeout`.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// A database up to this size is checked when it is opened, in about 20 ms. In a larger database, SQLite finds damage
/// when it reads the damaged page.
const MAX_CHECKED_BYTES: i64 = 16 << 20;

/// Why a file doesn't open.
pub(super) enum Refusal {
    Failed(rusqlite::Error),
    Unusable(String),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<&str> for Refusal {
    fn from(why: &str) -> Self {
        Self::Unusable(why.to_owned())
    }
}

/// Opens the database of an inbox. Creates the database if the file is new or empty, and never changes a foreign file.
pub(crate) fn open(path: &Path) -> Result<Connection, Error> {
    try_open(path).map_err(|refusal| match refusal {
        Refusal::Failed(error) => not_opened(path, error),
        Refusal::Unusable(why) => unusable(path, &why),
    })
}

fn try_open(path: &Path) -> Result<Connection, Refusal> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Otherwise, closing the last connection to a foreign database would empty its write-ahead log. `keep` is a
    // closure, because `DbConfig` isn't `Copy` in rusqlite 0.30.
    let keep = || DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keep(), true)?;
    if connection.is_readonly(MAIN_DB)? {
        return Err("there is no permission to write the file".into());
    }
    let version = known_version(&connection)?;
    connection.set_db_config(keep(), false)?;
    if get::<String>(&connection, "PRAGMA journal_mode = WAL")? != "wal" {
        return Err("its file system doesn't support a write-ahead log: use a local disk".into());
    }
    // `FULL` syncs the log at each commit. The writer decides when to checkpoint.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;")?;
    migrate(&mut connection, version)?;
    let pages: i64 = get(&connection, "PRAGMA page_count")?;
    let page_size: i64 = get(&connection, "PRAGMA page_size")?;
    if pages.saturating_mul(page_size) <= MAX_CHECKED_BYTES
        && get::<String>(&connection, "PRAGMA quick_check(1)")? != "ok"
    {
        return Err("it is corrupt: `PRAGMA quick_check` shows the damage".into());
    }
    Ok(connection)
}

/// Returns the schema version of a database that this version of the crate knows, or 0 if the file is empty.
pub(super) fn known_version(connection: &Connection) -> Result<usize, Refusal> {
    let version = version(connection)?.ok_or("it is a database of another program")?;
    if version > NEWEST {
        return Err(Refusal::Unusable(format!(
            "a newer version of this crate wrote it (schema version {version}, this one knows up to {NEWEST})"
        )));
    }
    Ok(version)
}

/// Returns the schema version of a database of this crate, or 0 if the file is empty. Returns `None` for a foreign
/// database.
fn version(connection: &Connection) -> rusqlite::Result<Option<usize>> {
    let application: i32 = get(connection, "PRAGMA application_id")?;
    let version: i64 = get(connection, "PRAGMA user_version")?;
    let tables: i64 = get(connection, "SELECT count(*) FROM sqlite_schema")?;
    let is_new = application == 0 && version == 0 && tables == 0;
    let is_ours = application == APPLICATION_ID || is_new;
    Ok(usize::try_from(version).ok().filter(|_| is_ours))
}

fn migrate(connection: &mut Connection, from: usize) -> rusqlite::Result<()> {
    for (version, migration) in MIGRATIONS.iter().enumerate().skip(from) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", version as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

pub(super) fn get<T: FromSql>(connection: &Connection, sql: &str) -> rusqlite::Result<T> {
    connection.query_row(sql, [], |row| row.get(0))
}
