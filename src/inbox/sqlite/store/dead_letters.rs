use rusqlite::{Result, Row, params};

use super::Store;
use super::row::{self, appended, number, signed};
use crate::delivery::{
    AttemptRecord, DeadLetter, EventRecord, EventState, OrderKey, Progress, Replay,
};
use crate::inbox::sqlite::volume::Volume;
use crate::inbox::stored_json;
use crate::runtime::to_millis;

/// The limits of the stored dead letters, and whether dead letters block their ordering keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DeadLetterLimits {
    pub(crate) volume: Volume,
    pub(crate) block_key: bool,
}

/// An ended event that was deleted, and may be in flight again.
#[derive(Debug)]
pub(crate) struct Requeued {
    pub(crate) id: u64,
    pub(crate) key: Option<OrderKey>,
    /// Whether the dead letter blocked `key`.
    pub(crate) blocked: bool,
    /// The size of the stored body in bytes.
    size: u64,
}

impl Requeued {
    /// Reads `order_key, blocks_key, octet_length(body)`.
    fn read(id: u64, row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            id,
            key: row::key(row, 0)?,
            blocked: row.get(1)?,
            size: number(row, 2)?,
        })
    }
}

/// The table `dead_letters`.
impl Store {
    /// Moves an event with its last attempt to the dead letters, and drops the oldest dead letters beyond the limits. The event's stored body
    /// has `stored_size` bytes. The letter's body is longer if the stored body contains invalid UTF-8.
    pub(crate) fn dead_letter(
        &mut self,
        letter: &DeadLetter,
        attempt: Option<&AttemptRecord>,
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
            self.insert_dead_letter(letter, attempt, key, blocks.is_some())?;
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
        attempt: Option<&AttemptRecord>,
        key: Option<&OrderKey>,
        blocks_key: bool,
    ) -> Result<()> {
        let event = letter.event();
        let event_type = event.map_or("", |event| event.event_type().as_str());
        let sql = concat!(
            "INSERT OR REPLACE INTO dead_letters (id, message_id, event_type, received_at, dead_lettered_at, kept_since, attempts, routes, cause, order_key, blocks_key, body, traceparent, history) VALUES (?1, coalesce((SELECT message_id FROM message_ids WHERE id = ?1), ?2), ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, (SELECT traceparent FROM events WHERE id = ?1), (SELECT CASE WHEN ?13 IS NULL THEN history ELSE ",
            appended!("?13"),
            " END FROM events WHERE id = ?1))"
        );
        let params = params![
            signed(letter.id()),
            letter.message_id(),
            event_type,
            signed(to_millis(letter.received_at())),
            signed(to_millis(letter.dead_lettered_at())),
            signed(self.totals.clock.now),
            letter.attempts(),
            stored_json::routes(letter.routes()),
            letter.cause(),
            key.map(|key| &key[..]),
            blocks_key,
            letter.body(),
            attempt.map(stored_json::attempt)
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

    /// Turns ended events back into events in flight, while an inbox that holds `held` has space within `limit`. Returns the events,
    /// and whether the inbox has no space for the next one.
    pub(crate) fn requeue(
        &mut self,
        records: &[EventRecord],
        routes: &Replay,
        due_at: u64,
        mut held: Volume,
        limit: Volume,
    ) -> Result<(Vec<Requeued>, bool)> {
        let mut requeued = Vec::new();
        for record in records {
            let size = record.body().len() as u64;
            // Events that wait for this dead letter may take all the space. Without the replay, that space would stay
            // taken.
            if !held.has_space(limit, size) && !self.blocks_key(record.id())? {
                return Ok((requeued, true));
            }
            held.add(size);
            requeued.extend(self.requeue_one(record, routes, due_at)?);
        }
        Ok((requeued, false))
    }

    /// Turns an ended event back into an event in flight with the same id.
    fn requeue_one(
        &mut self,
        record: &EventRecord,
        routes: &Replay,
        due_at: u64,
    ) -> Result<Option<Requeued>> {
        let is_dead = record.state() == EventState::Dead;
        let results = stored_json::finished_routes(&Progress::replay(record.routes(), routes));
        let only = match routes {
            Replay::Only(route) => Some(route),
            Replay::Remaining | Replay::All => None,
        };
        let sql = match is_dead {
            true => {
                "INSERT INTO events (id, received_at, order_key, due_at, routes, only_route, history, body, traceparent) SELECT id, received_at, order_key, ?2, ?3, ?4, history, body, traceparent FROM dead_letters WHERE id = ?1"
            }
            false => {
                "INSERT INTO events (id, received_at, order_key, due_at, routes, only_route, history, body, traceparent) SELECT id, received_at, order_key, ?2, ?3, ?4, history, body, traceparent FROM handled WHERE id = ?1 RETURNING order_key, 0, octet_length(body)"
            }
        };
        let id = record.id();
        let params = params![signed(id), signed(due_at), results, only];
        let requeued = if is_dead {
            self.run(sql, params)?;
            self.remove_dead_letter(id)?
        } else {
            let requeued = self.row(sql, params, |row| Requeued::read(id, row))?;
            self.delete_handled(id)?;
            requeued
        };
        if let Some(Requeued { size, .. }) = requeued {
            self.totals.events.add(size);
            self.wal.wrote(size);
        }
        Ok(requeued)
    }

    fn remove_dead_letter(&mut self, id: u64) -> Result<Option<Requeued>> {
        let sql = "DELETE FROM dead_letters WHERE id = ?1 RETURNING order_key, blocks_key, octet_length(body)";
        let deleted = self.row(sql, [signed(id)], |row| Requeued::read(id, row))?;
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

    /// Returns the ids of up to `limit` dead letters that are older than `time`, by the inbox's clock.
    pub(crate) fn dead_letters_before(&self, time: u64, limit: usize) -> Result<Vec<u64>> {
        let sql = "SELECT id FROM dead_letters WHERE kept_since < ?1 ORDER BY kept_since LIMIT ?2";
        let params = [signed(time), signed(limit as u64)];
        self.rows(sql, params, |row| number(row, 0))
    }
}
