use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::EventType;
use super::envelope::{Envelope, Undecoded};
use super::mismatch;
use super::payload::{Payload, Raw};
use super::traceparent::Traceparent;
use crate::error::Error;
use crate::outcome::AttemptState;
use crate::runtime::to_millis;

/// An event that Botisimo sent.
///
/// A plain `Event` keeps its `data` as JSON text, is reference-counted, and is cheap to clone. An
/// `Event<T>` contains `data` decoded as `T`. If the data doesn't fit the `T` of a handler, the
/// outcome of that route is [`Outcome::Mismatched`](crate::Outcome::Mismatched), and other routes
/// aren't affected.
///
/// The specification has no schema for `data`, so you define the types. Declare only the members
/// that you need: serde ignores all others, and the sender may add new members.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{Event, EventType};
///
/// #[derive(serde::Deserialize)]
/// struct Account { name: String }
///
/// let event = Event::from_bytes(
///     br#"{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "account.updated", "data": {"name": "ada"}}"#,
/// )?;
/// assert_eq!(event.id(), "m-1");
/// assert_eq!(*event.event_type(), EventType::AccountUpdated);
/// assert_eq!(event.raw_data(), r#"{"name": "ada"}"#);
/// assert_eq!(event.decode::<Account>()?.name, "ada");
/// # Ok::<_, botisimo_webhooks::Error>(())
/// ```
pub struct Event<T = Raw> {
    envelope: Arc<Envelope>,
    /// `None` outside an attempt.
    attempt_state: Option<Arc<AttemptState>>,
    /// The name of the route, in a handler of an attempt with a lease.
    #[cfg(feature = "postgres")]
    route: Option<Arc<str>>,
    payload: T,
}

impl Event {
    /// Decodes the body of a webhook request.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Envelope`](crate::ErrorKind::Envelope) if the body isn't a JSON object,
    /// or if a member is missing, duplicated or of the wrong type. The error message names the
    /// member and doesn't quote its value.
    pub fn from_bytes(body: impl AsRef<[u8]>) -> Result<Self, Error> {
        Self::received(Box::from(body.as_ref()), SystemTime::now(), None)
            .map_err(|undecoded| undecoded.error)
    }

    /// Decodes a body without copying it.
    pub(crate) fn received(
        body: Box<[u8]>,
        at: SystemTime,
        traceparent: Option<Traceparent>,
    ) -> Result<Self, Undecoded> {
        let envelope = Arc::new(Envelope::decode(body, at, traceparent)?);
        Ok(Self {
            envelope,
            attempt_state: None,
            #[cfg(feature = "postgres")]
            route: None,
            payload: Raw(()),
        })
    }

    /// Returns the event with the state of an attempt.
    pub(crate) fn with_attempt_state(self, attempt_state: Arc<AttemptState>) -> Self {
        Self {
            attempt_state: Some(attempt_state),
            ..self
        }
    }

    /// Returns a clone for the handler of a route.
    #[inline]
    pub(crate) fn for_route(&self, route: &Arc<str>) -> Self {
        let event = self.clone();
        #[cfg(feature = "postgres")]
        if self
            .attempt_state()
            .is_some_and(|state| state.lease().is_some())
        {
            return Self {
                route: Some(Arc::clone(route)),
                ..event
            };
        }
        let _ = route;
        event
    }

    /// Returns this event with its data decoded.
    pub(crate) fn typed<T: Payload>(self) -> Result<Event<T>, Error> {
        let payload = T::take(&self)?;
        Ok(Event {
            envelope: self.envelope,
            attempt_state: self.attempt_state,
            #[cfg(feature = "postgres")]
            route: self.route,
            payload,
        })
    }
}

impl<T> Event<T> {
    /// Returns the state of the attempt.
    pub(crate) fn attempt_state(&self) -> Option<&Arc<AttemptState>> {
        self.attempt_state.as_ref()
    }

    /// Returns the name of the route, in a handler of an attempt with a lease.
    #[cfg(feature = "postgres")]
    pub(crate) fn route(&self) -> Option<&Arc<str>> {
        self.route.as_ref()
    }

