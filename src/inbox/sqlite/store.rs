use rusqlite::{Connection, OptionalExtension, Params, params};

use super::stored::{Head, LETTER, StoredEvent, letter, routes, signed, unsigned};
use crate::delivery::{DeadLetter, OrderKey, Progress, RouteEnd};
use crate::event::Event;
use crate::runtime::to_millis;

/// The statements on an inbox's database. What they do to the counts is kept in [`Totals`], which is
/// written with each transaction.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    totals: Totals,
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

/// What is left of a dead letter that was taken out.
#[derive(Debug)]
pub(super) struct Exhumed {
    /// The key that it held back.
    pub(super) held: Option<OrderKey>,
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
        Ok(Self { connection, totals })
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
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

    fn run(&self, sql: &str, params: impl Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }

    /// Adds events, whose ids are those from [`next_id`](Totals::next_id) on.
    pub(super) fn insert<'a>(
        &mut self,
        events: impl Iterator<Item = (&'a Event, Option<&'a OrderKey>)>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO events (id, received_at, order_key, body) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let totals = &mut self.totals;
        for (event, key) in events {
            statement.execute(params![
                signed(totals.next_id),
                signed(to_millis(event.received_at())),
                key.map(|key| &key[..]),
                event.body()
            ])?;
            totals.next_id += 1;
            totals.events += 1;
            totals.event_bytes += event.body().len() as u64;
        }
        Ok(())
    }

    /// Remembers the ids of events, the first of which has the number `first`.
    pub(super) fn remember<'a>(
        &mut self,
        first: u64,
        at: u64,
        message_ids: impl Iterator<Item = &'a str>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO message_ids (id, accepted_at, message_id) VALUES (?1, ?2, ?3)";
        let mut statement = self.connection.prepare_cached(sql)?;
        for (id, message_id) in (first..).zip(message_ids) {
            statement.execute(params![signed(id), signed(at), message_id])?;
        }
        Ok(())
    }

    /// Calls `each` with the number, the time and the text of each id that is remembered, oldest
    /// first.
    pub(super) fn remembered(&self, mut each: impl FnMut(u64, u64, &str)) -> rusqlite::Result<()> {
        let sql = "SELECT id, accepted_at, message_id FROM message_ids ORDER BY id";
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let message_id = String::from_utf8_lossy(row.get_ref(2)?.as_bytes()?);
            each(unsigned(row.get(0)?), unsigned(row.get(1)?), &message_id);
        }
        Ok(())
    }

    /// Forgets up to `limit` of the ids of events up to `id`. Returns whether that were all.
    pub(super) fn forget(&mut self, id: u64, limit: usize) -> rusqlite::Result<bool> {
        let sql = "DELETE FROM message_ids WHERE id IN (SELECT id FROM message_ids WHERE id <= ?1 ORDER BY id LIMIT ?2)";
        let forgotten = self.run(sql, params![signed(id), signed(limit as u64)])?;
        Ok(forgotten < limit)
    }

    /// Deletes an event whose body has `size` bytes.
    fn delete(&mut self, id: u64, size: usize) -> rusqlite::Result<()> {
        self.delete_range(id, id, size as u64)
    }

    /// Deletes events, whose bodies have the sizes that stand beside their ids.
    pub(super) fn delete_all(&mut self, events: &mut [(u64, usize)]) -> rusqlite::Result<()> {
        // Events that were accepted one after another mostly end together: one statement for each run
        // of ids, and not one for each event.
        events.sort_unstable();
        for run in events.chunk_by(|(one, _), (next, _)| one + 1 == *next) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let size = run.iter().map(|(_, size)| *size as u64).sum();
            self.delete_range(first, last, size)?;
        }
        Ok(())
    }

    fn delete_range(&mut self, first: u64, last: u64, size: u64) -> rusqlite::Result<()> {
        let sql = "DELETE FROM events WHERE id BETWEEN ?1 AND ?2";
        let deleted = self.run(sql, [signed(first), signed(last)])?;
        self.totals.events = self.totals.events.saturating_sub(deleted as u64);
        if deleted > 0 {
            self.totals.event_bytes = self.totals.event_bytes.saturating_sub(size);
        }
        Ok(())
    }

    /// Writes down how far an event has come, and when its next attempt is due.
    pub(super) fn reschedule(
        &mut self,
        id: u64,
        attempt: u32,
        due_at: u64,
        ends: &[RouteEnd],
    ) -> rusqlite::Result<()> {
        let routes = (!ends.is_empty()).then(|| routes(ends));
        let sql = "UPDATE events SET attempt = ?2, due_at = ?3, routes = ?4, marked = 0, crashes = 0 WHERE id = ?1";
        self.run(sql, params![signed(id), attempt, signed(due_at), routes])?;
        Ok(())
    }

    /// Puts the heads of up to `limit` events after `id` into `heads`. If it fails, those are there that
    /// come before what can't be read.
    pub(super) fn heads(
        &self,
        after: u64,
        limit: usize,
        heads: &mut Vec<Head>,
    ) -> rusqlite::Result<()> {
        // Not `id > after`: that reads the page of `after` too, which may be corrupt.
        let sql = "SELECT id, order_key, due_at FROM events WHERE id >= ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let params = params![signed(after.saturating_add(1)), signed(limit as u64)];
        for head in statement.query_map(params, Head::read)? {
            heads.push(head?);
        }
        Ok(())
    }

    pub(super) fn event(&self, id: u64) -> rusqlite::Result<Option<StoredEvent>> {
        let columns = StoredEvent::COLUMNS;
        let sql = format!("SELECT {columns} FROM events WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement
            .query_row([signed(id)], StoredEvent::read)
            .optional()
    }

    /// Marks an event that an earlier process left as one that runs, or takes the mark off.
    pub(super) fn mark(&mut self, id: u64, marked: bool) -> rusqlite::Result<()> {
        let sql = "UPDATE events SET marked = ?2 WHERE id = ?1";
        self.run(sql, params![signed(id), marked])?;
        Ok(())
    }

    /// Counts a crash for each event that an earlier process left marked, and takes the marks off.
    pub(super) fn count_crashes(&mut self) -> rusqlite::Result<usize> {
        let sql = "UPDATE events SET crashes = crashes + 1, marked = 0 WHERE marked = 1";
        self.run(sql, [])
    }

    /// Moves an event to the dead letters. `key` is what it was put in order by, which it holds back
    /// if `holds` says so.
    pub(super) fn bury(
        &mut self,
        letter: &DeadLetter,
        key: Option<&OrderKey>,
        holds: bool,
    ) -> rusqlite::Result<()> {
        let size = letter.body().len();
        self.delete(letter.id(), size)?;
        let event_type = letter
            .event()
            .map_or("", |event| event.event_type().as_str());
        let sql = "INSERT INTO dead_letters (id, message_id, event_type, received_at, died_at, attempts, routes, cause, order_key, holds, body) VALUES (?1, coalesce((SELECT message_id FROM message_ids WHERE id = ?1), ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.run(
            sql,
            params![
                signed(letter.id()),
                letter.message_id(),
                event_type,
                signed(to_millis(letter.received_at())),
                signed(to_millis(letter.died_at())),
                letter.attempts(),
                routes(letter.routes()),
                letter.cause(),
                key.map(|key| &key[..]),
                holds,
                letter.body()
            ],
        )?;
        self.totals.dead_letters += 1;
        self.totals.dead_letter_bytes += size as u64;
        Ok(())
    }

    /// Has dead letters hold nothing back.
    pub(super) fn let_go(&mut self) -> rusqlite::Result<usize> {
        self.run("UPDATE dead_letters SET holds = 0 WHERE holds = 1", [])
    }

    /// Returns the keys that dead letters hold back.
    pub(super) fn held(&self) -> rusqlite::Result<Vec<OrderKey>> {
        let sql = "SELECT order_key FROM dead_letters WHERE holds = 1 AND order_key IS NOT NULL";
        let mut statement = self.connection.prepare(sql)?;
        let keys = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        keys.map(|key| key.map(OrderKey::from)).collect()
    }

    pub(super) fn letters(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<Vec<DeadLetter>> {
        let after = after.map_or(-1, signed);
        let sql = format!("SELECT {LETTER} FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let letters = statement.query_map(params![after, signed(limit as u64)], letter)?;
        letters.collect()
    }

    pub(super) fn letter(&self, id: u64) -> rusqlite::Result<Option<DeadLetter>> {
        let sql = format!("SELECT {LETTER} FROM dead_letters WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement.query_row([signed(id)], letter).optional()
    }

    /// Returns the ids and event types of up to `limit` letters after `id`.
    pub(super) fn letter_types(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<Vec<(u64, String)>> {
        let sql = "SELECT id, event_type FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let params = params![after.map_or(-1, signed), signed(limit as u64)];
        let rows = statement.query_map(params, |row| Ok((unsigned(row.get(0)?), row.get(1)?)))?;
        rows.collect()
    }

    /// Returns the id of the oldest letter.
    pub(super) fn oldest_letter(&self) -> rusqlite::Result<Option<u64>> {
        let sql = "SELECT id FROM dead_letters ORDER BY id LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let id = statement.query_row([], |row| row.get(0)).optional()?;
        Ok(id.map(unsigned))
    }

    /// Returns up to `limit` letters whose event was given up before a time.
    pub(super) fn letters_before(&self, died: u64, limit: usize) -> rusqlite::Result<Vec<u64>> {
        let sql = "SELECT id FROM dead_letters WHERE died_at < ?1 ORDER BY died_at LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let ids = statement.query_map(params![signed(died), signed(limit as u64)], |row| {
            row.get(0).map(unsigned)
        })?;
        ids.collect()
    }

    /// Deletes a letter, if there is one of this id.
    pub(super) fn exhume(&mut self, id: u64) -> rusqlite::Result<Option<Exhumed>> {
        let sql =
            "DELETE FROM dead_letters WHERE id = ?1 RETURNING order_key, holds, octet_length(body)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row([signed(id)], |row| {
            let key: Option<Vec<u8>> = row.get(0)?;
            Ok((key, row.get::<_, bool>(1)?, row.get(2).map(unsigned)?))
        });
        let Some((key, holds, size)) = row.optional()? else {
            return Ok(None);
        };
        drop(statement);
        let totals = &mut self.totals;
        totals.dead_letters = totals.dead_letters.saturating_sub(1);
        totals.dead_letter_bytes = totals.dead_letter_bytes.saturating_sub(size);
        let held = key.filter(|_| holds).map(OrderKey::from);
        Ok(Some(Exhumed { held }))
    }

    /// Makes an event of a letter again, of the same id, whose routes begin anew where they didn't do
    /// their work. Returns the key that it is put in order by, and what the letter held.
    pub(super) fn resurrect(
        &mut self,
        letter: &DeadLetter,
        due_at: u64,
    ) -> rusqlite::Result<Option<(Option<OrderKey>, Exhumed)>> {
        let id = signed(letter.id());
        let done = Progress::replayed(letter.routes());
        let routes = (!done.ends().is_empty()).then(|| routes(done.ends()));
        let sql = "INSERT INTO events (id, received_at, order_key, due_at, routes, body) SELECT id, received_at, order_key, ?2, ?3, body FROM dead_letters WHERE id = ?1 RETURNING order_key";
        let mut statement = self.connection.prepare_cached(sql)?;
        let key = statement
            .query_row(params![id, signed(due_at), routes], |row| {
                row.get::<_, Option<Vec<u8>>>(0)
            })
            .optional()?;
        drop(statement);
        let (Some(key), Some(exhumed)) = (key, self.exhume(letter.id())?) else {
            return Ok(None);
        };
        self.totals.events += 1;
        self.totals.event_bytes += letter.body().len() as u64;
        Ok(Some((key.map(OrderKey::from), exhumed)))
    }
}
