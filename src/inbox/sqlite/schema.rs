use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags, TransactionBehavior};

use super::file::{caused, fault};
use crate::error::Error;

/// Marks the file as one of this crate: the bytes of `bwhk`.
const APPLICATION: i32 = 0x6277_686B;

/// Brings the schema from each version to the next. Released ones never change.
const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

/// How long a transaction waits for another process that writes to the file. It holds the writer up,
/// so it is well below the time in which the front door answers.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// Up to this size a database is checked as a whole when it is opened, some 20 ms; a larger one is
/// checked where it is read.
const CHECKED_WHOLE: i64 = 16 << 20;

/// Opens the database of an inbox, and creates it if the file is new or empty. Never changes a file
/// that is something else.
pub(super) fn open(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |error| explain(path, error);
    let mut connection = Connection::open_with_flags(path, flags).map_err(explain)?;
    connection.busy_timeout(BUSY).map_err(explain)?;
    // What isn't ours keeps its log too, which is moved into it by whoever closes it last.
    // It isn't `Copy` in rusqlite 0.30.
    let keep = || DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE;
    connection.set_db_config(keep(), true).map_err(explain)?;
    if connection.is_readonly(MAIN_DB).map_err(explain)? {
        return Err(fault(path, "there is no permission to write it"));
    }
    let version = version(&connection).map_err(explain)?;
    match version {
        Found::Foreign => {
            return Err(fault(path, "it is a database of something else"));
        }
        Found::Ours(version) if version > MIGRATIONS.len() => {
            let newest = MIGRATIONS.len();
            let why = format!(
                "its schema is version {version}, and this program knows those up to {newest}: it was written by a newer one"
            );
            return Err(fault(path, &why));
        }
        Found::Ours(version) => {
            connection.set_db_config(keep(), false).map_err(explain)?;
            configure(&connection, path)?;
            migrate(&mut connection, version).map_err(explain)?;
        }
    }
    check(&connection, path)?;
    Ok(connection)
}

enum Found {
    /// One of ours, of this version; 0 is an empty one.
    Ours(usize),
    Foreign,
}

fn version(connection: &Connection) -> rusqlite::Result<Found> {
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    Ok(match usize::try_from(version) {
        Ok(version) if application == APPLICATION => Found::Ours(version),
        Ok(0) if application == 0 && tables == 0 => Found::Ours(0),
        _ => Found::Foreign,
    })
}

fn configure(connection: &Connection, path: &Path) -> Result<(), Error> {
    let explain = |error| explain(path, error);
    let mode: String = connection
        .query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))
        .map_err(explain)?;
    if mode != "wal" {
        return Err(fault(path, "it can't have a write-ahead log there"));
    }
    // `FULL` syncs the log at each commit. Checkpoints are the writer's own.
    let settings = "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;";
    connection.execute_batch(settings).map_err(explain)
}

fn migrate(connection: &mut Connection, from: usize) -> rusqlite::Result<()> {
    for (version, migration) in MIGRATIONS.iter().enumerate().skip(from) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", version as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

fn check(connection: &Connection, path: &Path) -> Result<(), Error> {
    let explain = |error| explain(path, error);
    let number = |pragma| connection.query_row(pragma, [], |row| row.get::<_, i64>(0));
    let pages = number("PRAGMA page_count").map_err(explain)?;
    let page = number("PRAGMA page_size").map_err(explain)?;
    if pages.saturating_mul(page) > CHECKED_WHOLE {
        return Ok(());
    }
    let found: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(explain)?;
    if found == "ok" {
        Ok(())
    } else {
        Err(fault(path, "it is corrupt, as `PRAGMA quick_check` tells"))
    }
}

/// Says in the user's words what is wrong with the file.
fn explain(path: &Path, error: rusqlite::Error) -> Error {
    let why = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "the inbox can't be opened: it is no SQLite database",
        Some(ErrorCode::DatabaseCorrupt) => "the inbox can't be opened: it is corrupt",
        Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
            "the inbox can't be opened: there is no permission to read and write it"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "the inbox can't be opened: another process is writing to it"
        }
        Some(ErrorCode::DiskFull) => "the inbox can't be opened: the disk is full",
        _ => "the inbox can't be opened",
    };
    caused(path, why, error)
}
