use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::Row;
use serde_json::{Value, json};

use crate::delivery::{DeadLetter, Job, OrderKey, Progress, RouteResult};
use crate::error::Error;
use crate::event::Event;
use crate::telemetry::ParentSpan;

/// What the schedule needs to know of a stored event.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) id: u64,
    pub(super) key: Option<OrderKey>,
    pub(super) due_at: Option<u64>,
}

/// An event as it is stored.
#[derive(Debug)]
pub(super) struct StoredEvent {
    pub(super) id: u64,
    received_at: u64,
    pub(super) key: Option<OrderKey>,
    pub(super) attempt: NonZeroU32,
    pub(super) ends: Vec<RouteResult>,
    pub(super) crashes: u32,
    routed: bool,
    /// As it came, which is UTF-8 unless the file was damaged.
    pub(super) body: Vec<u8>,
}

impl Head {
    /// Reads `id, order_key, due_at`.
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: number(row, 0)?,
            key: key(row, 1)?,
            due_at: row.get::<_, Option<i64>>(2)?.map(unsigned),
        })
    }
}

impl StoredEvent {
    /// The columns that [`read`](StoredEvent::read) takes.
    pub(super) const COLUMNS: &str =
        "id, received_at, order_key, attempt, routes, crashes, routed, body";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let routes = row.get_ref(4)?.as_bytes_or_null()?;
        Ok(Self {
            id: number(row, 0)?,
            received_at: number(row, 1)?,
            key: key(row, 2)?,
            attempt: attempt(row.get(3)?),
            ends: routes.map_or_else(Vec::new, ends),
            crashes: u32::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
            routed: row.get(6)?,
            body: row.get_ref(7)?.as_bytes()?.to_vec(),
        })
    }

    /// Returns the event on its way through its attempts; or, if it can't be decoded, what is wrong
    /// with it.
    pub(super) fn into_job(self) -> Result<Job, (Self, Error)> {
        match Event::received(self.body.as_slice().into(), time(self.received_at)) {
            Ok(event) => Ok(Job {
                number: self.id,
                event,
                parent_span: ParentSpan::none(),
                progress: Progress::restored(self.attempt, self.ends, self.routed),
                key: self.key,
            }),
            Err(undecoded) => Err((self, undecoded.error)),
        }
    }

    /// Returns the dead letter of an event that is given up before it runs.
    pub(super) fn into_letter(self, cause: &str, dead_lettered_at: SystemTime) -> DeadLetter {
        let received_at = time(self.received_at);
        DeadLetter::stored(
            (self.id, ""),
            &String::from_utf8_lossy(&self.body),
            (received_at, dead_lettered_at),
            // It was counted up for an attempt that didn't come, unless the process ended in it.
            self.attempt.get() - u32::from(self.crashes == 0),
            self.ends,
            Some(Arc::from(cause)),
        )
    }
}

/// The columns that [`letter`] takes.
pub(super) const LETTER: &str =
    "id, received_at, dead_lettered_at, attempts, routes, cause, message_id, body";

/// Reads a dead letter.
pub(super) fn letter(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let (routes, body) = (row.get_ref(4)?.as_bytes()?, text(row, 7)?);
    let message_id = text(row, 6)?;
    let cause = row.get_ref(5)?.as_bytes_or_null()?;
    let cause = cause.map(String::from_utf8_lossy);
    Ok(DeadLetter::stored(
        (number(row, 0)?, &message_id),
        &body,
        (time(number(row, 1)?), time(number(row, 2)?)),
        u32::try_from(row.get::<_, i64>(3)?).unwrap_or(u32::MAX),
        ends(routes),
        cause.as_deref().map(Arc::from),
    ))
}

/// Reads a text, whatever the damage to it: an error would keep all that comes after it.
fn text<'row>(row: &'row Row<'_>, column: usize) -> rusqlite::Result<Cow<'row, str>> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?))
}

fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(unsigned)
}

fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<OrderKey>> {
    let key: Option<Vec<u8>> = row.get(column)?;
    Ok(key.map(OrderKey::from))
}

fn attempt(stored: i64) -> NonZeroU32 {
    let attempt = u32::try_from(stored).unwrap_or(u32::MAX);
    NonZeroU32::new(attempt).unwrap_or(NonZeroU32::MIN)
}

/// SQLite's integers have a sign, and none of ours is below zero.
pub(super) fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// Returns a number as SQLite stores it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns a time that is stored, or shown by the inbox's clock.
pub(super) fn time(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// Writes the finished routes as JSON.
pub(super) fn routes(ends: &[RouteResult]) -> String {
    let route = |end: &RouteResult| match end.reason() {
        None => json!({ "route": end.route() }),
        Some(reason) => json!({ "route": end.route(), "failed": reason }),
    };
    Value::Array(ends.iter().map(route).collect()).to_string()
}

/// Reads the finished routes. What isn't as it was written finishes nothing: at worst a route runs
/// again.
fn ends(routes: &[u8]) -> Vec<RouteResult> {
    let Ok(Value::Array(routes)) = serde_json::from_slice(routes) else {
        return Vec::new();
    };
    let end = |route: &Value| {
        Some(RouteResult {
            route: Arc::from(route.get("route")?.as_str()?),
            reason: route.get("failed").and_then(Value::as_str).map(Arc::from),
        })
    };
    routes.iter().filter_map(end).collect()
}
