use std::time::SystemTime;

use rusqlite::{Result, params};

use super::Store;
use super::row::{appended, number, signed};
use crate::delivery::{AttemptRecord, EventOutcome, RouteResult};
use crate::event::Event;
use crate::inbox::sqlite::volume::Volume;
use crate::inbox::stored_json;
use crate::runtime::to_millis;

/// A handled or unhandled event that the inbox keeps.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) event: Event,
    pub(crate) routes: Vec<RouteResult>,
    pub(crate) attempts: u32,
    /// The last attempt.
    pub(crate) attempt: AttemptRecord,
    pub(crate) ended_at: SystemTime,
}

/// The table `handled`.
impl Store {
    /// Copies an event that ended from `events`. The caller deletes the event there.
    pub(crate) fn keep(&mut self, id: u64, outcome: EventOutcome, kept: &Kept) -> Result<()> {
        let sql = concat!(
            "INSERT OR REPLACE INTO handled (id, message_id, event_type, received_at, ended_at, kept_since, unhandled, attempts, routes, history, order_key, traceparent, body) SELECT id, ?9, ?2, received_at, ?3, ?4, ?5, ?6, ?7, ",
            appended!("?8"),
            ", order_key, traceparent, body FROM events WHERE id = ?1 RETURNING octet_length(body)"
        );
        let params = params![
            signed(id),
            kept.event.event_type().as_str(),
            signed(to_millis(kept.ended_at)),
            signed(self.totals.clock.now),
            outcome == EventOutcome::Unhandled,
            kept.attempts,
            stored_json::routes(&kept.routes),
            stored_json::attempt(&kept.attempt),
            kept.event.id(),
        ];
        if let Some(size) = self.row(sql, params, |row| number(row, 0))? {
            self.totals.handled.add(size);
            self.wal.wrote(size);
        }
        Ok(())
    }

    /// Deletes the oldest handled events beyond the limit.
    pub(crate) fn limit_handled(&mut self, limit: Volume) -> Result<()> {
        while self.totals.handled.exceeds(limit) {
            let excess = self
                .totals
                .handled
                .events
                .saturating_sub(limit.events)
                .max(1);
            let sql = "DELETE FROM handled WHERE id IN (SELECT id FROM handled ORDER BY kept_since, id LIMIT ?1) RETURNING octet_length(body)";
            let deleted = self.rows(sql, [signed(excess)], |row| number(row, 0))?;
            if deleted.is_empty() {
                break;
            }
            deleted
                .into_iter()
                .for_each(|size| self.totals.handled.remove(size));
        }
        Ok(())
    }

    /// Returns whether a handled event is older than `time`, by the inbox's clock.
    pub(crate) fn has_handled_before(&self, time: u64) -> Result<bool> {
        let sql = "SELECT 1 FROM handled WHERE kept_since < ?1 LIMIT 1";
        Ok(self.row(sql, [signed(time)], |_| Ok(()))?.is_some())
    }

    /// Deletes up to `limit` handled events that are older than `time`, by the inbox's clock. Returns how many.
    pub(crate) fn delete_handled_before(&mut self, time: u64, limit: usize) -> Result<usize> {
        let sql = "DELETE FROM handled WHERE id IN (SELECT id FROM handled WHERE kept_since < ?1 ORDER BY kept_since LIMIT ?2) RETURNING octet_length(body)";
        let params = [signed(time), signed(limit as u64)];
        let deleted = self.rows(sql, params, |row| number(row, 0))?;
        let count = deleted.len();
        deleted
            .into_iter()
            .for_each(|size| self.totals.handled.remove(size));
        Ok(count)
    }

    /// Deletes a handled event, and returns whether it existed.
    pub(crate) fn delete_handled(&mut self, id: u64) -> Result<bool> {
        let sql = "DELETE FROM handled WHERE id = ?1 RETURNING octet_length(body)";
        let deleted = self.row(sql, [signed(id)], |row| number(row, 0))?;
        deleted
            .into_iter()
            .for_each(|size| self.totals.handled.remove(size));
        Ok(deleted.is_some())
    }
}
