use rusqlite::{Result, Row};

use super::Store;
use super::row::{self, number, signed, small, text};
use crate::delivery::{EventRecord, EventState, StoredRecord};
use crate::inbox::stored_json::{self, time};

/// The tables that a query reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Select {
    pub(crate) in_flight: bool,
    pub(crate) dead: bool,
    pub(crate) handled: bool,
}

/// The start and the order of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cursor {
    /// Ids below this id, the highest first.
    Before(u64),
    /// Ids above this id, the lowest first.
    After(u64),
}

/// The maximum size of the bodies that a query reads, in bytes. The last body may exceed this limit.
const MAX_BYTES: usize = 16 << 20;

/// A record, and when its event ended by the inbox's clock.
pub(crate) struct Logged {
    pub(crate) record: EventRecord,
    pub(crate) kept_since: u64,
}

/// All events: the tables `events`, `dead_letters` and `handled`.
impl Store {
    /// Reads up to `limit` events, and calls `each` for every event. `now` is the time by the inbox's clock, and `is_running` tells
    /// whether an event is running. Returns the id of the last event, or `None` if there are no further events.
    pub(crate) fn log(
        &self,
        select: Select,
        cursor: Cursor,
        limit: usize,
        now: u64,
        is_running: impl Fn(u64) -> bool,
        mut each: impl FnMut(Logged),
    ) -> Result<Option<u64>> {
        let (comparison, order, id) = match cursor {
            Cursor::Before(id) => ("<", "DESC", id),
            Cursor::After(id) => (">", "ASC", id),
        };
        let tables = [
            (
                select.in_flight,
                "SELECT id, 0 AS kind, received_at, due_at, 0 AS kept_since, attempt, routes, NULL AS cause, '' AS message_id, body, traceparent, history FROM events",
            ),
            (
                select.dead,
                "SELECT id, 1, received_at, dead_lettered_at, kept_since, attempts, routes, cause, message_id, body, traceparent, history FROM dead_letters",
            ),
            (
                select.handled,
                "SELECT id, 2 + unhandled, received_at, ended_at, kept_since, attempts, routes, NULL, message_id, body, traceparent, history FROM handled",
            ),
        ];
        let tables = tables.iter().filter(|(is_selected, _)| *is_selected);
        let tables: Vec<_> = tables
            .map(|(_, table)| format!("{table} WHERE id {comparison} ?1"))
            .collect();
        if tables.is_empty() {
            return Ok(None);
        }
        // SQLite merges the tables in the order of their ids, row by row.
        let sql = format!(
            "{} ORDER BY id {order} LIMIT ?2",
            tables.join(" UNION ALL ")
        );
        let mut statement = self.connection.prepare_cached(&sql)?;
        let mut rows = statement.query([signed(id), signed(limit as u64)])?;
        let (mut count, mut bytes, mut last) = (0, 0, None);
        while bytes < MAX_BYTES
            && let Some(row) = rows.next()?
        {
            let logged = logged(row, now, &is_running)?;
            (count, bytes) = (count + 1, bytes + logged.record.body().len());
            last = Some(logged.record.id());
            each(logged);
        }
        Ok(last.filter(|_| count == limit || bytes >= MAX_BYTES))
    }

    /// Returns the event with this id.
    pub(crate) fn logged(
        &self,
        id: u64,
        now: u64,
        is_running: impl Fn(u64) -> bool,
    ) -> Result<Option<EventRecord>> {
        let all = Select {
            in_flight: true,
            dead: true,
            handled: true,
        };
        let mut found = None;
        let cursor = Cursor::Before(id.saturating_add(1));
        self.log(all, cursor, 1, now, is_running, |logged| {
            found = Some(logged.record);
        })?;
        Ok(found.filter(|record| record.id() == id))
    }
}

/// Reads the columns that [`Store::log`] selects.
fn logged(row: &Row<'_>, now: u64, is_running: impl Fn(u64) -> bool) -> Result<Logged> {
    let id = number(row, 0)?;
    let (kind, attempt) = (number(row, 1)?, small(row, 5)?);
    let due_at: Option<i64> = row.get(3)?;
    let state = match kind {
        0 if is_running(id) => EventState::Running,
        0 if attempt > 1 && due_at > Some(signed(now)) => EventState::Retrying,
        0 => EventState::Waiting,
        1 => EventState::Dead,
        2 => EventState::Handled,
        _ => EventState::Unhandled,
    };
    let stored = row.get_ref(6)?.as_bytes_or_null()?;
    let stored = stored.map_or_else(Vec::new, stored_json::ends);
    let history = row.get_ref(11)?.as_bytes_or_null()?;
    let history = history.map_or_else(Vec::new, stored_json::history);
    let is_in_flight = state.is_in_flight();
    let record = EventRecord::stored(StoredRecord {
        id,
        message_id: &text(row, 8)?,
        body: &text(row, 9)?,
        traceparent: row::traceparent(row, 10)?,
        state,
        received_at: time(number(row, 2)?),
        ended_at: (!is_in_flight).then(|| time(number(row, 3).unwrap_or_default())),
        // The column `attempt` of an event in flight is the number of the next attempt.
        attempts: match is_in_flight && state != EventState::Running {
            true => attempt - 1,
            false => attempt,
        },
        routes: match is_in_flight {
            true => stored_json::with_latest(stored, &history),
            false => stored,
        },
        history,
        cause: row::shared(row, 7)?,
    });
    Ok(Logged {
        record,
        kept_since: number(row, 4)?,
    })
}
