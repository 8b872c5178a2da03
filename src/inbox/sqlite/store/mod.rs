//! The inbox's SQL: no other module contains SQL.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, Params};

mod dead_letters;
mod events;
mod message_ids;
mod row;
mod schema;
mod wal;

use self::row::signed;
use crate::runtime::ClockReading;

pub(super) use self::dead_letters::{DeadLetterLimits, Dropped, Requeued};
pub(super) use self::row::{Head, StoredEvent};
pub(super) use self::schema::open;

/// The inbox's database. Every change runs in a [`transaction`](Store::transaction), which also writes the totals.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    totals: Totals,
    /// The approximate number of bytes written since the last call of [`take_written`](Store::take_written).
    written: u64,
}

/// Counts that would otherwise require reading whole tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    /// The id of the next event.
    pub(super) next_id: u64,
    pub(super) events: u64,
    pub(super) event_bytes: u64,
    pub(super) dead_letters: u64,
    pub(super) dead_letter_bytes: u64,
    /// The inbox's clock at the last transaction.
    pub(super) clock: ClockReading,
}

impl Store {
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Self> {
        let sql = "SELECT next_id, events, event_bytes, dead_letters, dead_letter_bytes, clock, clock_skew FROM totals";
        let totals = connection.query_row(sql, [], |row| {
            Ok(Totals {
                next_id: row::number(row, 0)?,
                events: row::number(row, 1)?,
                event_bytes: row::number(row, 2)?,
                dead_letters: row::number(row, 3)?,
                dead_letter_bytes: row::number(row, 4)?,
                clock: ClockReading {
                    now: row::number(row, 5)?,
                    skew: row.get(6)?,
                },
            })
        })?;
        Ok(Self {
            connection,
            totals,
            written: 0,
        })
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    /// Continues the inbox's clock.
    pub(super) fn resume(&mut self, clock: ClockReading) {
        self.totals.clock = clock;
    }

    /// Returns a number that changes when another connection changes the database.
    pub(super) fn data_version(&self) -> rusqlite::Result<i64> {
        let mut statement = self.connection.prepare_cached("PRAGMA data_version")?;
        statement.query_row([], |row| row.get(0))
    }

    /// Counts all rows.
    pub(super) fn recount(&mut self) -> rusqlite::Result<()> {
        let sql = "SELECT (SELECT count(*) FROM events), (SELECT ifnull(sum(octet_length(body)), 0) FROM events), (SELECT count(*) FROM dead_letters), (SELECT ifnull(sum(octet_length(body)), 0) FROM dead_letters), 1 + max((SELECT ifnull(max(id), 0) FROM events), (SELECT ifnull(max(id), 0) FROM dead_letters), (SELECT ifnull(max(id), 0) FROM message_ids))";
        self.totals = self.connection.query_row(sql, [], |row| {
            Ok(Totals {
                events: row::number(row, 0)?,
                event_bytes: row::number(row, 1)?,
                dead_letters: row::number(row, 2)?,
                dead_letter_bytes: row::number(row, 3)?,
                next_id: self.totals.next_id.max(row::number(row, 4)?),
                clock: self.totals.clock,
            })
        })?;
        Ok(())
    }

    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Counts a body of `size` bytes as written. SQLite writes whole pages, and most pages hold several bodies.
    fn wrote(&mut self, size: usize) {
        self.written += size as u64 * 3 / 2;
    }

    /// Runs `change` in a transaction, at the time that `clock` shows. If this returns `Ok`, the change has been synced
    /// to disk. Otherwise, neither the database nor the totals have changed.
    pub(super) fn transaction<T>(
        &mut self,
        clock: ClockReading,
        change: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let before = self.totals;
        self.totals.clock = clock;
        let begun = self.run("BEGIN IMMEDIATE", []);
        let changed = begun.and_then(|_| change(self)).and_then(|changed| {
            self.write_totals(before)?;
            self.run("COMMIT", [])?;
            // A commit writes a few pages in addition to the pages of the bodies.
            self.written += 5 * 4096;
            Ok(changed)
        });
        if changed.is_err() {
            self.totals = before;
            // SQLite rolls back automatically after some errors.
            if !self.connection.is_autocommit() {
                let _ = self.run("ROLLBACK", []);
            }
        }
        changed
    }

    /// Returns the path under which the inbox was last opened, unless it has been closed since.
    pub(super) fn open_path(&self) -> rusqlite::Result<Option<PathBuf>> {
        let sql = "SELECT open_path FROM totals";
        let path: Option<String> = self.connection.query_row(sql, [], |row| row.get(0))?;
        Ok(path.map(PathBuf::from))
    }

    /// Writes the path under which the inbox is open, or `None` if the inbox is closed.
    pub(super) fn set_open_path(&mut self, path: Option<&Path>) -> rusqlite::Result<()> {
        let path = path.map(Path::to_string_lossy);
        self.run("UPDATE totals SET open_path = ?1", [path])?;
        Ok(())
    }

    fn write_totals(&self, before: Totals) -> rusqlite::Result<()> {
        let now = self.totals;
        if now != before {
            let sql = "UPDATE totals SET next_id = ?1, events = ?2, event_bytes = ?3, dead_letters = ?4, dead_letter_bytes = ?5, clock = ?6, clock_skew = ?7";
            let counts = [
                signed(now.next_id),
                signed(now.events),
                signed(now.event_bytes),
                signed(now.dead_letters),
                signed(now.dead_letter_bytes),
                signed(now.clock.now),
                now.clock.skew,
            ];
            self.run(sql, counts)?;
        }
        Ok(())
    }

    fn run(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }
}
