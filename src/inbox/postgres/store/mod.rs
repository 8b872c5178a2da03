//! The statements of the inbox. Only this folder contains SQL.
//!
//! Each statement is one call, so it is one transaction and one round trip. The functions are in `schema_1.sql`.

mod log;
mod retention;
mod row;
mod schema;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Error as PgError, Row};

pub(super) use self::log::{Cursor, Select};
pub(super) use self::row::StoredEvent;
use self::row::text;
pub(super) use self::schema::{check_name, migrate};
use super::command::{Accept, Complete, Kept, Step};
use super::connection::{Connection, Param};
use super::error::Failure;
use super::settings::Settings;
use super::volume::Volume;
use crate::delivery::EventOutcome;
use crate::inbox::stored_json;
use crate::runtime::millis;

/// The tables and functions of an inbox.
#[derive(Clone, Debug)]
pub(super) struct Store {
    /// The quoted name of the schema.
    pub(super) schema: Arc<str>,
    /// How long the inbox remembers message ids. 0 if it remembers none.
    duplicate_window: Duration,
}

/// A worker, and whether it leases further events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lessee {
    pub(super) worker: i64,
    pub(super) takes: bool,
}

/// The events that a statement changed.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The ids of the events whose result the statement recorded.
    pub(super) ended: Vec<u64>,
    /// For each key of an ended event: the next event of the key, if the worker has leased this event.
    pub(super) unblocked: Vec<i64>,
    /// The new events.
    pub(super) new: Vec<NewEvent>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NewEvent {
    /// The place in the list of accepted events.
    pub(super) place: usize,
    pub(super) id: u64,
    pub(super) is_owned: bool,
}

/// The result of a heartbeat.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heartbeat {
    /// Whether the worker still has its events.
    pub(super) is_alive: bool,
    /// The number of events that the heartbeat released from workers that died.
    pub(super) released: u64,
    /// Whether an event without an owner is due.
    pub(super) is_ready: bool,
}

/// The numbers of rows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    pub(super) events: Volume,
    pub(super) dead_letters: u64,
}

