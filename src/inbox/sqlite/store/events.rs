use rusqlite::{OptionalExtension, params};

use super::Store;
use super::row::{self, Head, StoredEvent, signed};
use crate::delivery::{OrderKey, Progress};
use crate::event::Event;
use crate::runtime::to_millis;

/// The table `events`.
impl Store {
    /// Adds events with their ids. Each id is higher than the ids of all earlier events.
    pub(crate) fn insert<'a>(
        &mut self,
        events: impl Iterator<Item = (u64, &'a Event, Option<&'a OrderKey>)>,
    ) -> rusqlite::Result<()> {
        let sql = "INSERT INTO events (id, received_at, order_key, body) VALUES (?1, ?2, ?3, ?4)";
        let mut statement = self.connection.prepare_cached(sql)?;
        let (totals, mut bytes) = (&mut self.totals, 0);
        for (id, event, key) in events {
            let received_at = signed(to_millis(event.received_at()));
            let key = key.map(|key| &key[..]);
            statement.execute(params![signed(id), received_at, key, event.body()])?;
            totals.next_id = id + 1;
            totals.events += 1;
            bytes += event.body().len();
        }
        totals.event_bytes += bytes as u64;
        drop(statement);
        self.wrote(bytes);
        Ok(())
    }

    /// Deletes events, each given by its id and the size of its body.
    pub(crate) fn delete_events(&mut self, events: &mut [(u64, usize)]) -> rusqlite::Result<()> {
        // Consecutive events usually end together, so one statement deletes each range of consecutive ids.
        events.sort_unstable();
        for run in events.chunk_by(|(id, _), (next, _)| id + 1 == *next) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let sql = "DELETE FROM events WHERE id BETWEEN ?1 AND ?2";
            let deleted = self.run(sql, [signed(first), signed(last)])?;
            let totals = &mut self.totals;
            totals.events = totals.events.saturating_sub(deleted as u64);
            if deleted > 0 {
                let size = run.iter().map(|(_, size)| *size as u64).sum();
                totals.event_bytes = totals.event_bytes.saturating_sub(size);
            }
        }
        Ok(())
    }

    /// Writes the progress of an event, and the due time of its next attempt.
    pub(crate) fn reschedule(
        &mut self,
        id: u64,
        progress: &Progress,
        due_at: u64,
    ) -> rusqlite::Result<()> {
        let ends = progress.ends();
        let routes = (!ends.is_empty()).then(|| row::routes(ends));
        let sql = "UPDATE events SET attempt = ?2, due_at = ?3, routes = ?4, routes_waiting = ?5, running = 0, crashes = 0 WHERE id = ?1";
        let (attempt, waiting) = (progress.attempts(), progress.is_routed());
        self.run(
            sql,
            params![signed(id), attempt, signed(due_at), routes, waiting],
        )?;
        Ok(())
    }

    /// Appends up to `limit` heads of the events after `id` to `heads`. After an error, `heads` contains the heads
    /// before the unreadable row.
    pub(crate) fn heads(
        &self,
        after: u64,
        limit: usize,
        heads: &mut Vec<Head>,
    ) -> rusqlite::Result<()> {
        // `id > ?1` would also read the page of `after`, which may be corrupt.
        let sql = "SELECT id, order_key, due_at, octet_length(body) FROM events WHERE id >= ?1 ORDER BY id LIMIT ?2";
        let mut statement = self.connection.prepare_cached(sql)?;
        let params = [signed(after.saturating_add(1)), signed(limit as u64)];
        for head in statement.query_map(params, Head::read)? {
            heads.push(head?);
        }
        Ok(())
    }

    pub(crate) fn event(&self, id: u64) -> rusqlite::Result<Option<StoredEvent>> {
        let columns = StoredEvent::COLUMNS;
        let sql = format!("SELECT {columns} FROM events WHERE id = ?1");
        let mut statement = self.connection.prepare_cached(&sql)?;
        let event = statement.query_row([signed(id)], StoredEvent::read);
        event.optional()
    }

    /// Returns an event's ordering key, without reading its body.
    pub(crate) fn order_key(&self, id: u64) -> rusqlite::Result<Option<OrderKey>> {
        let sql = "SELECT order_key FROM events WHERE id = ?1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let key = statement.query_row([signed(id)], |row| row::key(row, 0));
        Ok(key.optional()?.flatten())
    }

    /// Marks an event as running before it runs.
    pub(crate) fn set_running(&mut self, id: u64) -> rusqlite::Result<()> {
        self.run("UPDATE events SET running = 1 WHERE id = ?1", [signed(id)])?;
        Ok(())
    }

    /// Clears the running mark of all events, because the process is shutting down.
    pub(crate) fn clear_running(&mut self) -> rusqlite::Result<()> {
        self.run("UPDATE events SET running = 0 WHERE running = 1", [])?;
        Ok(())
    }

    /// Counts a crash for each event that was running when an earlier process ended.
    pub(crate) fn count_crashes(&mut self) -> rusqlite::Result<()> {
        let sql = "UPDATE events SET crashes = crashes + 1, running = 0 WHERE running = 1";
        self.run(sql, [])?;
        Ok(())
    }
}
