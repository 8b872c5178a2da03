use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags, TransactionBehavior};

use crate::error::Error;
use crate::inbox::sqlite::error::{not_opened, unusable};

/// Identifies a database of this crate: the bytes of `bwhk`.
const APPLICATION_ID: i32 = 0x6277_686B;

/// The migrations. Each migration updates the schema to the next version. Released migrations never change.
const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

/// How long a transaction waits while another process writes to the file. The writer also waits, so this timeout is
/// well below the receiver's `response_timeout`.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// A database up to this size is checked when it is opened, in about 20 ms. In a larger database, SQLite finds damage
/// when it reads the damaged page.
const MAX_CHECKED_BYTES: i64 = 16 << 20;

/// Opens the database of an inbox. Creates the database if the file is new or empty, and never changes a foreign file.
pub(crate) fn open(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |error| not_opened(path, error);
    let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(explain)?;
    // Otherwise, closing the last connection to a foreign database would empty its write-ahead log. `keep` is a
    // closure, because `DbConfig` isn't `Copy` in rusqlite 0.30.
    let keep = || DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keep(), true).map_err(explain)?;
    if connection.is_readonly(MAIN_DB).map_err(explain)? {
        return Err(unusable(path, "there is no permission to write the file"));
    }
    let version = version(&connection).map_err(explain)?;
    match version {
        Contents::Foreign => {
            return Err(unusable(path, "it is a database of another program"));
        }
        Contents::Ours(version) if version > MIGRATIONS.len() => {
            let newest = MIGRATIONS.len();
            let why = format!(
                "a newer version of this crate wrote it (schema version {version}, this one knows up to {newest})"
            );
            return Err(unusable(path, &why));
        }
        Contents::Ours(version) => {
            connection.set_db_config(keep(), false).map_err(explain)?;
            configure(&connection, path)?;
            migrate(&mut connection, version).map_err(explain)?;
        }
    }
    check(&connection, path)?;
    Ok(connection)
}

enum Contents {
    /// A database of this crate with this schema version. Version 0 is an empty file.
    Ours(usize),
    Foreign,
}

fn version(connection: &Connection) -> rusqlite::Result<Contents> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match usize::try_from(version) {
        Ok(version) if application == APPLICATION_ID => Contents::Ours(version),
        Ok(0) if application == 0 && tables == 0 => Contents::Ours(0),
        _ => Contents::Foreign,
    })
}

fn configure(connection: &Connection, path: &Path) -> Result<(), Error> {
    let explain = |error| not_opened(path, error);
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(explain)?;
    if mode != "wal" {
        return Err(unusable(
            path,
            "its file system doesn't support a write-ahead log: use a local disk",
        ));
    }
    // `FULL` syncs the log at each commit. The writer decides when to checkpoint.
    let settings = "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;";
    connection.execute_batch(settings).map_err(explain)
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

fn check(connection: &Connection, path: &Path) -> Result<(), Error> {
    let explain = |error| not_opened(path, error);
    let number = |pragma| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let pages = number("PRAGMA page_count").map_err(explain)?;
    let page = number("PRAGMA page_size").map_err(explain)?;
    if pages.saturating_mul(page) > MAX_CHECKED_BYTES {
        return Ok(());
    }
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(explain)?;
    if found == "ok" {
        Ok(())
    } else {
        Err(unusable(
            path,
            "it is corrupt: `PRAGMA quick_check` shows the damage",
        ))
    }
}
