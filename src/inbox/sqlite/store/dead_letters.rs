use rusqlite::{OptionalExtension, params};

use super::Store;
use super::row::{self, LETTER, letter, signed};
use crate::delivery::{DeadLetter, OrderKey, Progress};
use crate::runtime::to_millis;

/// The limits of the stored dead letters, and whether dead letters block their ordering keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadLetterLimits {
    pub(crate) letters: u64,
    pub(crate) bytes: u64,
    pub(crate) block_key: bool,
}

/// Dead letters that the store dropped because of its limits.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    pub(crate) count: u64,
    /// The ordering keys that the dropped dead letters no longer block.
    pub(crate) unblocked: Vec<OrderKey>,
}

/// A dead letter that became an event again.
#[derive(Debug)]
pub(crate) struct Requeued {
    pub(crate) key: Option<OrderKey>,
    /// Whether the dead letter blocked `key`.
    pub(crate) blocked: bool,
    /// The size of the stored body in bytes.
    pub(crate) size: u64,
}

/// The table `dead_letters`.
impl Store {
    /// Moves an event to the dead letters, and drops the oldest dead letters beyond the limits. The event's stored body
    /// has `stored_size` bytes. The letter's body is longer if the stored body contains invalid UTF-8.
    pub(crate) fn dead_letter(
        &mut self,
        letter: &DeadLetter,
        stored_size: usize,
        key: Option<&OrderKey>,
        limits: DeadLetterLimits,
        dropped: &mut Dropped,
    ) -> rusqlite::Result<()> {
        let size = letter.body().len();
        self.delete_events(&mut [(letter.id(), stored_size)])?;
        let blocks = key.filter(|_| limits.block_key);
        if size as u64 > limits.bytes {
            // This letter would displace all others and then be dropped itself.
            dropped.count += 1;
            dropped.unblocked.extend(blocks.cloned());
            return Ok(());
        }
        self.insert_dead_letter(letter, key, blocks.is_some())?;
        while self.totals.dead_letters > limits.letters
            || self.totals.dead_letter_bytes > limits.bytes
        {
            let Some(oldest) = self.oldest_dead_letter()? else {
                break;
            };
            if let Some(deleted) = self.delete_dead_letter(oldest)? {
                dropped.count += 1;
                dropped.unblocked.extend(deleted.unblocked());
            }
        }
        Ok(())
    }

    fn insert_dead_letter(
        &mut self,
        letter: &DeadLetter,
        key: Option<&OrderKey>,
        blocks_key: bool,
    ) -> rusqlite::Result<()> {
        let event = letter.event();
        let event_type = event.map_or("", |event| event.event_type().as_str());
        let sql = "INSERT OR REPLACE INTO dead_letters (id, message_id, event_type, received_at, dead_lettered_at, kept_since, attempts, routes, cause, order_key, blocks_key, body) VALUES (?1, coalesce((SELECT message_id FROM message_ids WHERE id = ?1), ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
        self.run(
            sql,
            params![
                signed(letter.id()),
                letter.message_id(),
                event_type,
                signed(to_millis(letter.received_at())),
                signed(to_millis(letter.dead_lettered_at())),
                signed(self.totals.clock.now),
                letter.attempts(),
                row::routes(letter.routes()),
                letter.cause(),
                key.map(|key| &key[..]),
                blocks_key,
                letter.body()
            ],
        )?;
        self.totals.dead_letters += 1;
        self.totals.dead_letter_bytes += letter.body().len() as u64;
        self.wrote(letter.body().len());
        Ok(())
    }

    fn oldest_dead_letter(&self) -> rusqlite::Result<Option<u64>> {
        let sql = "SELECT id FROM dead_letters ORDER BY kept_since, id LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let id = statement.query_row([], |row| row::number(row, 0));
        id.optional()
    }

