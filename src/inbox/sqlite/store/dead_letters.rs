use rusqlite::{Result, params};

use super::Store;
use super::row::{self, LETTER, letter, number, signed, text};
use crate::delivery::{DeadLetter, OrderKey, Progress};
use crate::inbox::sqlite::volume::Volume;
use crate::runtime::to_millis;

/// The limits of the stored dead letters, and whether dead letters block their ordering keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeadLetterLimits {
    pub(crate) volume: Volume,
    pub(crate) block_key: bool,
}

/// A deleted dead letter, which may be an event again.
#[derive(Debug)]
pub(crate) struct Requeued {
    pub(crate) id: u64,
    pub(crate) key: Option<OrderKey>,
    /// Whether the dead letter blocked `key`.
    pub(crate) blocked: bool,
    /// The size of the stored body in bytes.
    size: u64,
}

/// The table `dead_letters`.
impl Store {
    /// Moves an event to the dead letters, and drops the oldest dead letters beyond the limits. The event's stored body
    /// has `stored_size` bytes. The letter's body is longer if the stored body contains invalid UTF-8.
    pub(crate) fn dead_letter(
        &mut self,
        letter: &DeadLetter,
        stored_size: u64,
        key: Option<&OrderKey>,
        limits: DeadLetterLimits,
    ) -> Result<()> {
        let blocks = key.filter(|_| limits.block_key);
        if letter.body().len() as u64 > limits.volume.bytes {
            // This letter would displace all others and then be dropped itself.
            self.totals.dropped += 1;
            self.unblocked.extend(blocks.cloned());
        } else {
            self.insert_dead_letter(letter, key, blocks.is_some())?;
        }
        self.delete_events(&mut [(letter.id(), stored_size)])?;
        while self.totals.dead_letters.exceeds(limits.volume) {
            let sql = "SELECT id FROM dead_letters ORDER BY kept_since, id LIMIT 1";
            let Some(oldest) = self.row(sql, [], |row| number(row, 0))? else {
                break;
            };
            self.delete_dead_letters(&[oldest])?;
            self.totals.dropped += 1;
        }
        Ok(())
    }

    fn insert_dead_letter(
        &mut self,
        letter: &DeadLetter,
        key: Option<&OrderKey>,
        blocks_key: bool,
    ) -> Result<()> {
        let event = letter.event();
        let event_type = event.map_or("", |event| event.event_type().as_str());
        let sql = "INSERT OR REPLACE INTO dead_letters (id, message_id, event_type, received_at, dead_lettered_at, kept_since, attempts, routes, cause, order_key, blocks_key, body, traceparent) VALUES (?1, coalesce((SELECT message_id FROM message_ids WHERE id = ?1), ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, (SELECT traceparent FROM events WHERE id = ?1))";
        let params = params![
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
        ];
        self.run(sql, params)?;
        let size = letter.body().len() as u64;
        self.totals.dead_letters.add(size);
        self.wal.wrote(size);
        Ok(())
    }

    /// Deletes dead letters, and returns how many existed.
    pub(crate) fn delete_dead_letters(&mut self, ids: &[u64]) -> Result<usize> {
        let mut count = 0;
        for id in ids {
            if let Some(deleted) = self.remove_dead_letter(*id)? {
                count += 1;
                let blocked = deleted.key.filter(|_| deleted.blocked);
                self.unblocked.extend(blocked);
            }
        }
        Ok(count)
    }

    /// Turns dead letters back into events, while an inbox that holds `held` has space within `limit`. Returns the events,
    /// and whether the inbox has no space for the next one.
    pub(crate) fn requeue(
        &mut self,
        letters: &[DeadLetter],
        due_at: u64,
        mut held: Volume,
        limit: Volume,
    ) -> Result<(Vec<Requeued>, bool)> {
        let mut requeued = Vec::new();
        for letter in letters {
            let size = letter.body().len() as u64;
            // Events that wait for this dead letter may take all the space. Without the replay, that space would stay
            // taken.
            if !held.has_space(limit, size) && !self.blocks_key(letter.id())? {
                return Ok((requeued, true));
            }
            held.add(size);
            requeued.extend(self.requeue_one(letter, due_at)?);
        }
        Ok((requeued, false))
    }

