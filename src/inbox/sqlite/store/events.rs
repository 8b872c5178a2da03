use std::collections::HashSet;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Result, params};

use super::Store;
use super::row::{self, Head, StoredEvent, appended, signed};
use crate::delivery::{AttemptRecord, OrderKey, Progress};
use crate::event::Event;
use crate::inbox::stored_json;
use crate::runtime::to_millis;

/// The table `events`.
impl Store {
    /// Adds events with their ids. Each id is higher than the ids of all earlier events. If `remember` is true, also adds
    /// the message ids.
    pub(crate) fn insert<'a>(
        &mut self,
        events: impl Iterator<Item = (u64, &'a Event, Option<&'a OrderKey>)>,
        remember: bool,
    ) -> Result<()> {
        let sql = "INSERT INTO events (id, received_at, order_key, body, traceparent) VALUES (?1, ?2, ?3, ?4, ?5)";
        let mut insert = self.connection.prepare_cached(sql)?;
        let sql = "INSERT INTO message_ids (id, accepted_at, message_id) VALUES (?1, ?2, ?3)";
        let mut insert_id = self.connection.prepare_cached(sql)?;
        let accepted_at = signed(self.totals.clock.now);
        for (id, event, key) in events {
            let (number, size) = (signed(id), event.body().len() as u64);
            let received_at = signed(to_millis(event.received_at()));
            let key = key.map(|key| &key[..]);
            let (body, traceparent) = (event.body(), event.traceparent());
            insert.execute(params![number, received_at, key, body, traceparent])?;
            if remember {
                insert_id.execute(params![number, accepted_at, event.id()])?;
            }
            self.totals.next_id = id + 1;
            self.totals.events.add(size);
            self.wal.wrote(size);
        }
        Ok(())
    }

    /// Deletes events, each given by its id and the size of its body.
    pub(crate) fn delete_events(&mut self, events: &mut [(u64, u64)]) -> Result<()> {
        // Consecutive events usually end together, so one statement deletes each range of consecutive ids.
        events.sort_unstable();
        for run in events.chunk_by(|(id, _), (next, _)| id + 1 == *next) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let sql = "DELETE FROM events WHERE id BETWEEN ?1 AND ?2";
            let deleted = self.run(sql, [signed(first), signed(last)])?;
            self.totals.missing += (run.len() - deleted) as u64;
            for (_, size) in &run[..deleted] {
                self.totals.events.remove(*size);
            }
        }
        Ok(())
    }

    /// Writes the progress of an event, the due time of its next attempt, and its last attempt.
    pub(crate) fn reschedule(
        &mut self,
        id: u64,
        progress: &Progress,
        due_at: u64,
        attempt: &AttemptRecord,
    ) -> Result<()> {
        let sql = concat!(
            "UPDATE events SET attempt = ?2, due_at = ?3, routes = ?4, routes_waiting = ?5, waiting = ?7, running = 0, crashes = 0, history = ",
            appended!("?6"),
            " WHERE id = ?1"
        );
        let params = params![
            signed(id),
            progress.attempts(),
            signed(due_at),
            stored_json::finished_routes(progress),
            progress.is_routed(),
            stored_json::attempt(attempt),
            stored_json::waiting_routes(progress)
        ];
        self.run(sql, params).map(drop)
    }

    /// Appends up to `limit` heads of the events after `id` to `heads`. After an error, `heads` contains the heads
    /// before the unreadable row.
    pub(crate) fn heads(&self, after: u64, limit: usize, heads: &mut Vec<Head>) -> Result<()> {
        // `id > ?1` would also read the page of `after`, which may be corrupt.
        let sql = "SELECT id, order_key, due_at, octet_length(body) FROM events WHERE id >= ?1 ORDER BY id LIMIT ?2";
        let page = [signed(after.saturating_add(1)), signed(limit as u64)];
        self.each(sql, page, |row| {
            heads.push(Head::read(row)?);
            Ok(())
        })
    }

    pub(crate) fn event(&self, id: u64) -> Result<Option<StoredEvent>> {
        let sql = "SELECT id, received_at, order_key, attempt, routes, crashes, routes_waiting, body, traceparent, only_route, waiting FROM events WHERE id = ?1";
        self.row(sql, [signed(id)], StoredEvent::read)
    }

    /// Marks an event as running before it runs.
    pub(crate) fn set_running(&mut self, id: u64) -> Result<usize> {
        self.run("UPDATE events SET running = 1 WHERE id = ?1", [signed(id)])
    }

    /// Clears the running mark of an event that waits for the limits of a route.
    pub(crate) fn clear_running_mark(&mut self, id: u64) -> Result<usize> {
        let sql = "UPDATE events SET running = 0 WHERE id = ?1 AND running = 1";
        self.run(sql, [signed(id)])
    }

    /// Returns the id of the oldest event, and when the event was received.
    pub(crate) fn oldest(&self) -> Result<Option<(u64, SystemTime)>> {
        let sql = "SELECT id, received_at FROM events ORDER BY id LIMIT 1";
        let mut statement = self.connection.prepare_cached(sql)?;
        let oldest = statement.query_row([], |row| {
            Ok((
                row::number(row, 0)?,
                stored_json::time(row::number(row, 1)?),
            ))
        });
        oldest.optional()
    }

    /// Returns the ids of the events with the running mark.
    pub(crate) fn marked_running(&self) -> Result<HashSet<u64>> {
        let ids = self.rows("SELECT id FROM events WHERE running = 1", [], |row| {
            row::number(row, 0)
        })?;
        Ok(ids.into_iter().collect())
    }

    /// Clears the running mark of all events, because the process is shutting down.
    pub(crate) fn clear_running(&mut self) -> Result<usize> {
        self.run("UPDATE events SET running = 0 WHERE running = 1", [])
    }

    /// Counts a crash for each event that was running when an earlier process ended.
    pub(crate) fn count_crashes(&mut self) -> Result<usize> {
        let sql = "UPDATE events SET crashes = crashes + 1, running = 0 WHERE running = 1";
        self.run(sql, [])
    }
}