    /// Deletes the dead letter with this id, if it exists.
    pub(crate) fn delete_dead_letter(&mut self, id: u64) -> rusqlite::Result<Option<Requeued>> {
        let sql = "DELETE FROM dead_letters WHERE id = ?1 RETURNING order_key, blocks_key, octet_length(body)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let row = statement.query_row([signed(id)], |row| {
            let (key, blocked) = (row::key(row, 0)?, row.get(1)?);
            let size = row::number(row, 2)?;
            Ok(Requeued { key, blocked, size })
        });
        let deleted = row.optional()?;
        drop(statement);
        if let Some(Requeued { size, .. }) = deleted {
            let totals = &mut self.totals;
            totals.dead_letters = totals.dead_letters.saturating_sub(1);
            totals.dead_letter_bytes = totals.dead_letter_bytes.saturating_sub(size);
        }
        Ok(deleted)
    }

    /// Turns a dead letter back into an event with the same id. Routes that handled the event don't run again.
    pub(crate) fn requeue(
        &mut self,
        letter: &DeadLetter,
        due_at: u64,
    ) -> rusqlite::Result<Option<Requeued>> {
        let done = Progress::replayed(letter.routes());
        let routes = (!done.ends().is_empty()).then(|| row::routes(done.ends()));
        let sql = "INSERT INTO events (id, received_at, order_key, due_at, routes, body) SELECT id, received_at, order_key, ?2, ?3, body FROM dead_letters WHERE id = ?1";
        self.run(sql, params![signed(letter.id()), signed(due_at), routes])?;
        let requeued = self.delete_dead_letter(letter.id())?;
        if let Some(Requeued { size, .. }) = requeued {
            self.totals.events += 1;
            self.totals.event_bytes += size;
            self.wrote(letter.body().len());
        }
        Ok(requeued)
    }

    /// Unblocks the ordering keys of all dead letters.
    pub(crate) fn unblock_keys(&mut self) -> rusqlite::Result<()> {
        let sql = "UPDATE dead_letters SET blocks_key = 0 WHERE blocks_key = 1";
        self.run(sql, [])?;
        Ok(())
    }

    /// Returns the ordering keys that dead letters block.
    pub(crate) fn blocked_keys(&self) -> rusqlite::Result<Vec<OrderKey>> {
        let sql = "SELECT order_key FROM dead_letters WHERE blocks_key = 1";
        let mut statement = self.connection.prepare(sql)?;
        let keys = statement.query_map([], |row| row::key(row, 0))?;
        keys.filter_map(Result::transpose).collect()
    }

    /// Returns whether the dead letter with this id exists and blocks its ordering key.
    pub(crate) fn blocks_key(&self, id: u64) -> rusqlite::Result<bool> {
        let sql = "SELECT 1 FROM dead_letters WHERE id = ?1 AND blocks_key = 1";
        self.connection.prepare_cached(sql)?.exists([signed(id)])
    }

    /// Returns up to `limit` dead letters with ids above `after`.
    pub(crate) fn dead_letters(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<Vec<DeadLetter>> {
        let sql = format!("SELECT {LETTER} FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let letters = statement.query_map(page(after, limit), letter)?;
        letters.collect()
    }

    pub(crate) fn find_dead_letter(&self, id: u64) -> rusqlite::Result<Option<DeadLetter>> {
        let sql = format!("SELECT {LETTER} FROM dead_letters WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        statement.query_row([signed(id)], letter).optional()
    }

    /// Returns up to `limit` dead letters with ids above `after`: the id, the event type, and the time by the inbox's
    /// clock.
    pub(crate) fn dead_letter_types(
        &self,
        after: Option<u64>,
        limit: usize,
    ) -> rusqlite::Result<Vec<(u64, String, u64)>> {
        let sql = "SELECT id, event_type, kept_since FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let rows = statement.query_map(page(after, limit), |row| {
            Ok((row::number(row, 0)?, row.get(1)?, row::number(row, 2)?))
        })?;
        rows.collect()
    }

    /// Returns the ids of up to `limit` dead letters that are older than `time`, by the inbox's clock.
    pub(crate) fn dead_letters_before(
        &self,
        time: u64,
        limit: usize,
    ) -> rusqlite::Result<Vec<u64>> {
        let sql = "SELECT id FROM dead_letters WHERE kept_since < ?1 ORDER BY kept_since LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let params = [signed(time), signed(limit as u64)];
        let ids = statement.query_map(params, |row| row::number(row, 0))?;
        ids.collect()
    }
}

impl Requeued {
    /// Returns the ordering key that the dead letter no longer blocks.
    pub(crate) fn unblocked(self) -> Option<OrderKey> {
        self.key.filter(|_| self.blocked)
    }
}

fn page(after: Option<u64>, limit: usize) -> [i64; 2] {
    [after.map_or(-1, signed), signed(limit as u64)]
}
