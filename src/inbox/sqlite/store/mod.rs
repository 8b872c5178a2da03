//! The inbox's SQL: no other module contains SQL.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Params, Result, Row};

mod backup;
mod dead_letters;
mod events;
mod handled;
mod log;
mod message_ids;
mod once_keys;
mod read_only;
mod report;
mod row;
mod schema;
mod wal;

use self::row::{number, signed};
use super::volume::Volume;
use crate::delivery::OrderKey;
use crate::runtime::ClockReading;

pub(super) use self::backup::back_up;
pub(super) use self::dead_letters::DeadLetterLimits;
pub(super) use self::handled::Kept;
pub(super) use self::log::{Cursor, Select};
pub(super) use self::read_only::{Reader, read};
pub(super) use self::row::Head;
pub(super) use self::schema::open;

/// The inbox's database. Every change runs in a [`transaction`](Store::transaction), which also writes the totals.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    /// The totals at the last transaction.
    pub(super) totals: Totals,
    /// The ordering keys that dead letters no longer block. The writer releases these keys.
    pub(super) unblocked: Vec<OrderKey>,
    wal: wal::Wal,
    /// SQLite's data version. A commit by another connection changes it.
    version: i64,
}

/// Counts that would otherwise require reading whole tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    /// The id of the next event.
    pub(super) next_id: u64,
    pub(super) events: Volume,
    pub(super) dead_letters: Volume,
    /// The handled and unhandled events that the inbox keeps.
    pub(super) handled: Volume,
    /// The number of dead letters that the store has dropped because of its limits, since the inbox was opened.
    pub(super) dropped: u64,
    /// The number of ended events whose rows another process had deleted, since the inbox was opened.
    pub(super) missing: u64,
    /// The inbox's clock at the last transaction.
    pub(super) clock: ClockReading,
}

impl Totals {
    /// Reads `next_id, events, event_bytes, dead_letters, dead_letter_bytes, handled, handled_bytes`.
    fn read(row: &Row<'_>) -> Result<Self> {
        let volume = |column| -> Result<Volume> {
            Ok(Volume {
                events: number(row, column)?,
                bytes: number(row, column + 1)?,
            })
        };
        Ok(Self {
            next_id: number(row, 0)?,
            events: volume(1)?,
            dead_letters: volume(3)?,
            handled: volume(5)?,
            dropped: 0,
            missing: 0,
            clock: ClockReading::default(),
        })
    }
}

impl Store {
    /// Returns the store of a database whose write-ahead log may grow to about `max_wal_bytes`.
    pub(super) fn new(connection: Connection, max_wal_bytes: u64) -> Result<Self> {
        let sql = "SELECT next_id, events, event_bytes, dead_letters, dead_letter_bytes, handled, handled_bytes, clock, clock_skew FROM totals";
        let totals = connection.query_row(sql, [], |row| {
            let clock = ClockReading {
                now: number(row, 7)?,
                skew: row.get(8)?,
            };
            Ok(Totals {
                clock,
                ..Totals::read(row)?
            })
        })?;
        let mut store = Self {
            connection,
            totals,
            unblocked: Vec::new(),
            wal: wal::Wal::new(max_wal_bytes),
            version: 0,
        };
        store.was_changed();
        Ok(store)
    }

    /// Returns whether another connection has changed the database since the last call.
    pub(super) fn was_changed(&mut self) -> bool {
        let version = self.row("PRAGMA data_version", [], |row| row.get(0));
        let version = version.ok().flatten().unwrap_or(self.version);
        std::mem::replace(&mut self.version, version) != version
    }

    /// Counts all rows.
    pub(super) fn recount(&mut self) -> Result<()> {
        let sql = "SELECT max(?1, 1 + ifnull((SELECT max(id) FROM events), 0), 1 + ifnull((SELECT max(id) FROM dead_letters), 0), 1 + ifnull((SELECT max(id) FROM handled), 0), 1 + ifnull((SELECT max(id) FROM message_ids), 0)), (SELECT count(*) FROM events), (SELECT ifnull(sum(octet_length(body)), 0) FROM events), (SELECT count(*) FROM dead_letters), (SELECT ifnull(sum(octet_length(body)), 0) FROM dead_letters), (SELECT count(*) FROM handled), (SELECT ifnull(sum(octet_length(body)), 0) FROM handled)";
        let next_id = signed(self.totals.next_id);
        let counted = self.connection.query_row(sql, [next_id], Totals::read)?;
        self.totals = Totals {
            dropped: self.totals.dropped,
            missing: self.totals.missing,
            clock: self.totals.clock,
            ..counted
        };
        Ok(())
    }

    /// Runs `change` in a transaction, at the time that `clock` shows. If this returns `Ok`, the change has been synced
    /// to disk. Otherwise, neither the database nor the totals have changed.
    pub(super) fn transaction<T>(
        &mut self,
        clock: ClockReading,
        change: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let (before, unblocked) = (self.totals, self.unblocked.len());
        self.totals.clock = clock;
        let begun = self.run("BEGIN IMMEDIATE", []);
        let changed = begun.and_then(|_| change(self)).and_then(|changed| {
            if self.totals != before {
                self.write_totals()?;
            }
            self.run("COMMIT", [])?;
            self.wal.committed();
            Ok(changed)
        });
        if changed.is_err() {
            self.totals = before;
            self.unblocked.truncate(unblocked);
            // SQLite rolls back automatically after some errors.
            if !self.connection.is_autocommit() {
                let _ = self.run("ROLLBACK", []);
            }
        }
        changed
    }

    fn write_totals(&self) -> Result<usize> {
        let sql = "UPDATE totals SET next_id = ?1, events = ?2, event_bytes = ?3, dead_letters = ?4, dead_letter_bytes = ?5, handled = ?6, handled_bytes = ?7, clock = ?8, clock_skew = ?9";
        let now = self.totals;
        let counts = [
            signed(now.next_id),
            signed(now.events.events),
            signed(now.events.bytes),
            signed(now.dead_letters.events),
            signed(now.dead_letters.bytes),
            signed(now.handled.events),
            signed(now.handled.bytes),
            signed(now.clock.now),
            now.clock.skew,
        ];
        self.run(sql, counts)
    }

    /// Returns the path under which the inbox was last opened, unless it has been closed since.
    pub(super) fn open_path(&self) -> Result<Option<PathBuf>> {
        let path = self.row("SELECT open_path FROM totals", [], |row| row.get(0))?;
        Ok(path.flatten().map(|path: String| PathBuf::from(path)))
    }

    /// Writes the path under which the inbox is open, or `None` if the inbox is closed.
    pub(super) fn set_open_path(&mut self, path: Option<&Path>) -> Result<usize> {
        let path = path.map(Path::to_string_lossy);
        self.run("UPDATE totals SET open_path = ?1", [path])
    }

    /// Runs a statement, and returns the number of changed rows.
    fn run(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }

    /// Reads the first row of a query, if there is one.
    fn row<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.connection.prepare_cached(sql)?;
        statement.query_row(params, read).optional()
    }

    /// Reads all rows of a query.
    fn rows<T>(
        &self,
        sql: &str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        self.each(sql, params, |row| {
            all.push(read(row)?);
            Ok(())
        })?;
        Ok(all)
    }

    /// Calls `each` for every row of a query, until a row can't be read.
    fn each(
        &self,
        sql: &str,
        params: impl Params,
        mut each: impl FnMut(&Row<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            each(row)?;
        }
        Ok(())
    }
}
