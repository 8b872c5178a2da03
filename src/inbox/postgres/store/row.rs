use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_postgres::{Error, Row};

use crate::delivery::{
    DeadLetter, EventState, Job, OrderKey, Progress, RouteResult, StoredRecord, Waiting,
};
use crate::event::{Event, Traceparent};
use crate::inbox::stored_json;
use crate::telemetry::ParentSpan;

/// A row of `events`.
pub(in crate::inbox::postgres) struct StoredEvent {
    pub(in crate::inbox::postgres) id: u64,
    received_at: SystemTime,
    pub(in crate::inbox::postgres) key: Option<OrderKey>,
    attempt: NonZeroU32,
    pub(in crate::inbox::postgres) takeovers: u32,
    ends: Vec<RouteResult>,
    routes_waiting: bool,
    waiting: Vec<Waiting>,
    only: Option<Arc<str>>,
    traceparent: Option<Traceparent>,
    message_id: String,
    pub(in crate::inbox::postgres) body: String,
}

impl StoredEvent {
    /// Reads `id, received_at, order_key, attempt, takeovers, routes, routes_waiting, waiting, only_route, traceparent, message_id,
    /// body`, and the routes that have called `complete`.
    pub(super) fn read(row: &Row) -> Result<Self, Error> {
        let key: Option<&str> = row.try_get(2)?;
        let routes: Option<&str> = row.try_get(5)?;
        let waiting: Option<&str> = row.try_get(7)?;
        let only: Option<&str> = row.try_get(8)?;
        let completed: Vec<&str> = row.try_get(12)?;
        let mut ends = routes.map_or_else(Vec::new, |routes| stored_json::ends(routes.as_bytes()));
        for route in completed {
            if ends.iter().all(|end| &*end.route != route) {
                ends.push(RouteResult {
                    route: Arc::from(route),
                    reason: None,
                });
            }
        }
        Ok(Self {
            id: super::number(row, 0)?,
            received_at: row.try_get(1)?,
            key: key.map(|key| OrderKey::from(key.as_bytes())),
            attempt: NonZeroU32::new(count(row, 3)?).unwrap_or(NonZeroU32::MIN),
            takeovers: count(row, 4)?,
            ends,
            routes_waiting: row.try_get(6)?,
            waiting: stored_json::waiting(waiting.map(str::as_bytes)),
            only: only.map(Arc::from),
            traceparent: traceparent(row, 9)?,
            message_id: row.try_get(10)?,
            body: row.try_get(11)?,
        })
    }

    /// Returns the job of the event. If the event can't run, returns its dead letter.
    pub(in crate::inbox::postgres) fn into_job(
        self,
        max_crashes: u32,
        now: SystemTime,
    ) -> Result<Box<Job>, Box<DeadLetter>> {
        let body = self.body.as_bytes().into();
        let cause = match Event::received(body, self.received_at, self.traceparent.clone()) {
            // The process that accepted the event may have died without running it, so its end doesn't count.
            _ if self.takeovers > max_crashes => format!(
                "the process ended {} times while it had leased the event",
                self.takeovers
            ),
            Ok(event) => {
                return Ok(Box::new(Job {
                    number: self.id,
                    event,
                    parent_span: ParentSpan::none(),
                    progress: Progress::restored(self.attempt, self.ends, self.routes_waiting)
                        .with_waiting(self.waiting)
                        .limited_to(self.only),
                    key: self.key,
                }));
            }
            Err(undecoded) => format!("this version can't decode it: {}", undecoded.error),
        };
        Err(Box::new(DeadLetter::stored(StoredRecord {
            id: self.id,
            message_id: &self.message_id,
            body: &self.body,
            traceparent: self.traceparent,
            state: EventState::Dead,
            received_at: self.received_at,
            ended_at: Some(now),
            // `attempt` includes the next attempt. That attempt counts only if a process ended during it.
            attempts: self.attempt.get() - u32::from(self.takeovers == 0),
            routes: self.ends,
            history: Vec::new(),
            cause: Some(Arc::from(cause)),
        })))
    }
}

/// Reads a `traceparent`. An invalid value counts as none.
pub(super) fn traceparent(row: &Row, column: usize) -> Result<Option<Traceparent>, Error> {
    let value: Option<&str> = row.try_get(column)?;
    Ok(value.and_then(Traceparent::parse))
}

/// Reads a count, which is never negative.
pub(super) fn count(row: &Row, column: usize) -> Result<u32, Error> {
    let count: i32 = row.try_get(column)?;
    Ok(u32::try_from(count).unwrap_or(0))
}

/// Returns text as the server can store it. The server refuses NUL.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => Cow::Owned(text.replace('\0', "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}
