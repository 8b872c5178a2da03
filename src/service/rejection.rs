use std::fmt;

use http::StatusCode;

use super::reply::Reply;
use crate::error::Error;
use crate::event::{Event, Undecoded};
use crate::inbox::{AcceptError, AcceptErrorKind};

/// A webhook request whose event was not taken, as the hook of
/// [`on_rejection`](crate::WebhookLayer::on_rejection) sees it.
///
/// # Examples
///
/// Keeps what a verified sender sent in an envelope of a new kind:
///
/// ```
/// use std::sync::mpsc::channel;
///
/// use botisimo_webhooks::{Event, EventRouter, RejectionReason, SharedSecret, WebhookLayer};
///
/// let (keep, kept) = channel();
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
///     .verify(SharedSecret::in_query("token", "s3cret"))
///     .on_rejection(move |rejection| {
///         if rejection.reason() == RejectionReason::Malformed {
///             let body = rejection.body().unwrap_or_default().to_owned();
///             let _ = keep.send((rejection.to_string(), body));
///         }
///     });
/// # drop((webhooks, kept));
/// ```
#[derive(Clone)]
pub struct Rejection {
    pub(super) reason: RejectionReason,
    reply: Reply,
    error: Option<Error>,
    event: Option<Event>,
    body: Option<Box<[u8]>>,
}

/// Why the event of a webhook request was not taken.
///
/// | reason | answer | |
/// |---|---|---|
/// | `NotPost` | 405, `Allow: POST` | |
/// | `Unverified` | 401, `WWW-Authenticate` | before the body is read |
/// | `ContentType`, `ContentEncoding` | 415 | JSON is what the sender sends; an absent content type is accepted |
/// | `TooLarge` | 413 | before reading where the length is declared |
/// | `Unreadable` | 400 | the connection broke, or a layer around this one gave up |
/// | `Malformed` | 400 with a text for each member, or as set | it may be the first sign of a changed envelope |
/// | `Incomplete` | 408 | the body didn't come in time |
/// | `Unmatched` | as set; it isn't a reason otherwise | an error would be retried for days |
/// | `Full`, `Busy` | 503, `Retry-After: 1` | no room in the inbox, or for more bodies |
/// | `Draining`, `Unavailable`, `Panicked`, `Slow` | 503, `Retry-After: 5` | the sender tries again, so nothing is lost |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionReason {
    /// The method isn't `POST`.
    NotPost,
    /// The secret is wrong or missing.
    Unverified,
    /// The content type isn't JSON.
    ContentType,
    /// The body is encoded, by gzip say, and no layer around this one has undone that.
    ContentEncoding,
    /// The body is larger than the limit.
    TooLarge,
    /// The body couldn't be read to its end.
    Unreadable,
    /// The body is no event.
    Malformed,
    /// The body wasn't complete in time.
    Incomplete,
    /// No route takes the event, and [`answer_unmatched`](crate::WebhookLayer::answer_unmatched)
    /// says to refuse it.
    Unmatched,
    /// Too many bytes of bodies are in flight.
    Busy,
    /// The inbox has no room.
    Full,
    /// The inbox is being drained.
    Draining,
    /// The inbox isn't working.
    Unavailable,
    /// A [`Verify`](crate::Verify), an inbox or a body of the user's panicked, and decided nothing.
    Panicked,
    /// The inbox didn't answer in time. It may own the event in the end; the sender's next copy
    /// will tell.
    Slow,
}