    /// Turns a dead letter back into an event with the same id. Routes that handled the event don't run again.
    fn requeue_one(&mut self, letter: &DeadLetter, due_at: u64) -> Result<Option<Requeued>> {
        let routes = row::finished_routes(&Progress::replayed(letter.routes()));
        let sql = "INSERT INTO events (id, received_at, order_key, due_at, routes, body, traceparent) SELECT id, received_at, order_key, ?2, ?3, body, traceparent FROM dead_letters WHERE id = ?1";
        self.run(sql, params![signed(letter.id()), signed(due_at), routes])?;
        let requeued = self.remove_dead_letter(letter.id())?;
        if let Some(Requeued { size, .. }) = requeued {
            self.totals.events.add(size);
            self.wal.wrote(size);
        }
        Ok(requeued)
    }

    fn remove_dead_letter(&mut self, id: u64) -> Result<Option<Requeued>> {
        let sql = "DELETE FROM dead_letters WHERE id = ?1 RETURNING order_key, blocks_key, octet_length(body)";
        let deleted = self.row(sql, [signed(id)], |row| {
            Ok(Requeued {
                id,
                key: row::key(row, 0)?,
                blocked: row.get(1)?,
                size: number(row, 2)?,
            })
        })?;
        if let Some(Requeued { size, .. }) = deleted {
            self.totals.dead_letters.remove(size);
        }
        Ok(deleted)
    }

    /// Unblocks the ordering keys of all dead letters.
    pub(crate) fn unblock_keys(&mut self) -> Result<usize> {
        let sql = "UPDATE dead_letters SET blocks_key = 0 WHERE blocks_key = 1";
        self.run(sql, [])
    }

    /// Returns the ordering keys that dead letters block.
    pub(crate) fn blocked_keys(&self) -> Result<Vec<OrderKey>> {
        let sql = "SELECT order_key FROM dead_letters WHERE blocks_key = 1 AND order_key NOT NULL";
        let keys = self.rows(sql, [], |row| row::key(row, 0))?;
        Ok(keys.into_iter().flatten().collect())
    }

    /// Returns whether the dead letter with this id exists and blocks its ordering key.
    fn blocks_key(&self, id: u64) -> Result<bool> {
        let sql = "SELECT 1 FROM dead_letters WHERE id = ?1 AND blocks_key = 1";
        Ok(self.row(sql, [signed(id)], |_| Ok(()))?.is_some())
    }

    /// Returns up to `limit` dead letters with ids above `after`.
    pub(crate) fn dead_letters(&self, after: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>> {
        let sql = format!("SELECT {LETTER} FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2");
        self.rows(&sql, page(after, limit), letter)
    }

    pub(crate) fn find_dead_letter(&self, id: u64) -> Result<Option<DeadLetter>> {
        let sql = format!("SELECT {LETTER} FROM dead_letters WHERE id = ?1");
        self.row(&sql, [signed(id)], letter)
    }

    /// Reads up to `limit` dead letters with ids above `after`, until the chosen ones have `max_bytes` bytes. `is_chosen`
    /// gets the event type, and the time by the inbox's clock. Returns the chosen dead letters, and the id after which to
    /// continue.
    pub(crate) fn choose_dead_letters(
        &self,
        after: Option<u64>,
        limit: usize,
        max_bytes: usize,
        is_chosen: impl Fn(&str, u64) -> bool,
    ) -> Result<(Vec<DeadLetter>, Option<u64>)> {
        let sql = format!(
            "SELECT {LETTER}, event_type, kept_since FROM dead_letters WHERE id > ?1 ORDER BY id LIMIT ?2"
        );
        let (mut chosen, mut bytes, mut last) = (Vec::new(), 0, None);
        self.each(&sql, page(after, limit), |row| {
            if bytes < max_bytes {
                last = Some(number(row, 0)?);
                if is_chosen(&text(row, 9)?, number(row, 10)?) {
                    let letter = letter(row)?;
                    bytes += letter.body().len();
                    chosen.push(letter);
                }
            }
            Ok(())
        })?;
        Ok((chosen, last))
    }

    /// Returns the ids of up to `limit` dead letters that are older than `time`, by the inbox's clock.
    pub(crate) fn dead_letters_before(&self, time: u64, limit: usize) -> Result<Vec<u64>> {
        let sql = "SELECT id FROM dead_letters WHERE kept_since < ?1 ORDER BY kept_since LIMIT ?2";
        let params = [signed(time), signed(limit as u64)];
        self.rows(sql, params, |row| number(row, 0))
    }
}

fn page(after: Option<u64>, limit: usize) -> [i64; 2] {
    [after.map_or(-1, signed), signed(limit as u64)]
}
