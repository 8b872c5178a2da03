use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{AttemptRecord, EventState, Progress, RouteResult};
use crate::error::Error;
use crate::event::{Event, Traceparent};
use crate::runtime::to_millis;

/// An event in an inbox: its state, its attempts, and the results of its routes.
///
/// [`EventLog`](crate::EventLog) lists, replays and deletes events.
#[derive(Clone)]
pub struct EventRecord {
    pub(crate) id: u64,
    content: Content,
    state: EventState,
    cause: Option<Arc<str>>,
    routes: Box<[RouteResult]>,
    attempts: u32,
    history: Box<[AttemptRecord]>,
    received_at: SystemTime,
    ended_at: Option<SystemTime>,
}

#[derive(Clone)]
enum Content {
    Event(Event),
    /// A stored body that this version of the crate can't decode.
    Body(Arc<Undecodable>),
}

struct Undecodable {
    message_id: Box<str>,
    body: Box<str>,
    error: Error,
}

/// The parts of an [`EventRecord`] that a durable inbox stores.
pub(crate) struct StoredRecord<'a> {
    pub(crate) id: u64,
    pub(crate) message_id: &'a str,
    pub(crate) body: &'a str,
    pub(crate) traceparent: Option<Traceparent>,
    pub(crate) state: EventState,
    pub(crate) received_at: SystemTime,
    /// Absent if the event is in flight.
    pub(crate) ended_at: Option<SystemTime>,
    pub(crate) attempts: u32,
    pub(crate) routes: Vec<RouteResult>,
    pub(crate) history: Vec<AttemptRecord>,
    pub(crate) cause: Option<Arc<str>>,
}

impl EventRecord {
    /// Returns the record of an event that hasn't been attempted.
    pub(crate) fn waiting(id: u64, event: Event) -> Self {
        Self {
            id,
            state: EventState::Waiting,
            cause: None,
            routes: Box::default(),
            attempts: 0,
            history: Box::default(),
            received_at: event.received_at(),
            ended_at: None,
            content: Content::Event(event),
        }
    }

    /// Returns the record of an event in flight. The routes have the results of their last attempts.
    pub(crate) fn in_flight(
        id: u64,
        event: Event,
        state: EventState,
        attempts: u32,
        history: Vec<AttemptRecord>,
    ) -> Self {
        Self {
            state,
            routes: AttemptRecord::latest(&history).into(),
            attempts,
            history: history.into(),
            ..Self::waiting(id, event)
        }
    }

    /// Returns the record of an event that ended.
    pub(crate) fn ended(
        id: u64,
        event: Event,
        state: EventState,
        (routes, attempts): (Vec<RouteResult>, u32),
        history: Vec<AttemptRecord>,
        ended_at: SystemTime,
    ) -> Self {
        Self {
            state,
            routes: routes.into(),
            attempts,
            history: history.into(),
            // The system time may have been set back since the inbox received the event.
            ended_at: Some(ended_at.max(event.received_at())),
            ..Self::waiting(id, event)
        }
    }

    /// Returns the dead letter of an event that ended with `progress`.
    pub(crate) fn new(id: u64, event: Event, progress: &Progress, ended_at: SystemTime) -> Self {
        let results = (progress.results().to_vec(), progress.attempts());
        Self::ended(id, event, EventState::Dead, results, Vec::new(), ended_at)
    }

    /// Returns the record with these attempts.
    pub(crate) fn with_history(self, history: Vec<AttemptRecord>) -> Self {
        Self {
            history: history.into(),
            ..self
        }
    }

    /// Returns the record of a stored event. If this version can't decode the body, the record uses `message_id`.
    pub(crate) fn stored(stored: StoredRecord<'_>) -> Self {
        let (body, received_at) = (stored.body, stored.received_at);
        let event = Event::received(body.as_bytes().into(), received_at, stored.traceparent);
        let content = match event {
            Ok(event) => Content::Event(event),
            Err(undecoded) => Content::Body(Arc::new(Undecodable {
                message_id: Box::from(stored.message_id),
                body: Box::from(body),
                error: undecoded.error,
            })),
        };
        Self {
            id: stored.id,
            content,
            state: stored.state,
            cause: stored.cause,
            routes: stored.routes.into(),
            attempts: stored.attempts,
            history: stored.history.into(),
            received_at,
            ended_at: stored.ended_at.map(|ended_at| ended_at.max(received_at)),
        }
    }

    /// Returns the event's number in its inbox. Ids follow the order in which the inbox accepted the events. A replay doesn't
    /// change the id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the event's `messageId`.
    #[must_use]
    pub fn message_id(&self) -> &str {
        match &self.content {
            Content::Event(event) => event.id(),
            Content::Body(body) => &body.message_id,
        }
    }

