use rusqlite::{OptionalExtension, params};

use super::store::Store;
use super::stored::{Head, StoredEvent, routes, signed};
use crate::delivery::{OrderKey, Progress};
use crate::event::Event;
use crate::runtime::to_millis;

/// The events that haven't ended.
impl Store {
    /// Adds events, whose ids are those from [`next_id`](Totals::next_id) on.
    pub(super) fn insert<'a>(
        &mut self,
        events: impl Iterator<Item = (&'a Event, Option<&'a OrderKey>)>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO events (id, received_at, order_key, body) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (totals, mut bytes) = (&mut self.totals, 0);
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
            bytes += event.body().len();
        }
        drop(statement);
        self.wrote(bytes);
        Ok(())
    }

    /// Deletes an event whose body has `size` bytes.
    pub(super) fn delete(&mut self, id: u64, size: usize) -> rusqlite::Result<()> {
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
        progress: &Progress,
        due_at: u64,
    ) -> rusqlite::Result<()> {
        let ends = progress.ends();
        let routes = (!ends.is_empty()).then(|| routes(ends));
        let sql = "UPDATE events SET attempt = ?2, due_at = ?3, routes = ?4, routed = ?5, marked = 0, crashes = 0 WHERE id = ?1";
        self.run(
            sql,
            params![
                signed(id),
                progress.attempts(),
                signed(due_at),
                routes,
                progress.is_routed()
            ],
        )?;
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

    /// Returns what an event is put in order by, without reading its body.
    pub(super) fn key(&self, id: u64) -> rusqlite::Result<Option<OrderKey>> {
        let sql = "SELECT order_key FROM events WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let key = statement.query_row([signed(id)], |row| row.get::<_, Option<Vec<u8>>>(0));
        Ok(key.optional()?.flatten().map(OrderKey::from))
    }

    /// Marks an event that an earlier process left as one that runs.
    pub(super) fn mark(&mut self, id: u64) -> rusqlite::Result<()> {
        self.run("UPDATE events SET marked = 1 WHERE id = ?1", [signed(id)])?;
        Ok(())
    }

    /// Takes all marks off.
    pub(super) fn unmark_all(&mut self) -> rusqlite::Result<()> {
        self.run("UPDATE events SET marked = 0 WHERE marked = 1", [])?;
        Ok(())
    }

    /// Counts a crash for each event that an earlier process left marked, and takes the marks off.
    pub(super) fn count_crashes(&mut self) -> rusqlite::Result<usize> {
        let sql = "UPDATE events SET crashes = crashes + 1, marked = 0 WHERE marked = 1";
        self.run(sql, [])
    }
}
