use rusqlite::{OptionalExtension, params};

use super::store::Store;
use super::stored::{LETTER, letter, routes, signed, unsigned};
use crate::delivery::{DeadLetter, OrderKey, Progress};
use crate::runtime::to_millis;

/// What is left of a dead letter that was taken out.
#[derive(Debug)]
pub(super) struct Exhumed {
    /// The key that it held back.
    pub(super) held: Option<OrderKey>,
}

/// The events that were given up.
impl Store {
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
        let sql = "INSERT INTO dead_letters (id, message_id, event_type, received_at, dead_lettered_at, attempts, routes, cause, order_key, holds, body) VALUES (?1, coalesce((SELECT message_id FROM message_ids WHERE id = ?1), ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        self.run(
            sql,
            params![
                signed(letter.id()),
                letter.message_id(),
                event_type,
                signed(to_millis(letter.received_at())),
                signed(to_millis(letter.dead_lettered_at())),
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
        self.wrote(size);
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

    /// Returns the ids, event types and times of death of up to `limit` letters after `id`.
    pub(super) fn letter_types(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<Vec<(u64, String, u64)>> {
        let sql = "SELECT id, event_type, dead_lettered_at FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let params = params![after.map_or(-1, signed), signed(limit as u64)];
        let rows = statement.query_map(params, |row| {
            Ok((unsigned(row.get(0)?), row.get(1)?, unsigned(row.get(2)?)))
        })?;
        rows.collect()
    }

    /// Returns whether there is a letter of this id that holds back a key.
    pub(super) fn is_holding(&self, id: u64) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM dead_letters WHERE id = ?1 AND holds = 1";
        self.connection.prepare_cached(sql)?.exists([signed(id)])
    }

    /// Returns the id of the letter that is dead for the longest time.
    pub(super) fn oldest_letter(&self) -> rusqlite::Result<Option<u64>> {
        let sql = "SELECT id FROM dead_letters ORDER BY dead_lettered_at, id LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let id = statement.query_row([], |row| row.get(0)).optional()?;
        Ok(id.map(unsigned))
    }

    /// Returns up to `limit` letters whose event was given up before a time.
    pub(super) fn letters_before(&self, died: u64, limit: usize) -> rusqlite::Result<Vec<u64>> {
        let sql = "SELECT id FROM dead_letters WHERE dead_lettered_at < ?1 ORDER BY dead_lettered_at LIMIT ?2";
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
        self.wrote(letter.body().len());
        Ok(Some((key.map(OrderKey::from), exhumed)))
    }
}
