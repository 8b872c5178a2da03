use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{Result, Row};

use crate::delivery::{
    DeadLetter, EventState, Job, OrderKey, Progress, RouteResult, StoredRecord, Waiting,
};
use crate::event::{Event, Traceparent};
use crate::inbox::stored_json::{self, time};
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
    /// The only route that runs, if a replay named one.
    only: Option<Arc<str>>,
    /// The routes that wait for a retry, if they have other delays or other attempts than the event.
    waiting: Vec<Waiting>,
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
    /// Reads `id, received_at, order_key, attempt, routes, crashes, routes_waiting, body, traceparent, only_route,
    /// waiting`.
    pub(super) fn read(row: &Row<'_>) -> Result<Self> {
        let routes = row.get_ref(4)?.as_bytes_or_null()?;
        Ok(Self {
            id: number(row, 0)?,
            received_at: number(row, 1)?,
            key: key(row, 2)?,
            attempt: NonZeroU32::new(small(row, 3)?).unwrap_or(NonZeroU32::MIN),
            ends: routes.map_or_else(Vec::new, stored_json::ends),
            crashes: small(row, 5)?,
            routes_waiting: row.get(6)?,
            body: row.get_ref(7)?.as_bytes()?.to_vec(),
            traceparent: traceparent(row, 8)?,
            only: shared(row, 9)?,
            waiting: stored_json::waiting(row.get_ref(10)?.as_bytes_or_null()?),
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
                    progress: Progress::restored(self.attempt, self.ends, self.routes_waiting)
                        .with_waiting(self.waiting)
                        .limited_to(self.only),
                    key: self.key,
                });
            }
            Err(undecoded) => format!("this version can't decode it: {}", undecoded.error),
        };
        Err(Box::new(DeadLetter::stored(StoredRecord {
            id: self.id,
            message_id: "",
            body: &String::from_utf8_lossy(&self.body),
            traceparent: self.traceparent,
            state: EventState::Dead,
            received_at,
            ended_at: Some(now),
            // `attempt` includes the next attempt. That attempt counts only if a process crashed during it.
            attempts: self.attempt.get() - u32::from(self.crashes == 0),
            routes: self.ends,
            history: Vec::new(),
            cause: Some(Arc::from(cause)),
        })))
    }
}

/// Returns an expression for the column `history` with one more attempt, which is the JSON of the given parameter. Keeps the newest 25
/// attempts, and replaces a history that isn't JSON.
macro_rules! appended {
    ($attempt:literal) => {
        concat!(
            "json_insert(CASE WHEN history IS NULL OR NOT json_valid(history) THEN '[]' WHEN json_array_length(history) >= 25 THEN json_remove(history, '$[0]') ELSE history END, '$[#]', json(",
            $attempt,
            "))"
        )
    };
}
pub(super) use appended;

/// Reads a string. Invalid UTF-8 is replaced, because an error would hide all rows after it.
pub(super) fn text<'row>(row: &'row Row<'_>, column: usize) -> Result<Cow<'row, str>> {
    Ok(String::from_utf8_lossy(row.get_ref(column)?.as_bytes()?))
}

/// Reads a string like [`text`], or NULL.
pub(super) fn shared(row: &Row<'_>, column: usize) -> Result<Option<Arc<str>>> {
    let value = row.get_ref(column)?.as_bytes_or_null()?;
    Ok(value.map(|value| Arc::from(String::from_utf8_lossy(value))))
}

pub(super) fn number(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get(column).map(unsigned)
}

pub(super) fn key(row: &Row<'_>, column: usize) -> Result<Option<OrderKey>> {
    let key: Option<Vec<u8>> = row.get(column)?;
    Ok(key.map(OrderKey::from))
}

/// Reads a `traceparent`. An invalid value counts as none.
pub(super) fn traceparent(row: &Row<'_>, column: usize) -> Result<Option<Traceparent>> {
    let value = row.get_ref(column)?.as_bytes_or_null()?;
    let value = value.and_then(|value| std::str::from_utf8(value).ok());
    Ok(value.and_then(Traceparent::parse))
}

/// Reads a count. No count of this schema exceeds `u32::MAX`.
pub(super) fn small(row: &Row<'_>, column: usize) -> Result<u32> {
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