impl RejectionReason {
    /// Returns the reason as a text that holds nothing of the request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotPost => "webhooks are sent by POST",
            Self::Unverified => "the secret is wrong or missing",
            Self::ContentType => "the content type is not JSON",
            Self::ContentEncoding => "the content encoding is not supported",
            Self::TooLarge => "the body is too large",
            Self::Unreadable => "the body could not be read",
            Self::Malformed => "the body is not an event",
            Self::Incomplete => "the body was not complete in time",
            Self::Unmatched => "no route takes this event type",
            Self::Busy => "too many bodies are being read",
            Self::Full => "the inbox is full",
            Self::Draining => "the inbox is being drained",
            Self::Unavailable => "the inbox is not available",
            Self::Panicked => "the receiver panicked",
            Self::Slow => "the inbox did not answer in time",
        }
    }

    /// Returns the answer: the one table.
    fn reply(self) -> Reply {
        let text = self.as_str();
        match self {
            Self::NotPost => Reply::method_not_allowed(text),
            Self::Unverified => Reply::unauthorized(text),
            Self::ContentType => Reply::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text),
            Self::ContentEncoding => Reply::unsupported_encoding(text),
            Self::TooLarge => Reply::new(StatusCode::PAYLOAD_TOO_LARGE, text),
            Self::Unreadable | Self::Malformed => Reply::new(StatusCode::BAD_REQUEST, text),
            Self::Incomplete => Reply::new(StatusCode::REQUEST_TIMEOUT, text),
            Self::Unmatched => Reply::new(StatusCode::NOT_FOUND, text),
            Self::Busy | Self::Full => Reply::unavailable(text, AcceptError::full().delay()),
            Self::Draining => Reply::unavailable(text, AcceptError::draining().delay()),
            Self::Unavailable | Self::Panicked | Self::Slow => {
                Reply::unavailable(text, AcceptError::unavailable().delay())
            }
        }
    }

    /// Returns whether to warn of the `count`th rejection of this kind.
    ///
    /// Each one of those that the sender's retries alone don't mend and that no stranger brings
    /// about; of the others the 1st, 2nd, 4th, 8th and so on, so that a scanner can't fill the
    /// log, nor a wrong secret go unnoticed.
    pub(super) fn should_warn(self, count: u64) -> bool {
        matches!(
            self,
            Self::Malformed | Self::Unavailable | Self::Panicked | Self::Slow
        ) || count.is_power_of_two()
    }
}

impl fmt::Display for RejectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Rejection {
    /// Returns why.
    #[must_use]
    pub fn reason(&self) -> RejectionReason {
        self.reason
    }

    /// Returns the status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.reply.status()
    }

    /// Returns what is wrong with a malformed body.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns the event, where it came to one: it was refused by the inbox or not matched.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// Returns the malformed body as it came. A sender that is verified may have changed its
    /// envelope: keep what it sent.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// Returns the answer.
    pub(super) fn reply(&self) -> Reply {
        self.reply.clone()
    }

    /// Returns the text of what is wrong.
    pub(super) fn text(&self) -> &'static str {
        self.error
            .as_ref()
            .and_then(Error::static_text)
            .unwrap_or(self.reason.as_str())
    }

    /// Returns what is answered for this reason alone.
    pub(super) fn because(reason: RejectionReason) -> Box<Self> {
        Box::new(Self {
            reason,
            reply: reason.reply(),
            error: None,
            event: None,
            body: None,
        })
    }

    /// Answers with another status than that of the reason.
    pub(super) fn with_status(mut self: Box<Self>, status: StatusCode) -> Box<Self> {
        self.reply = Reply::new(status, self.text());
        self
    }

    /// Tells the sender that the connection is closed after the answer.
    pub(super) fn closing(mut self: Box<Self>) -> Box<Self> {
        self.reply = self.reply.closing();
        self
    }

    pub(super) fn with_event(mut self: Box<Self>, event: Option<Event>) -> Box<Self> {
        self.event = event;
        self
    }

    pub(super) fn malformed(undecoded: Undecoded, status: StatusCode) -> Box<Self> {
        let mut rejection = Self::because(RejectionReason::Malformed);
        rejection.error = Some(undecoded.error);
        rejection.body = Some(undecoded.body);
        rejection.with_status(status)
    }

    pub(super) fn refused(refused: &AcceptError) -> Box<Self> {
        let reason = match refused.kind() {
            AcceptErrorKind::Full => RejectionReason::Full,
            AcceptErrorKind::Draining => RejectionReason::Draining,
            AcceptErrorKind::Unavailable => RejectionReason::Unavailable,
        };
        let mut rejection = Self::because(reason);
        rejection.reply = Reply::unavailable(reason.as_str(), refused.delay());
        rejection
    }
}

/// Writes the status and what is wrong, nothing of the request.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status().as_u16(), self.text())
    }
}

/// Writes everything but the payload.
impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("reason", &self.reason)
            .field("status", &self.status())
            .field("error", &self.error)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}
