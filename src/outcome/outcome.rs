use std::fmt;
use std::sync::Arc;

use super::HandlerError;
use crate::error::Error;

/// What became of one route in one attempt.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler returned `()` or `Ok(())`.
    Handled,
    /// The handler returned an error, or a layer around the router did while the handler ran.
    Failed(HandlerError),
    /// The handler panicked: in the clone, the call, the decoding, a poll or the drop of its
    /// future. Holds the message.
    Panicked(Arc<str>),
    /// The payload doesn't fit the type that the handler asks for.
    Mismatched(Error),
    /// The handler still ran when the attempt's time was over, and was dropped.
    TimedOut,
    /// The handler was dropped by the runtime or by a layer around the router before it returned.
    Dropped,
}

impl Outcome {
    /// Returns whether the route needs no further attempt because it did its work.
    #[must_use]
    pub fn is_handled(&self) -> bool {
        matches!(self, Self::Handled)
    }

    /// Returns the outcome's name, one or two words, which holds nothing of the user's.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::Mismatched(_) => "mismatched",
            Self::TimedOut => "timed out",
            Self::Dropped => "dropped",
        }
    }
}

/// Writes the name, and what the handler said where it said something: `failed: connection
/// refused`.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::Failed(error) => write!(f, ": {error}"),
            Self::Panicked(message) => write!(f, ": {message}"),
            Self::Mismatched(error) => write!(f, ": {error}"),
            Self::Handled | Self::TimedOut | Self::Dropped => Ok(()),
        }
    }
}
