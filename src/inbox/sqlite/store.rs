use rusqlite::{Connection, Params, params};

use super::stored::{signed, unsigned};

/// The statements on an inbox's database. What they do to the counts is kept in [`Totals`], which is
/// written with each transaction.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) connection: Connection,
    pub(super) totals: Totals,
    /// About how many bytes were written since that was asked last.
    pub(super) written: u64,
}

/// What is in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    /// The id of the next event.
    pub(super) next_id: u64,
    pub(super) events: u64,
    pub(super) event_bytes: u64,
    pub(super) dead_letters: u64,
    pub(super) dead_letter_bytes: u64,
}

impl Store {
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Self> {
        let sql =
            "SELECT next_id, events, event_bytes, dead_letters, dead_letter_bytes FROM totals";
        let totals = connection.query_row(sql, [], |row| {
            let number = |column| row.get(column).map(unsigned);
            Ok(Totals {
                next_id: number(0)?,
                events: number(1)?,
                event_bytes: number(2)?,
                dead_letters: number(3)?,
                dead_letter_bytes: number(4)?,
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

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Takes in that a body of `size` bytes was written: pages are whole, and mostly hold several.
    pub(super) fn wrote(&mut self, size: usize) {
        self.written += size as u64 * 3 / 2;
    }

    /// Returns about how many bytes were written since this was asked last.
    pub(super) fn take_written(&mut self) -> u64 {
        std::mem::take(&mut self.written)
    }

    /// Runs `change` in a transaction, which is on disk when this returns. If it fails nothing has
    /// changed, here or there.
    pub(super) fn transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let before = self.totals;
        self.run("BEGIN IMMEDIATE", [])?;
        let changed = change(self).and_then(|changed| {
            self.write_totals(before)?;
            self.run("COMMIT", [])?;
            // A commit writes a few pages besides those of the bodies.
            self.written += 5 * 4096;
            Ok(changed)
        });
        if changed.is_err() {
            self.totals = before;
            // Some errors have rolled it back already.
            if !self.connection.is_autocommit() {
                let _ = self.run("ROLLBACK", []);
            }
        }
        changed
    }

    fn write_totals(&mut self, before: Totals) -> rusqlite::Result<()> {
        let now = self.totals;
        if now == before {
            return Ok(());
        }
        let sql = "UPDATE totals SET next_id = ?1, events = ?2, event_bytes = ?3, dead_letters = ?4, dead_letter_bytes = ?5";
        self.run(
            sql,
            params![
                signed(now.next_id),
                signed(now.events),
                signed(now.event_bytes),
                signed(now.dead_letters),
                signed(now.dead_letter_bytes)
            ],
        )?;
        Ok(())
    }

    pub(super) fn run(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }
}
