use std::fmt;
use std::sync::Arc;

use super::pattern::Pattern;

/// A route of an [`EventRouter`](crate::EventRouter): its name, and what it takes.
#[derive(Clone, Debug)]
pub struct Route {
    pub(super) name: Arc<str>,
    pub(super) takes: Takes,
}

/// Which events a route takes.
#[derive(Clone, Debug)]
pub(super) enum Takes {
    /// Those of a pattern.
    Pattern(Pattern),
    /// Every event; it doesn't count as a match.
    Any,
    /// Those that no pattern takes.
    Rest,
}

impl Route {
    /// Returns the route's name: its pattern, unless it was named otherwise.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the route's name, to keep.
    #[cfg(feature = "jetstream")]
    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Returns the route's pattern, or `None` for a route of `on_any` or `fallback`.
    #[must_use]
    pub fn pattern(&self) -> Option<&Pattern> {
        match &self.takes {
            Takes::Pattern(pattern) => Some(pattern),
            Takes::Any | Takes::Rest => None,
        }
    }

    /// Returns whether the route is one of `on_any`, which takes every event and doesn't count as a
    /// match.
    #[must_use]
    pub fn is_observer(&self) -> bool {
        matches!(self.takes, Takes::Any)
    }

    /// Returns whether the route is that of `fallback`.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        matches!(self.takes, Takes::Rest)
    }

    /// Returns whether the route takes no event type that is documented.
    pub(super) fn is_suspect(&self) -> bool {
        self.pattern()
            .is_some_and(|pattern| !pattern.is_documented())
    }
}

/// Writes what the route takes, and its name if that is another.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let takes = self.takes.to_string();
        if *takes == *self.name {
            f.pad(&takes)
        } else {
            write!(f, "{takes:<40} as {}", self.name)
        }
    }
}

impl fmt::Display for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => fmt::Display::fmt(pattern, f),
            Self::Any => f.write_str("*"),
            Self::Rest => f.write_str("fallback"),
        }
    }
}
