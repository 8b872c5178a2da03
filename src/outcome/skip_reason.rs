use std::fmt;
use std::sync::Arc;

/// The reason for which a route skipped an event.
///
/// A skipped route isn't a failure: the inbox doesn't retry the route and stores no dead letter for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The event was older than [`fresh_within`](crate::EventRouter::fresh_within) allows.
    Stale,
    /// The route has handled another event with the same key within the window of
    /// [`once_per`](crate::EventRouter::once_per).
    Duplicate {
        /// The [id](crate::Event::id) of the event that the route has handled.
        of: Arc<str>,
    },
}

impl SkipReason {
    /// Returns the reason's name, one word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Duplicate { .. } => "duplicate",
        }
    }
}

/// Writes `stale` or `duplicate of m-1`. Special characters in the sender's id are escaped.
impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale => f.pad(self.as_str()),
            Self::Duplicate { of } => write!(f, "{} of {}", self.as_str(), of.escape_debug()),
        }
    }
}