impl Store {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            schema: format!("\"{}\"", settings.schema).into(),
            duplicate_window: settings.duplicate_window,
        }
    }

    /// Returns a statement in which `botisimo.` is replaced by the name of the schema.
    fn sql(&self, sql: &str) -> String {
        sql.replace("botisimo.", &format!("{}.", self.schema))
    }

    /// Registers a worker.
    pub(super) async fn register(
        &self,
        connection: &mut Connection,
        worker: i64,
        lease: Duration,
    ) -> Result<(), Failure> {
        let sql = "INSERT INTO botisimo.workers (id, alive_until) VALUES ($1, now() + $2 * interval '1 millisecond')";
        let params: [Param<'_>; 2] = [(&worker, Type::INT8), (&signed(lease), Type::INT8)];
        connection.query(&self.sql(sql), &params).await.map(drop)
    }

    /// Writes nothing, but fails if the server can't write.
    pub(super) async fn probe(&self, connection: &mut Connection) -> Result<(), Failure> {
        let sql = "UPDATE botisimo.workers SET alive_until = alive_until WHERE id = 0";
        connection.query(&self.sql(sql), &[]).await.map(drop)
    }

    /// Extends a worker's lease, and releases the events of workers that died.
    pub(super) async fn heartbeat(
        &self,
        connection: &mut Connection,
        worker: i64,
        lease: Duration,
    ) -> Result<Heartbeat, Failure> {
        let sql = "SELECT * FROM botisimo.heartbeat($1, $2 * interval '1 millisecond')";
        let params: [Param<'_>; 2] = [(&worker, Type::INT8), (&signed(lease), Type::INT8)];
        let rows = connection.query(&self.sql(sql), &params).await?;
        read_one(&rows, |row| {
            Ok(Heartbeat {
                is_alive: row.try_get(0)?,
                released: number(row, 1)?,
                is_ready: row.try_get(2)?,
            })
        })
    }

    /// Records handled and unhandled events, and stores new events, in one transaction. `accepts` contains no message id twice.
    pub(super) async fn write(
        &self,
        connection: &mut Connection,
        Lessee { worker, takes }: Lessee,
        finished: &[Complete],
        accepts: &[Accept],
        leased: &[bool],
    ) -> Result<Written, Failure> {
        let ids = numbers(finished);
        let is_keyed = finished.iter().any(|complete| complete.has_key);
        let events = || accepts.iter().map(|accept| &accept.event);
        let message_ids: Vec<_> = events().map(|event| text(event.id())).collect();
        let id_bytes: Vec<_> = events().map(|event| event.id().as_bytes()).collect();
        let event_types: Vec<_> = events()
            .map(|event| text(event.event_type().as_str()))
            .collect();
        let keys: Vec<_> = accepts.iter().map(|accept| accept.key.as_deref()).collect();
        let received: Vec<_> = events().map(crate::event::Event::received_at).collect();
        let traceparents: Vec<_> = events().map(crate::event::Event::traceparent).collect();
        let bodies: Vec<_> = events().map(crate::event::Event::body).collect();
        let window = self.duplicate_window;
        let window = (!window.is_zero()).then(|| signed(window));
        let sql = "SELECT kind, id, place, is_owned FROM botisimo.write($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 * interval '1 millisecond', $13)";
        let params: [Param<'_>; 13] = [
            (&worker, Type::INT8),
            (&ids, Type::INT8_ARRAY),
            (&is_keyed, Type::BOOL),
            (&message_ids, Type::TEXT_ARRAY),
            (&event_types, Type::TEXT_ARRAY),
            (&keys, Type::BYTEA_ARRAY),
            (&leased, Type::BOOL_ARRAY),
            (&received, Type::TIMESTAMPTZ_ARRAY),
            (&traceparents, Type::TEXT_ARRAY),
            (&bodies, Type::TEXT_ARRAY),
            (&id_bytes, Type::BYTEA_ARRAY),
            (&window, Type::INT8),
            (&takes, Type::BOOL),
        ];
        let rows = connection.query(&self.sql(sql), &params).await?;
        let mut written = Written::default();
        for row in &rows {
            let id: i64 = get(row, 1)?;
            match get::<i32>(row, 0)? {
                0 => written.ended.push(unsigned(id)),
                1 => written.add_unblocked(id, get(row, 3)?),
                _ => written.new.push(NewEvent {
                    place: usize::try_from(get::<i32>(row, 2)? - 1).unwrap_or(usize::MAX),
                    id: unsigned(id),
                    is_owned: get(row, 3)?,
                }),
            }
        }
        Ok(written)
    }

    /// Moves handled and unhandled events to the table `handled`.
    pub(super) async fn keep(
        &self,
        connection: &mut Connection,
        Lessee { worker, takes }: Lessee,
        completes: &[Complete],
    ) -> Result<Written, Failure> {
        let kept = || {
            completes
                .iter()
                .filter_map(|complete| match &complete.step {
                    Step::End(outcome, Some(kept)) => Some((*outcome, &**kept)),
                    _ => None,
                })
        };
        let ids = numbers(completes);
        let unhandled: Vec<_> = kept()
            .map(|(outcome, _)| outcome == EventOutcome::Unhandled)
            .collect();
        let attempts = |kept: &Kept| count(kept.attempts);
        let attempt_counts: Vec<_> = kept().map(|(_, kept)| attempts(kept)).collect();
        let results: Vec<_> = kept()
            .map(|(_, kept)| stored_json::routes(&kept.routes))
            .collect();
        let records: Vec<_> = kept()
            .map(|(_, kept)| stored_json::attempt(&kept.attempt))
            .collect();
        let sql = "SELECT kind, id FROM botisimo.keep($1, $2, $3, $4, $5, $6, $7)";
        let params: [Param<'_>; 7] = [
            (&worker, Type::INT8),
            (&ids, Type::INT8_ARRAY),
            (&unhandled, Type::BOOL_ARRAY),
            (&attempt_counts, Type::INT4_ARRAY),
            (&results, Type::TEXT_ARRAY),
            (&records, Type::TEXT_ARRAY),
            (&takes, Type::BOOL),
        ];
        Written::read(
            &connection.query(&self.sql(sql), &params).await?,
            takes && worker != 0,
        )
    }

    /// Moves events to the dead letters.
    pub(super) async fn dead_letter(
        &self,
        connection: &mut Connection,
        Lessee { worker, takes }: Lessee,
        completes: &[Complete],
        blocks_key: bool,
    ) -> Result<Written, Failure> {
        let letters = || {
            completes
                .iter()
                .filter_map(|complete| match &complete.step {
                    Step::DeadLetter(letter, attempt) => Some((&**letter, attempt)),
                    _ => None,
                })
        };
        let ids = numbers(completes);
        let attempt_counts: Vec<_> = letters()
            .map(|(letter, _)| count(letter.attempts()))
            .collect();
        let results: Vec<_> = letters()
            .map(|(letter, _)| stored_json::routes(letter.routes()))
            .collect();
        let causes: Vec<_> = letters()
            .map(|(letter, _)| letter.cause().map(text))
            .collect();
        let records: Vec<_> = letters()
            .map(|(_, attempt)| attempt.as_ref().map(stored_json::attempt))
            .collect();
        let sql = "SELECT kind, id FROM botisimo.dead_letter($1, $2, $3, $4, $5, $6, $7, $8)";
        let params: [Param<'_>; 8] = [
            (&worker, Type::INT8),
            (&ids, Type::INT8_ARRAY),
            (&attempt_counts, Type::INT4_ARRAY),
            (&results, Type::TEXT_ARRAY),
            (&causes, Type::TEXT_ARRAY),
            (&records, Type::TEXT_ARRAY),
            (&blocks_key, Type::BOOL),
            (&takes, Type::BOOL),
        ];
        Written::read(
            &connection.query(&self.sql(sql), &params).await?,
            takes && worker != 0,
        )
    }

    /// Schedules the next attempts of events. `retries` contains each event's delay from now, and whether the worker releases the event.
    pub(super) async fn retry(
        &self,
        connection: &mut Connection,
        worker: i64,
        completes: &[Complete],
        retries: &[(Duration, bool)],
    ) -> Result<Written, Failure> {
        let steps = || {
            completes
                .iter()
                .filter_map(|complete| match &complete.step {
                    Step::Retry { job, attempt, .. } => Some((&job.progress, attempt)),
                    _ => None,
                })
        };
        let ids = numbers(completes);
        let releases: Vec<_> = retries.iter().map(|(_, releases)| *releases).collect();
        let delays: Vec<_> = retries.iter().map(|(delay, _)| signed(*delay)).collect();
        let attempts: Vec<_> = steps()
            .map(|(progress, _)| count(progress.attempts()))
            .collect();
        let results: Vec<_> = steps()
            .map(|(progress, _)| stored_json::finished_routes(progress))
            .collect();
        let are_waiting: Vec<_> = steps().map(|(progress, _)| progress.is_routed()).collect();
        let uneven: Vec<_> = steps()
            .map(|(progress, _)| stored_json::waiting_routes(progress))
            .collect();
        let records: Vec<_> = steps()
            .map(|(_, attempt)| stored_json::attempt(attempt))
            .collect();
        let sql = "SELECT 0, id FROM botisimo.retry($1, $2, $3, $4, $5, $6, $7, $8, $9) AS r (id)";
        let params: [Param<'_>; 9] = [
            (&worker, Type::INT8),
            (&ids, Type::INT8_ARRAY),
            (&releases, Type::BOOL_ARRAY),
            (&delays, Type::INT8_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&results, Type::TEXT_ARRAY),
            (&are_waiting, Type::BOOL_ARRAY),
            (&uneven, Type::TEXT_ARRAY),
            (&records, Type::TEXT_ARRAY),
        ];
        Written::read(&connection.query(&self.sql(sql), &params).await?, false)
    }

    /// Returns which of these events exist, and whether the worker has leased them.
    pub(super) async fn owned(
        &self,
        connection: &mut Connection,
        worker: i64,
        ids: &[i64],
    ) -> Result<HashMap<u64, bool>, Failure> {
        let sql = "SELECT id, owner = $1 FROM botisimo.events WHERE id = ANY ($2)";
        let params: [Param<'_>; 2] = [(&worker, Type::INT8), (&ids, Type::INT8_ARRAY)];
        let rows = connection.query(&self.sql(sql), &params).await?;
        rows.iter()
            .map(|row| Ok((unsigned(get(row, 0)?), get(row, 1)?)))
            .collect()
    }

    /// Returns which of these message ids the inbox remembers, as places in the list.
    pub(super) async fn copies(
        &self,
        connection: &mut Connection,
        message_ids: &[&[u8]],
    ) -> Result<Vec<usize>, Failure> {
        let sql = "SELECT o::int FROM unnest($1) WITH ORDINALITY AS u (m, o) JOIN botisimo.message_ids AS i ON i.message_id = botisimo.hash(u.m) WHERE i.accepted_at >= now() - $2 * interval '1 millisecond'";
        let params: [Param<'_>; 2] = [
            (&message_ids, Type::BYTEA_ARRAY),
            (&signed(self.duplicate_window), Type::INT8),
        ];
        let rows = connection.query(&self.sql(sql), &params).await?;
        let place = |row: &Row| {
            let place: i32 = get(row, 0)?;
            Ok(usize::try_from(place - 1).unwrap_or(usize::MAX))
        };
        rows.iter().map(place).collect()
    }

    /// Leases events without an owner to the worker.
    pub(super) async fn claim(
        &self,
        connection: &mut Connection,
        worker: i64,
        free: usize,
        free_candidates: usize,
    ) -> Result<Vec<StoredEvent>, Failure> {
        let from = "botisimo.claim($1, $2, $3)";
        let params: [Param<'_>; 3] = [
            (&worker, Type::INT8),
            (&small(free), Type::INT4),
            (&small(free_candidates), Type::INT4),
        ];
        self.events(connection, from, &params).await
    }

    /// Returns the events with these ids that the worker has leased.
    pub(super) async fn load(
        &self,
        connection: &mut Connection,
        worker: i64,
        ids: &[i64],
    ) -> Result<Vec<StoredEvent>, Failure> {
        let from = "(SELECT * FROM botisimo.events WHERE id = ANY ($2) AND owner + 0 = $1)";
        let params: [Param<'_>; 2] = [(&worker, Type::INT8), (&ids, Type::INT8_ARRAY)];
        self.events(connection, from, &params).await
    }

    /// Returns the events that the worker has leased, except `known`. A statement whose answer was lost has leased these events.
    pub(super) async fn adopt(
        &self,
        connection: &mut Connection,
        worker: i64,
        known: &[i64],
    ) -> Result<Vec<StoredEvent>, Failure> {
        let from =
            "(SELECT * FROM botisimo.events WHERE owner = $1 AND owner <> 0 AND id <> ALL ($2))";
        let params: [Param<'_>; 2] = [(&worker, Type::INT8), (&known, Type::INT8_ARRAY)];
        self.events(connection, from, &params).await
    }

    /// Reads the events that a table or a function returns, in the order of acceptance.
    async fn events(
        &self,
        connection: &mut Connection,
        from: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<StoredEvent>, Failure> {
        let sql = format!(
            "SELECT e.id, e.received_at, e.order_key::text, e.attempt, e.takeovers, e.routes, e.routes_waiting, e.waiting, e.only_route, e.traceparent, e.message_id, e.body, ARRAY(SELECT f.route FROM botisimo.finished_routes AS f WHERE f.event_id = e.id) FROM {from} AS e ORDER BY e.due_at, e.id"
        );
        let rows = connection.query(&self.sql(&sql), params).await?;
        let read = |row: &Row| StoredEvent::read(row).map_err(Failure::of);
        rows.iter().map(read).collect()
    }

    /// Releases events that the worker has leased.
    pub(super) async fn release(
        &self,
        connection: &mut Connection,
        worker: i64,
        ids: &[i64],
    ) -> Result<(), Failure> {
        let sql = "UPDATE botisimo.events SET owner = 0 WHERE id = ANY ($2) AND owner + 0 = $1";
        let params: [Param<'_>; 2] = [(&worker, Type::INT8), (&ids, Type::INT8_ARRAY)];
        connection.query(&self.sql(sql), &params).await.map(drop)
    }

    /// Releases events that the worker has leased. They are due after `delay`.
    pub(super) async fn postpone(
        &self,
        connection: &mut Connection,
        worker: i64,
        ids: &[i64],
        delay: Duration,
    ) -> Result<(), Failure> {
        let sql = "UPDATE botisimo.events SET owner = 0, due_at = now() + $3 * interval '1 millisecond' WHERE id = ANY ($2) AND owner + 0 = $1";
        let params: [Param<'_>; 3] = [
            (&worker, Type::INT8),
            (&ids, Type::INT8_ARRAY),
            (&signed(delay), Type::INT8),
        ];
        connection.query(&self.sql(sql), &params).await.map(drop)
    }

    /// Releases all events that the worker has leased, and removes the worker.
    pub(super) async fn leave(
        &self,
        connection: &mut Connection,
        worker: i64,
    ) -> Result<(), Failure> {
        let sql = "WITH w AS (DELETE FROM botisimo.workers WHERE id = $1) UPDATE botisimo.events SET owner = 0 WHERE owner = $1 AND owner <> 0";
        let params: [Param<'_>; 1] = [(&worker, Type::INT8)];
        connection.query(&self.sql(sql), &params).await.map(drop)
    }

    /// Returns whether an event hasn't ended.
    pub(super) async fn is_busy(&self, connection: &mut Connection) -> Result<bool, Failure> {
        let sql = "SELECT EXISTS (SELECT FROM botisimo.events)";
        let rows = connection.query(&self.sql(sql), &[]).await?;
        read_one(&rows, |row| row.try_get(0))
    }

    /// Returns when the first stored event that hasn't ended was received, or `None` if there is no such event.
    pub(super) async fn oldest(
        &self,
        connection: &mut Connection,
    ) -> Result<Option<std::time::SystemTime>, Failure> {
        let sql = "SELECT received_at FROM botisimo.events ORDER BY id LIMIT 1";
        let rows = connection.query(&self.sql(sql), &[]).await?;
        rows.first().map(|row| get(row, 0)).transpose()
    }

    /// Counts the rows.
    pub(super) async fn measure(&self, connection: &mut Connection) -> Result<Measured, Failure> {
        let sql = "SELECT (SELECT count(*) FROM botisimo.events), (SELECT coalesce(sum(octet_length(body)), 0)::bigint FROM botisimo.events), (SELECT count(*) FROM botisimo.dead_letters)";
        let rows = connection.query(&self.sql(sql), &[]).await?;
        read_one(&rows, |row| {
            Ok(Measured {
                events: Volume {
                    events: number(row, 0)?,
                    bytes: number(row, 1)?,
                },
                dead_letters: number(row, 2)?,
            })
        })
    }
}

impl Written {
    /// Reads `kind, id`.
    fn read(rows: &[Row], is_owned: bool) -> Result<Self, Failure> {
        let mut written = Self::default();
        for row in rows {
            let id: i64 = get(row, 1)?;
            match get::<i32>(row, 0)? {
                0 => written.ended.push(unsigned(id)),
                _ => written.add_unblocked(id, is_owned),
            }
        }
        Ok(written)
    }

    fn add_unblocked(&mut self, id: i64, is_owned: bool) {
        if is_owned {
            self.unblocked.push(id);
        }
    }
}

fn numbers(completes: &[Complete]) -> Vec<i64> {
    completes
        .iter()
        .map(|complete| stored(complete.number))
        .collect()
}

/// Reads a column.
fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Failure> {
    row.try_get(column).map_err(Failure::of)
}

/// Reads the only row of a result.
fn read_one<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T, PgError>) -> Result<T, Failure> {
    match rows.first() {
        Some(row) => read(row).map_err(Failure::of),
        None => Err(Failure::unanswered()),
    }
}

/// Reads a number that is never negative.
fn number(row: &Row, column: usize) -> Result<u64, PgError> {
    row.try_get(column).map(unsigned)
}

fn unsigned(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

/// Returns a number as the server stores it.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn small(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The longest duration that the inbox sends to the server: 1,000 years. The server's timestamps end in the year 294276.
const LONGEST: Duration = Duration::from_secs(1000 * 365 * 24 * 60 * 60);

/// Returns a duration in milliseconds, rounded up, so that no attempt starts early.
fn signed(duration: Duration) -> i64 {
    stored(millis(
        duration
            .min(LONGEST)
            .saturating_add(Duration::from_nanos(999_999)),
    ))
}
