use std::fmt;
use std::time::Duration;

/// The error of an inbox that refuses an event.
///
/// The receiver answers 503 with `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptError {
    kind: AcceptErrorKind,
    retry_after: Duration,
}

/// The kinds of [`AcceptError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AcceptErrorKind {
    /// The inbox is full.
    Full,
    /// The inbox is draining, because the process is about to exit.
    Draining,
    /// The inbox, or the server that it uses, isn't working.
    Unavailable,
}

impl AcceptError {
    /// Returns an error of this kind. The `Retry-After` of a full inbox is 1 second. For the other kinds, it is 5 seconds.
    #[must_use]
    pub fn new(kind: AcceptErrorKind) -> Self {
        let seconds = if kind == AcceptErrorKind::Full { 1 } else { 5 };
        Self {
            kind,
            retry_after: Duration::from_secs(seconds),
        }
    }

    /// Sets the `Retry-After` of the answer. The receiver sends whole seconds, rounded up.
    #[must_use]
    pub fn retry_after(self, retry_after: Duration) -> Self {
        Self {
            retry_after,
            ..self
        }
    }

    /// Returns the kind of this error.
    #[must_use]
    pub fn kind(&self) -> AcceptErrorKind {
        self.kind
    }

    /// Returns the `Retry-After` of the answer.
    #[must_use]
    pub fn delay(&self) -> Duration {
        self.retry_after
    }
}

impl fmt::Display for AcceptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            AcceptErrorKind::Full => "the inbox is full",
            AcceptErrorKind::Draining => "the inbox is draining",
            AcceptErrorKind::Unavailable => "the inbox is not available",
        })
    }
}

impl std::error::Error for AcceptError {}
