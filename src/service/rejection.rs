use std::fmt;

use http::StatusCode;

use super::reason::RejectionReason;
use super::reply::Reply;
use crate::error::Error;
use crate::event::{Event, Undecoded};
use crate::inbox::{AcceptError, AcceptErrorKind};

/// A rejected webhook request. The receiver passes each rejection to hooks of
/// [`on_rejection`](crate::WebhookLayer::on_rejection).
///
/// # Examples
///
/// Keeps malformed bodies, because a verified sender may have changed its envelope:
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
    reason: RejectionReason,
    reply: Reply,
    error: Option<Error>,
    event: Option<Event>,
    body: Option<Box<[u8]>>,
}

impl Rejection {
    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> RejectionReason {
        self.reason
    }

    /// Returns the status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.reply.status()
    }

    /// Returns the error of a malformed body.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns the event if the body was decoded, but the inbox refused the event or no route
    /// matched.
    #[must_use]
    pub fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// Returns the malformed body, unchanged.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }

    /// Returns the answer.
    pub(super) fn reply(&self) -> Reply {
        self.reply.clone()
    }

    /// Returns the text of the answer.
    pub(super) fn text(&self) -> &'static str {
        self.error
            .as_ref()
            .and_then(Error::static_text)
            .unwrap_or(self.reason.as_str())
    }

    pub(super) fn because(reason: RejectionReason) -> Box<Self> {
        Box::new(Self {
            reason,
            reply: reason.reply(),
            error: None,
            event: None,
            body: None,
        })
    }

    pub(super) fn malformed(undecoded: Undecoded, status: StatusCode) -> Box<Self> {
        let mut rejection = Self::because(RejectionReason::Malformed);
        rejection.error = Some(undecoded.error);
        rejection.body = Some(undecoded.body);
        rejection.with_status(status)
    }

    pub(super) fn refused(error: &AcceptError) -> Box<Self> {
        let reason = match error.kind() {
            AcceptErrorKind::Full => RejectionReason::Full,
            AcceptErrorKind::Draining => RejectionReason::Draining,
            AcceptErrorKind::Unavailable => RejectionReason::Unavailable,
        };
        let mut rejection = Self::because(reason);
        rejection.reply = Reply::unavailable(reason.as_str(), error.delay());
        rejection
    }

    /// Replaces the reason's default status.
    pub(super) fn with_status(mut self: Box<Self>, status: StatusCode) -> Box<Self> {
        self.reply = Reply::new(status, self.text());
        self
    }

    pub(super) fn with_event(mut self: Box<Self>, event: Event) -> Box<Self> {
        self.event = Some(event);
        self
    }

    /// Closes the connection after the answer.
    pub(super) fn closing(mut self: Box<Self>) -> Box<Self> {
        self.reply = self.reply.closing();
        self
    }
}

/// Writes the status and the text of the answer. The output contains no part of the request.
impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status().as_u16(), self.text())
    }
}

/// Omits the payload.
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
