use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rusqlite::{Result, Row};
use serde_json::{Value, json};

use crate::delivery::{DeadLetter, Job, OrderKey, Progress, RouteResult};
use crate::event::{Event, Traceparent};
use crate::telemetry::ParentSpan;

/// The columns of an event that decide when it runs, and the size of its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) id: u64,
    pub(crate) key: Option<OrderKey>,
    pub(crate) due_at: Option<u64>,
    /// The size of the body in bytes.
    pub(crate) size: u64,
}

/// A row of `events`.
pub(crate) struct StoredEvent {
    pub(crate) id: u64,
    received_at: u64,
    pub(crate) key: Option<OrderKey>,
    attempt: NonZeroU32,
    ends: Vec<RouteResult>,
    pub(crate) crashes: u32,
    routes_waiting: bool,
    /// The body as received: UTF-8, unless the file was damaged.
    pub(crate) body: Vec<u8>,
    traceparent: Option<Traceparent>,
}

impl Head {
    /// Reads `id, order_key, due_at, octet_length(body)`.
    pub(super) fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            id: number(row, 0)?,
            key: key(row, 1)?,
            due_at: row.get::<_, Option<i64>>(2)?.map(unsigned),
            size: number(row, 3)?,
        })
    }
}

impl StoredEvent {
    /// Reads `id, received_at, order_key, attempt, routes, crashes, routes_waiting, body, traceparent`.
    pub(super) fn read(row: &Row<'_>) -> Result<Self> {
        let routes = row.get_ref(4)?.as_bytes_or_null()?;
        Ok(Self {
            id: number(row, 0)?,
            received_at: number(row, 1)?,
            key: key(row, 2)?,
            attempt: NonZeroU32::new(small(row, 3)?).unwrap_or(NonZeroU32::MIN),
            ends: routes.map_or_else(Vec::new, ends),
            crashes: small(row, 5)?,
            routes_waiting: row.get(6)?,
            body: row.get_ref(7)?.as_bytes()?.to_vec(),
            traceparent: traceparent(row, 8)?,
        })
    }

    /// Returns the job of the event. If the event can't run, returns its dead letter.
    pub(crate) fn into_job(
        self,
        max_crashes: u32,
        now: SystemTime,
    ) -> std::result::Result<Job, Box<DeadLetter>> {
        let (body, received_at) = (self.body.as_slice().into(), time(self.received_at));
        let cause = match Event::received(body, received_at, self.traceparent.clone()) {
            _ if self.crashes >= max_crashes => format!(
                "the process ended {} times while the event was running",
                self.crashes
            ),
            Ok(event) => {
                return Ok(Job {
                    number: self.id,
                    event,
                    parent_span: ParentSpan::none(),
                    progress: Progress::restored(self.attempt, self.ends, self.routes_waiting),
                    key: self.key,
                });
            }
            Err(undecoded) => format!("this version can't decode it: {}", undecoded.error),
        };
        Err(Box::new(DeadLetter::stored(
            (self.id, ""),
            (&String::from_utf8_lossy(&self.body), self.traceparent),
            (received_at, now),
            // `attempt` includes the next attempt. That attempt counts only if a process crashed during it.
            self.attempt.get() - u32::from(self.crashes == 0),
            self.ends,
            Some(Arc::from(cause)),
        )))
    }
}

/// The columns that [`letter`] expects.
pub(super) const LETTER: &str =
    "id, received_at, dead_lettered_at, attempts, routes, cause, message_id, body, traceparent";

/// Reads a dead letter.
pub(super) fn letter(row: &Row<'_>) -> Result<DeadLetter> {
    let cause = row.get_ref(5)?.as_bytes_or_null()?;
    let cause = cause.map(String::from_utf8_lossy);
    Ok(DeadLetter::stored(
        (number(row, 0)?, &text(row, 6)?),
        (&text(row, 7)?, traceparent(row, 8)?),
        (time(number(row, 1)?), time(number(row, 2)?)),
        small(row, 3)?,
        ends(row.get_ref(4)?.as_bytes()?),
        cause.as_deref().map(Arc::from),
    ))
}

/// Reads a string. Invalid UTF-8 is replaced, because an error would hide all rows after it.
pub(super) fn text<'row>(row: &'row Row<'_>, column: usize) -> Result<Cow<'row, str>> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?))
}

pub(super) fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get(column).map(unsigned)
}

pub(super) fn key(row: &Row<'_>, column: usize) -> Result<Option<OrderKey>> {
    let key: Option<Vec<u8>> = row.get(column)?;
    Ok(key.map(OrderKey::from))
}

/// Reads a `traceparent`. An invalid value counts as none.
fn traceparent(row: &Row<'_>, column: usize) -> Result<Option<Traceparent>> {
    let value = row.get_ref(column)?.as_bytes_or_null()?;
    let value = value.and_then(|value| std::str::from_utf8(value).ok());
    Ok(value.and_then(Traceparent::parse))
}

/// Reads a count. No count of this schema exceeds `u32::MAX`.
fn small(row: &Row<'_>, column: usize) -> Result<u32> {
    Ok(u32::try_from(number(row, column)?).unwrap_or(u32::MAX))
}

/// SQLite's integers are signed. No number of this schema is negative.
fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// Returns a number as SQLite stores it.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns a stored time, or the epoch if the platform can't represent that time.
pub(super) fn time(millis: u64) -> SystemTime {
    let since = Duration::from_millis(millis);
    let time = SystemTime::UNIX_EPOCH.checked_add(since);
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Writes the finished routes of an event as JSON, if there are any.
pub(super) fn finished_routes(progress: &Progress) -> Option<String> {
    let ends = progress.results();
    (!ends.is_empty()).then(|| routes(ends))
}

/// Writes finished routes as JSON.
pub(super) fn routes(ends: &[RouteResult]) -> String {
    let route = |end: &RouteResult| match end.reason() {
        None => json!({ "route": end.route() }),
        Some(reason) => json!({ "route": end.route(), "failed": reason }),
    };
    Value::Array(ends.iter().map(route).collect()).to_string()
}

/// Reads the finished routes. If the JSON has an unexpected form, no route counts as finished. At worst, a route runs
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
