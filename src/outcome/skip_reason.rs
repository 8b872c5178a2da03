use std::fmt;

/// The reason for which a route skipped an event.
///
/// A skipped route isn't a failure: the inbox doesn't retry the route and stores no dead letter for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SkipReason {
    /// The event was older than [`fresh_within`](crate::EventRouter::fresh_within) allows.
    Stale,
}

impl SkipReason {
    /// Returns the reason's name, one word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Stale => "stale",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
