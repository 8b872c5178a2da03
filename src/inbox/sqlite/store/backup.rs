use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, Result};

use super::Reader;

/// The number of pages that a step copies: 1 MiB.
const PAGES: i32 = 256;

/// Copies the database into the empty file `to`, with SQLite's online backup. Calls `progress` with the number of copied pages and
/// the number of all pages. Returns false if `progress` returned false, which stops the backup.
///
/// The copy shows the moment at which the reader began, even if a process changes the database in the meantime.
pub(crate) fn back_up(
    reader: &Reader,
    to: &Path,
    mut progress: impl FnMut(u64, u64) -> bool,
) -> Result<bool> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut to = Connection::open_with_flags(to, flags)?;
    // The caller syncs the finished copy, and deletes an unfinished one.
    to.execute_batch("PRAGMA synchronous = OFF; PRAGMA journal_mode = OFF")?;
    let backup = Backup::new(&reader.connection, &mut to)?;
    loop {
        let step = backup.step(PAGES)?;
        let pages = |count: i32| u64::try_from(count).unwrap_or(0);
        let (all, remaining) = (backup.progress().pagecount, backup.progress().remaining);
        if !progress(pages(all - remaining), pages(all)) {
            return Ok(false);
        }
        if step == StepResult::Done {
            break;
        }
    }
    drop(backup);
    // No inbox has the copy open, so a missing log isn't a loss.
    to.execute_batch("UPDATE totals SET open_path = NULL")?;
    to.close().map_err(|(_, error)| error)?;
    Ok(true)
}
