use std::fmt;
use std::sync::Arc;

use super::{HandlerError, SkipReason};
use crate::error::Error;

/// The outcome of one route in one attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler returned `()` or `Ok(())`.
    Handled,
    /// The handler returned an error, or a layer around the router returned an error while the handler ran.
    Failed(HandlerError),
    /// The handler panicked while it was cloned or called, while its payload was decoded, or while its future was polled or
    /// dropped. Contains the panic's message.
    Panicked(Arc<str>),
    /// The payload doesn't match the handler's type.
    Mismatched(Error),
    /// The handler was dropped because it was still running after `attempt_timeout` or the
    /// [timeout](crate::EventRouter::timeout) of its route.
    TimedOut,
    /// The runtime or a layer around the router dropped the handler before it returned.
    Dropped,
    /// An option of the route kept the handler from running.
    Skipped(SkipReason),
}

impl Outcome {
    /// Returns whether the route handled the event.
    pub(crate) fn is_handled(&self) -> bool {
        matches!(self, Self::Handled)
    }

    /// Returns whether the route neither handled the event nor skipped it.
    pub(crate) fn is_failure(&self) -> bool {
        !matches!(self, Self::Handled | Self::Skipped(_))
    }

    /// Returns whether another attempt may succeed.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Handled | Self::Mismatched(_) | Self::Skipped(_) => false,
            Self::Failed(error) => !error.is_permanent(),
            Self::Panicked(_) | Self::TimedOut | Self::Dropped => true,
        }
    }

    /// Returns the outcome's name, one or two words. The name contains no text from the handler.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::Mismatched(_) => "mismatched",
            Self::TimedOut => "timed out",
            Self::Dropped => "dropped",
            Self::Skipped(_) => "skipped",
        }
    }
}

/// Writes the name, and the message of the error or panic or the reason of the skip: `failed: connection refused`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::Failed(error) => write!(f, ": {error}"),
            Self::Panicked(message) => write!(f, ": {message}"),
            Self::Mismatched(error) => write!(f, ": {error}"),
            Self::Skipped(reason) => write!(f, ": {reason}"),
            Self::Handled | Self::TimedOut | Self::Dropped => Ok(()),
        }
    }
}
