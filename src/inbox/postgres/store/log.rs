use std::sync::Arc;
use std::time::SystemTime;

use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row};

use super::row::{count, traceparent};
use super::{Store, get, number, stored};
use crate::delivery::{EventRecord, EventState, Progress, Replay, StoredRecord};
use crate::inbox::postgres::connection::{Connection, Param};
use crate::inbox::postgres::error::Failure;
use crate::inbox::stored_json;

/// The tables that a query reads.
#[derive(Clone, Copy, Debug)]
pub(in crate::inbox::postgres) struct Select {
    pub(in crate::inbox::postgres) in_flight: bool,
    pub(in crate::inbox::postgres) dead: bool,
    pub(in crate::inbox::postgres) handled: bool,
}

/// The start and the order of a query.
#[derive(Clone, Copy, Debug)]
pub(in crate::inbox::postgres) enum Cursor {
    /// Ids below this id, the highest first.
    Before(u64),
    /// Ids above this id, the lowest first.
    After(u64),
}

/// The columns of each table, in the same order.
const TABLES: [&str; 3] = [
    "SELECT id, 0 AS kind, received_at, NULL::timestamptz AS ended_at, attempt AS attempts, routes, NULL::text AS cause, message_id, body, traceparent, history, owner <> 0 AS is_owned, attempt > 1 AND due_at > now() AS is_retrying FROM botisimo.events",
    "SELECT id, 1, received_at, dead_lettered_at, attempts, routes, cause, message_id, body, traceparent, history, false, false FROM botisimo.dead_letters",
    "SELECT id, CASE WHEN unhandled THEN 3 ELSE 2 END, received_at, ended_at, attempts, routes, NULL, message_id, body, traceparent, history, false, false FROM botisimo.handled",
];

/// All events: the tables `events`, `dead_letters` and `handled`.
impl Store {
    /// Reads up to `limit` events. `is_held` returns whether an event that this process has leased is running, or `None` for other
    /// events.
    pub(in crate::inbox::postgres) async fn log(
        &self,
        connection: &mut Connection,
        select: Select,
        cursor: Cursor,
        limit: usize,
        is_running: impl Fn(u64) -> Option<bool>,
    ) -> Result<Vec<EventRecord>, Failure> {
        let (comparison, order, id) = match cursor {
            Cursor::Before(id) => ("<", "DESC", id),
            Cursor::After(id) => (">", "ASC", id),
        };
        let are_selected = [select.in_flight, select.dead, select.handled];
        let tables = TABLES.iter().zip(are_selected);
        let tables: Vec<_> = tables
            .filter(|(_, is_selected)| *is_selected)
            .map(|(table, _)| {
                format!("({table} WHERE id {comparison} $1 ORDER BY id {order} LIMIT $2)")
            })
            .collect();
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let sql = format!(
            "SELECT * FROM ({}) AS l ORDER BY id {order} LIMIT $2",
            tables.join(" UNION ALL ")
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params: [Param<'_>; 2] = [(&stored(id), Type::INT8), (&limit, Type::INT8)];
        let rows = connection.query(&self.sql(&sql), &params).await?;
        let read = |row| logged(row, &is_running).map_err(Failure::of);
        rows.iter().map(read).collect()
    }

    /// Turns an ended event back into an event in flight. Returns whether the event existed.
    pub(in crate::inbox::postgres) async fn replay(
        &self,
        connection: &mut Connection,
        record: &EventRecord,
        routes: &Replay,
    ) -> Result<bool, Failure> {
        let progress = Progress::replay(record.routes(), routes);
        let results = stored_json::finished_routes(&progress);
        let only = match routes {
            Replay::Only(route) => Some(route.as_str()),
            Replay::Remaining | Replay::All => None,
        };
        let sql = "SELECT botisimo.replay($1, $2, $3, $4)";
        let params: [Param<'_>; 4] = [
            (&stored(record.id()), Type::INT8),
            (&results, Type::TEXT),
            (&only, Type::TEXT),
            (&matches!(routes, Replay::All), Type::BOOL),
        ];
        let rows = connection.query(&self.sql(sql), &params).await?;
        rows.first().map_or(Ok(false), |row| get(row, 0))
    }
}

/// Reads the columns of [`TABLES`].
fn logged(row: &Row, is_running: impl Fn(u64) -> Option<bool>) -> Result<EventRecord, Error> {
    let id = number(row, 0)?;
    let kind: i32 = row.try_get(1)?;
    let ended_at: Option<SystemTime> = row.try_get(3)?;
    let attempts = count(row, 4)?;
    let routes: Option<&str> = row.try_get(5)?;
    let cause: Option<&str> = row.try_get(6)?;
    let history: Option<Vec<&str>> = row.try_get(10)?;
    let (is_owned, is_retrying): (bool, bool) = (row.try_get(11)?, row.try_get(12)?);
    let state = match kind {
        // Another process may have leased the event.
        0 if is_running(id).unwrap_or(is_owned && !is_retrying) => EventState::Running,
        0 if is_retrying => EventState::Retrying,
        0 => EventState::Waiting,
        1 => EventState::Dead,
        2 => EventState::Handled,
        _ => EventState::Unhandled,
    };
    let routes = routes.map_or_else(Vec::new, |routes| stored_json::ends(routes.as_bytes()));
    let history =
        stored_json::history(format!("[{}]", history.unwrap_or_default().join(",")).as_bytes());
    let is_in_flight = state.is_in_flight();
    Ok(EventRecord::stored(StoredRecord {
        id,
        message_id: row.try_get(7)?,
        body: row.try_get(8)?,
        traceparent: traceparent(row, 9)?,
        state,
        received_at: row.try_get(2)?,
        ended_at,
        // The column `attempt` of an event in flight is the number of the next attempt.
        attempts: match is_in_flight && state != EventState::Running {
            true => attempts.saturating_sub(1),
            false => attempts,
        },
        routes: match is_in_flight {
            true => stored_json::with_latest(routes, &history),
            false => routes,
        },
        history,
        cause: cause.map(Arc::from),
    }))
}
