use std::time::SystemTime;

use rusqlite::{Result, Row};

use super::Reader;
use super::row::{number, signed, text};
use super::schema::{NEWEST, get};
use crate::inbox::sqlite::file_report::{SqliteFileCheck, SqliteFileStats};
use crate::inbox::stored_json::time;
use crate::runtime::ClockReading;

/// The first version of the schema with the table `handled`.
const WITH_HANDLED: usize = 3;

/// The maximum number of messages about damage.
const MAX_DAMAGE: u32 = 100;

/// Reads for every version of the schema, unlike the store.
impl Reader {
    /// Returns the inbox's clock at the last transaction.
    pub(crate) fn clock(&self) -> Result<ClockReading> {
        self.row("SELECT clock, clock_skew FROM totals", |row| {
            Ok(ClockReading {
                now: number(row, 0)?,
                skew: row.get(1)?,
            })
        })
    }

    pub(crate) fn page_size(&self) -> Result<u64> {
        self.pragma("PRAGMA page_size")
    }

    /// Counts the events at the time `now` of the inbox's clock.
    pub(crate) fn stats(&self, now: u64) -> Result<SqliteFileStats> {
        let mut stats = SqliteFileStats {
            schema_version: self.version as u32,
            newest_schema_version: NEWEST as u32,
            ..SqliteFileStats::default()
        };
        let now = signed(now);
        let sql = "SELECT count(*), ifnull(sum(octet_length(body)), 0), count(*) FILTER (WHERE running = 1), count(*) FILTER (WHERE running = 0 AND attempt > 1 AND due_at > ?1), count(*) FILTER (WHERE running = 1 OR crashes > 0) FROM events";
        let in_flight = self.connection.query_row(sql, [now], |row| {
            stats.event_bytes = number(row, 1)?;
            stats.running = number(row, 2)?;
            stats.retrying = number(row, 3)?;
            stats.poison_candidates = number(row, 4)?;
            number(row, 0)
        })?;
        stats.waiting = in_flight - stats.running - stats.retrying;
        let sql = "SELECT count(*), ifnull(sum(octet_length(body)), 0), count(DISTINCT order_key) FILTER (WHERE blocks_key = 1), min(dead_lettered_at) FROM dead_letters";
        self.row(sql, |row| {
            stats.dead_letters = number(row, 0)?;
            stats.dead_letter_bytes = number(row, 1)?;
            stats.blocked_keys = number(row, 2)?;
            stats.oldest_dead_letter = optional_time(row, 3)?;
            Ok(())
        })?;
        if self.version >= WITH_HANDLED {
            let sql = "SELECT count(*) FILTER (WHERE unhandled = 0), count(*) FILTER (WHERE unhandled = 1), ifnull(sum(octet_length(body)), 0) FROM handled";
            self.row(sql, |row| {
                stats.handled = number(row, 0)?;
                stats.unhandled = number(row, 1)?;
                stats.handled_bytes = number(row, 2)?;
                Ok(())
            })?;
        }
        let sql = "SELECT min(received_at), (SELECT count(*) FROM message_ids) FROM events";
        self.row(sql, |row| {
            stats.oldest_event = optional_time(row, 0)?;
            stats.message_ids = number(row, 1)?;
            Ok(())
        })?;
        let page_size = self.page_size()?;
        stats.file_bytes = page_size * self.pragma("PRAGMA page_count")?;
        stats.free_bytes = page_size * self.pragma("PRAGMA freelist_count")?;
        Ok(stats)
    }

    /// Reads all pages, and returns the damage and the sizes of the tables.
    pub(crate) fn check(&self) -> SqliteFileCheck {
        let damage = self
            .damage()
            .unwrap_or_else(|error| vec![error.to_string()]);
        SqliteFileCheck {
            damage,
            counts_match: self.counts_match().unwrap_or(false),
            // A damaged database may not list its tables.
            table_bytes: self.table_bytes().unwrap_or_default(),
        }
    }

    fn damage(&self) -> Result<Vec<String>> {
        let sql = format!("PRAGMA integrity_check({MAX_DAMAGE})");
        let mut found = self.rows(&sql, |row| Ok(text(row, 0)?.into_owned()))?;
        if found == ["ok"] {
            found.clear();
        }
        Ok(found)
    }

    /// Returns whether the row `totals` is right.
    fn counts_match(&self) -> Result<bool> {
        let sql = match self.version >= WITH_HANDLED {
            true => {
                "SELECT events = (SELECT count(*) FROM events) AND dead_letters = (SELECT count(*) FROM dead_letters) AND handled = (SELECT count(*) FROM handled) FROM totals"
            }
            false => {
                "SELECT events = (SELECT count(*) FROM events) AND dead_letters = (SELECT count(*) FROM dead_letters) FROM totals"
            }
        };
        get(&self.connection, sql)
    }

    /// Returns the size of each table with its indexes.
    fn table_bytes(&self) -> Result<Vec<(String, u64)>> {
        let sql = "SELECT tbl_name, sum(pgsize) FROM sqlite_schema JOIN dbstat ON dbstat.name = sqlite_schema.name WHERE aggregate = TRUE GROUP BY tbl_name ORDER BY sum(pgsize) DESC, tbl_name";
        self.rows(sql, |row| Ok((text(row, 0)?.into_owned(), number(row, 1)?)))
    }

    fn pragma(&self, sql: &str) -> Result<u64> {
        self.row(sql, |row| number(row, 0))
    }

    fn row<T>(&self, sql: &str, read: impl FnOnce(&Row<'_>) -> Result<T>) -> Result<T> {
        self.connection.query_row(sql, [], read)
    }

    fn rows<T>(&self, sql: &str, read: impl FnMut(&Row<'_>) -> Result<T>) -> Result<Vec<T>> {
        let mut statement = self.connection.prepare(sql)?;
        statement.query_map([], read)?.collect()
    }
}

fn optional_time(row: &Row<'_>, column: usize) -> Result<Option<SystemTime>> {
    let millis: Option<i64> = row.get(column)?;
    Ok(millis.map(|millis| time(u64::try_from(millis).unwrap_or(0))))
}
