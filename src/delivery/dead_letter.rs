use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Progress, RouteResult};
use crate::error::Error;
use crate::event::Event;

/// An event that was given up: what it was, which of its routes did their work and which didn't,
/// and why.
///
/// Inboxes keep them for [`DeadLetters`](crate::DeadLetters), which lists them and sends them round
/// again.
#[derive(Clone)]
pub struct DeadLetter {
    id: u64,
    message_id: Arc<str>,
    content: Content,
    cause: Option<Arc<str>>,
    routes: Vec<RouteResult>,
    attempts: u32,
    received_at: SystemTime,
    dead_lettered_at: SystemTime,
}

/// What is left of the event.
#[derive(Clone)]
enum Content {
    Event(Event),
    /// A stored body that this version of the crate can't decode.
    #[cfg_attr(
        not(any(feature = "jetstream", feature = "sqlite")),
        expect(dead_code, reason = "memory holds decoded events")
    )]
    Body(Arc<str>, Error),
}

impl DeadLetter {
    /// Returns that of an event that got as far as `progress` when it was given up.
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
            routes: progress.ends().to_vec(),
            attempts: progress.attempts(),
            received_at: event.received_at(),
            content: Content::Event(event),
            dead_lettered_at,
        }
    }

    /// Returns that of a body that was stored. `message_id` stands in for that of a body which this
    /// version can't decode.
    #[cfg(any(feature = "jetstream", feature = "sqlite"))]
    pub(crate) fn stored(
        (id, message_id): (u64, &str),
        body: &str,
        (received_at, dead_lettered_at): (SystemTime, SystemTime),
        attempts: u32,
        routes: Vec<RouteResult>,
        cause: Option<Arc<str>>,
    ) -> Self {
        let content = match Event::received(body.as_bytes().into(), received_at) {
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
            dead_lettered_at,
        }
    }

    /// Returns the number by which its inbox knows it. It stays the same until the letter is
    /// replayed or deleted.
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
    /// [`ErrorKind::Envelope`](crate::ErrorKind::Envelope) if it was stored by another version of
    /// this crate and this one can't decode it; [`body`](DeadLetter::body) has it as it came.
    pub fn event(&self) -> Result<&Event, &Error> {
        match &self.content {
            Content::Event(event) => Ok(event),
            Content::Body(_, error) => Err(error),
        }
    }

    /// Returns the whole body as it came.
    #[must_use]
    pub fn body(&self) -> &str {
        match &self.content {
            Content::Event(event) => event.body(),
            Content::Body(body, _) => body,
        }
    }

    /// Returns how each route ended, over all attempts.
    #[must_use]
    pub fn routes(&self) -> &[RouteResult] {
        &self.routes
    }

    /// Returns why the event was given up if none of its routes is the reason: it can't be decoded,
    /// or the process crashed each time it ran.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Returns how many attempts there were.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns when the event was received, by this machine's clock.
    #[must_use]
    pub fn received_at(&self) -> SystemTime {
        self.received_at
    }

    /// Returns when it was given up, by this machine's clock.
    #[must_use]
    pub fn dead_lettered_at(&self) -> SystemTime {
        self.dead_lettered_at
    }
}

/// Writes everything but the body and what handlers said.
impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.routes.iter().filter(|end| end.reason.is_some());
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

/// Writes `account.updated m-1 dead after 5 attempts: refresh failed: connection refused`, and what the sender named
/// with its special characters escaped.
impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Ok(event) = self.event() {
            write!(f, "{} ", event.event_type().as_str().escape_debug())?;
        }
        let (id, attempts) = (self.message_id.escape_debug(), self.attempts);
        let plural = if attempts == 1 { "" } else { "s" };
        write!(f, "{id} dead after {attempts} attempt{plural}")?;
        let mut colon = ": ";
        for end in &self.routes {
            if let Some(reason) = &end.reason {
                write!(f, "{colon}{} {reason}", end.route)?;
                colon = ", ";
            }
        }
        match &self.cause {
            Some(cause) => write!(f, "{colon}{cause}"),
            None => Ok(()),
        }
    }
}