    /// Returns the event.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Envelope`](crate::ErrorKind::Envelope) if another version of this crate stored the event and this
    /// version can't decode it. [`body`](EventRecord::body) returns the event's body as received.
    pub fn event(&self) -> Result<&Event, &Error> {
        match &self.content {
            Content::Event(event) => Ok(event),
            Content::Body(body) => Err(&body.error),
        }
    }

    /// Returns the whole body as it was received.
    #[must_use]
    pub fn body(&self) -> &str {
        match &self.content {
            Content::Event(event) => event.body(),
            Content::Body(body) => &body.body,
        }
    }

    /// Returns the event's state when the record was read.
    #[must_use]
    pub fn state(&self) -> EventState {
        self.state
    }

    /// Returns the result of each route over all attempts. While the event is in flight, a failed route may be retried.
    #[must_use]
    pub fn routes(&self) -> &[RouteResult] {
        &self.routes
    }

    /// Returns why the event was dead-lettered, if no route caused it. Either the inbox can't decode the event, or the
    /// process crashed each time the event ran.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Returns the number of attempts that started. A replay counts from 1 again.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns the finished attempts, oldest first, including the attempts before a replay.
    ///
    /// The record keeps the newest 25 attempts. If the reasons of an attempt are long, the record keeps only the names of the
    /// outcomes. A dead letter that a `SqliteInbox` passes to a hook has no attempts. On JetStream, only the log of the worker that
    /// ran the event has its attempts.
    #[must_use]
    pub fn history(&self) -> &[AttemptRecord] {
        &self.history
    }

    /// Returns when the event was received, by this machine's clock.
    #[must_use]
    pub fn received_at(&self) -> SystemTime {
        self.received_at
    }

    /// Returns when the event ended, by this machine's clock, or `None` if the event is in flight.
    #[must_use]
    pub fn ended_at(&self) -> Option<SystemTime> {
        self.ended_at
    }

    /// Returns when the event was dead-lettered, by this machine's clock.
    #[must_use]
    pub fn dead_lettered_at(&self) -> SystemTime {
        self.ended_at.unwrap_or(self.received_at)
    }

    /// Returns the number of bytes in the body, and in the reasons in the history that `routes` doesn't contain.
    pub(crate) fn size(&self) -> usize {
        self.body().len() + AttemptRecord::text(&self.history, &self.routes)
    }
}

/// Writes everything except the body and the handlers' error messages.
impl fmt::Debug for EventRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.routes.iter().filter(|route| route.is_failure());
        f.debug_struct("EventRecord")
            .field("id", &self.id)
            .field("message_id", &self.message_id())
            .field("state", &self.state)
            .field(
                "failed",
                &failed.map(RouteResult::route).collect::<Vec<_>>(),
            )
            .field("cause", &self.cause)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// Writes `account.updated m-1 dead after 5 attempts: refresh failed: connection refused`. Special characters in the sender's
/// names are escaped.
impl fmt::Display for EventRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(event) = self.event() {
            write!(f, "{} ", event.event_type().as_str().escape_debug())?;
        }
        write!(f, "{} {}", self.message_id().escape_debug(), self.state)?;
        match self.attempts {
            0 => {}
            1 => f.write_str(" after 1 attempt")?,
            attempts => write!(f, " after {attempts} attempts")?,
        }
        let mut colon = ": ";
        for result in &self.routes {
            if let Some(reason) = &result.reason {
                write!(f, "{colon}{} {reason}", result.route)?;
                colon = ", ";
            }
        }
        match &self.cause {
            Some(cause) => write!(f, "{colon}{cause}"),
            None => Ok(()),
        }
    }
}

/// Serializes everything except the body: `id`, `message_id`, `event_type` (null if the event can't be decoded), `state`,
/// `routes`, `cause`, `attempts`, `history`, and `received_at` and `ended_at` (null in flight) in milliseconds since the Unix
/// epoch.
///
/// Without the body, a serialized record in a log or on a status page discloses no payload. To show payloads, add
/// [`body`](EventRecord::body). The reasons in `routes` and `history` contain handlers' error messages.
impl Serialize for EventRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.event().ok();
        let event_type = event.map(|event| event.event_type().as_str());
        let mut record = serializer.serialize_struct("EventRecord", 10)?;
        record.serialize_field("id", &self.id)?;
        record.serialize_field("message_id", self.message_id())?;
        record.serialize_field("event_type", &event_type)?;
        record.serialize_field("state", self.state.as_str())?;
        record.serialize_field("routes", &self.routes)?;
        record.serialize_field("cause", &self.cause())?;
        record.serialize_field("attempts", &self.attempts)?;
        record.serialize_field("history", &self.history)?;
        record.serialize_field("received_at", &to_millis(self.received_at))?;
        record.serialize_field("ended_at", &self.ended_at.map(to_millis))?;
        record.end()
    }
}