    /// Returns the event's `messageId`. If the envelope has no `messageId`, returns its `id`.
    #[must_use]
    pub fn id(&self) -> &str {
        self.envelope.id()
    }

    /// Returns the event's type.
    #[must_use]
    pub fn event_type(&self) -> &EventType {
        &self.envelope.event_type
    }

    /// Returns the time of the event, according to the sender.
    ///
    /// Returns `None` if [`SystemTime`] can't represent this time on the operating system.
    #[must_use]
    pub fn timestamp(&self) -> Option<SystemTime> {
        let millis = self.envelope.timestamp;
        let since = Duration::from_millis(millis.unsigned_abs());
        if millis < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(since)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(since)
        }
    }

    /// Returns the time of the event, according to the sender, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn timestamp_millis(&self) -> i64 {
        self.envelope.timestamp
    }

    /// Returns the time at which the event was received, according to the machine's clock.
    #[must_use]
    pub fn received_at(&self) -> SystemTime {
        self.envelope.received_at
    }

    /// Returns the event's age at `now`, in whole milliseconds by the sender's timestamp.
    ///
    /// An event with a timestamp after its receipt counts from its receipt, because a later timestamp only shows that the
    /// sender's clock is ahead.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        let millis = |time| i64::try_from(to_millis(time)).unwrap_or(i64::MAX);
        let sent_at = self.timestamp_millis().min(millis(self.received_at()));
        let age = millis(now).saturating_sub(sent_at);
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    /// Returns the W3C `traceparent` of the request that brought the event.
    ///
    /// The receiver captures the value from the closure of
    /// [`capture_traceparent`](crate::WebhookLayer::capture_traceparent), or from the request's header, and ignores an
    /// invalid value. Durable inboxes store the value with the event, so the event continues its trace after a restart.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.envelope.traceparent.as_ref().map(Traceparent::as_str)
    }

    /// Returns the number of the attempt, starting at 1. Outside an attempt, returns 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt_state
            .as_ref()
            .map_or(1, |attempt_state| attempt_state.attempt())
    }

    /// Returns `data` as JSON text, unchanged. If the envelope has no `data`, returns `null`.
    #[must_use]
    pub fn raw_data(&self) -> &str {
        self.envelope.data()
    }

    /// Returns the whole body, unchanged. [`Event::from_bytes`] decodes it to the same event.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.envelope.body
    }

    /// Decodes `data`. The type may borrow from the event.
    ///
    /// # Examples
    ///
    /// ```
    /// # use botisimo_webhooks::Event;
    /// #[derive(serde::Deserialize)]
    /// struct Title<'a> { title: &'a str }
    ///
    /// fn handler(event: &Event) -> Result<usize, botisimo_webhooks::Error> {
    ///     let data: Title = event.decode()?;
    ///     Ok(data.title.len())
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Payload`](crate::ErrorKind::Payload) if the data doesn't fit. The error
    /// message contains the line, the column and the path of the field, but no value.
    pub fn decode<'a, U: Deserialize<'a>>(&'a self) -> Result<U, Error> {
        let data = self.raw_data();
        serde_json::from_str(data).map_err(|error| mismatch::explain::<U>(data, &error))
    }
}

impl<T: DeserializeOwned> Event<T> {
    /// Returns the decoded data.
    #[must_use]
    pub fn data(&self) -> &T {
        &self.payload
    }

    /// Returns the decoded data by value.
    #[must_use]
    pub fn into_data(self) -> T {
        self.payload
    }
}

impl<T: Clone> Clone for Event<T> {
    fn clone(&self) -> Self {
        let (envelope, attempt_state) = (Arc::clone(&self.envelope), self.attempt_state.clone());
        Self {
            envelope,
            attempt_state,
            #[cfg(feature = "postgres")]
            route: self.route.clone(),
            payload: self.payload.clone(),
        }
    }
}

/// Omits the payload.
impl<T> fmt::Debug for Event<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event")
            .field("id", &self.id())
            .field("event_type", self.event_type())
            .field("timestamp_millis", &self.timestamp_millis())
            .field("attempt", &self.attempt())
            .finish_non_exhaustive()
    }
}
