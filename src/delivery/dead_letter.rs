use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::{Progress, RouteResult};
use crate::error::Error;
use crate::event::{Event, Traceparent};
use crate::runtime::to_millis;

/// An event that failed permanently, with the results of its routes.
///
/// Inboxes keep dead letters. [`DeadLetters`](crate::DeadLetters) lists, replays and deletes them.
#[derive(Clone)]
pub struct DeadLetter {
    pub(crate) id: u64,
    message_id: Arc<str>,
    content: Content,
    cause: Option<Arc<str>>,
    routes: Vec<RouteResult>,
    attempts: u32,
    received_at: SystemTime,
    dead_lettered_at: SystemTime,
}

#[derive(Clone)]
enum Content {
    Event(Event),
    /// A stored body that this version of the crate can't decode.
    Body(Arc<str>, Error),
}

impl DeadLetter {
    /// Returns the dead letter of an event that ended with `progress`.
    pub(crate) fn new(
        id: u64,
        event: Event,
        progress: &Progress,
        dead_lettered_at: SystemTime,
    ) -> Self {
        Self {
            id,
            message_id: Arc::from(event.id()),
            cause: None,
            routes: progress.results().to_vec(),
            attempts: progress.attempts(),
            received_at: event.received_at(),
            // The system time may have been set back since the inbox received the event.
            dead_lettered_at: dead_lettered_at.max(event.received_at()),
            content: Content::Event(event),
        }
    }

    /// Returns the dead letter of a stored body. If this version can't decode the body, the letter uses `message_id`.
    pub(crate) fn stored(
        (id, message_id): (u64, &str),
        (body, traceparent): (&str, Option<Traceparent>),
        (received_at, dead_lettered_at): (SystemTime, SystemTime),
        attempts: u32,
        routes: Vec<RouteResult>,
        cause: Option<Arc<str>>,
    ) -> Self {
        let content = match Event::received(body.as_bytes().into(), received_at, traceparent) {
            Ok(event) => Content::Event(event),
            Err(undecoded) => Content::Body(Arc::from(body), undecoded.error),
        };
        let message_id = match &content {
            Content::Event(event) => Arc::from(event.id()),
            Content::Body(..) => Arc::from(message_id),
        };
        Self {
            id,
            message_id,
            content,
            cause,
            routes,
            attempts,
            received_at,
            dead_lettered_at: dead_lettered_at.max(received_at),
        }
    }

    /// Returns the letter's number in its inbox. The number stays the same until the letter is replayed or deleted.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the event's `messageId`.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// Returns the event.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Envelope`](crate::ErrorKind::Envelope) if another version of this crate stored the event and this
    /// version can't decode it. [`body`](DeadLetter::body) returns the event's body as received.
    pub fn event(&self) -> Result<&Event, &Error> {
        match &self.content {
            Content::Event(event) => Ok(event),
            Content::Body(_, error) => Err(error),
        }
    }

    /// Returns the whole body as it was received.
    #[must_use]
    pub fn body(&self) -> &str {
        match &self.content {
            Content::Event(event) => event.body(),
            Content::Body(body, _) => body,
        }
    }

    /// Returns the result of each route over all attempts.
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

    /// Returns the number of attempts.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns when the event was received, by this machine's clock.
    #[must_use]
    pub fn received_at(&self) -> SystemTime {
        self.received_at
    }

    /// Returns when the event was dead-lettered, by this machine's clock.
    #[must_use]
    pub fn dead_lettered_at(&self) -> SystemTime {
        self.dead_lettered_at
    }
}

/// Writes everything except the body and the handlers' error messages.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.routes.iter().filter(|route| route.reason.is_some());
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("message_id", &self.message_id)
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
impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(event) = self.event() {
            write!(f, "{} ", event.event_type().as_str().escape_debug())?;
        }
        let (id, attempts) = (self.message_id.escape_debug(), self.attempts);
        let plural = if attempts == 1 { "" } else { "s" };
        write!(f, "{id} dead after {attempts} attempt{plural}")?;
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

/// Serializes everything except the body: `id`, `message_id`, `event_type` (null if the event can't be decoded), `routes`,
/// `cause`, `attempts`, and `received_at` and `dead_lettered_at` in milliseconds since the Unix epoch.
///
/// Without the body, a serialized letter in a log or on a status page discloses no payload. To show payloads, add
/// [`body`](DeadLetter::body). The reasons in `routes` contain handlers' error messages.
impl Serialize for DeadLetter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let event = self.event().ok();
        let event_type = event.map(|event| event.event_type().as_str());
        let mut letter = serializer.serialize_struct("DeadLetter", 8)?;
        letter.serialize_field("id", &self.id)?;
        letter.serialize_field("message_id", self.message_id())?;
        letter.serialize_field("event_type", &event_type)?;
        letter.serialize_field("routes", &self.routes)?;
        letter.serialize_field("cause", &self.cause())?;
        letter.serialize_field("attempts", &self.attempts)?;
        letter.serialize_field("received_at", &to_millis(self.received_at))?;
        letter.serialize_field("dead_lettered_at", &to_millis(self.dead_lettered_at))?;
        letter.end()
    }
}
