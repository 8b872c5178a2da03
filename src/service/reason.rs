use std::fmt;

use http::StatusCode;

use super::reply::Reply;
use crate::inbox::{AcceptError, AcceptErrorKind};

/// The reason why a webhook request was rejected.
///
/// | reason | answer | |
/// |---|---|---|
/// | `NotPost` | 405, `Allow: POST` | |
/// | `Unverified` | 401, `WWW-Authenticate` | before the body is read |
/// | `ContentType`, `ContentEncoding` | 415 | the sender sends JSON; an absent or empty content type is accepted |
/// | `TooLarge` | 413 | before the body is read, if its length is declared |
/// | `Unreadable` | 400 | the connection broke, or an outer layer failed |
/// | `Malformed` | 400 with a message for each member, or the status of `answer_malformed` | the sender may have changed its envelope |
/// | `Incomplete` | 408 | the deadline passed before the end of the body |
/// | `Unmatched` | the status of `answer_unmatched`; by default, unmatched events are accepted | after an error, the sender retries for days |
/// | `Full`, `Busy` | 503, `Retry-After: 1` | the inbox is full, or too many body bytes are in flight |
/// | `Draining`, `Unavailable`, `Panicked`, `Slow` | 503, `Retry-After: 5` | the sender retries, so nothing is lost |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionReason {
    /// The method isn't `POST`.
    NotPost,
    /// The secret is wrong or missing.
    Unverified,
    /// The content type isn't JSON.
    ContentType,
    /// The body is encoded, for example by gzip, and no outer layer has decoded it.
    ContentEncoding,
    /// The body exceeds the limit.
    TooLarge,
    /// The body couldn't be read to the end.
    Unreadable,
    /// The body isn't an event.
    Malformed,
    /// The body was incomplete at the deadline.
    Incomplete,
    /// No route matches the event, and
    /// [`answer_unmatched`](crate::WebhookLayer::answer_unmatched) sets an error status.
    Unmatched,
    /// Too many body bytes are in flight.
    Busy,
    /// The inbox is full.
    Full,
    /// The inbox is draining.
    Draining,
    /// The inbox isn't working.
    Unavailable,
    /// A [`Verify`](crate::Verify), a wrapper of an inbox or a body panicked.
    Panicked,
    /// The inbox didn't answer before the deadline.
    ///
    /// The inbox may still store the event. If it does, the receiver answers the next copy with 200.
    Slow,
}

impl RejectionReason {
    /// Returns a short message that contains no part of the request.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NotPost => "webhooks are sent by POST",
            Self::Unverified => "the secret is wrong or missing",
            Self::ContentType => "the content type is not JSON",
            Self::ContentEncoding => "the content encoding is not supported",
            Self::TooLarge => "the body is too large",
            Self::Unreadable => "the body could not be read",
            Self::Malformed => "the body is not an event",
            Self::Incomplete => "the body was not complete in time",
            Self::Unmatched => "no route matches this event type",
            Self::Busy => "too many bodies are being read",
            Self::Full => "the inbox is full",
            Self::Draining => "the inbox is draining",
            Self::Unavailable => "the inbox is not available",
            Self::Panicked => "the receiver panicked",
            Self::Slow => "the inbox did not answer in time",
        }
    }

    /// Returns the value of the label `reason` in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::NotPost => "not_post",
            Self::Unverified => "unverified",
            Self::ContentType => "content_type",
            Self::ContentEncoding => "content_encoding",
            Self::TooLarge => "too_large",
            Self::Unreadable => "unreadable",
            Self::Malformed => "malformed",
            Self::Incomplete => "incomplete",
            Self::Unmatched => "unmatched",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Unavailable => "unavailable",
            Self::Panicked => "panicked",
            Self::Slow => "slow",
        }
    }

    /// Returns the answer to a request that is rejected for this reason.
    pub(super) fn reply(self) -> Reply {
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
            Self::Busy | Self::Full => {
                Reply::unavailable(text, AcceptError::new(AcceptErrorKind::Full).delay())
            }
            Self::Draining => {
                Reply::unavailable(text, AcceptError::new(AcceptErrorKind::Draining).delay())
            }
            Self::Unavailable | Self::Panicked | Self::Slow => {
                Reply::unavailable(text, AcceptError::new(AcceptErrorKind::Unavailable).delay())
            }
        }
    }

    /// Returns whether to log the `count`th rejection of this kind as a warning.
    ///
    /// The receiver always warns if a retry doesn't fix the rejection and an unverified client can't cause it.
    /// For all other kinds, it warns for the 1st, 2nd, 4th, 8th and so on. This way a scanner
    /// can't fill the log, but the log still shows a misconfigured secret.
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
