use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use super::once_per::OncePer;
use super::pattern::Pattern;
use crate::outcome::{RetryPolicy, RouteOptions};

/// A route of an [`EventRouter`](crate::EventRouter): its name, and the events that it matches.
#[derive(Clone, Debug)]
pub struct Route {
    pub(super) name: Arc<str>,
    pub(super) matcher: Matcher,
    /// Absent if the route has no options, so that its attempts cost nothing more.
    pub(super) options: Option<Arc<RouteOptions>>,
    pub(super) once_per: Option<Arc<OncePer>>,
    /// The line of the registration.
    pub(super) location: &'static Location<'static>,
}

/// The rule by which a route matches events.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Pattern(Pattern),
    /// Matches every event, but doesn't count as a match.
    Any,
    /// Matches the events that no pattern matches.
    Fallback,
}

impl Route {
    #[track_caller]
    pub(super) fn new(matcher: Matcher) -> Self {
        Self {
            name: Arc::from(matcher.to_string()),
            matcher,
            options: None,
            once_per: None,
            location: Location::caller(),
        }
    }

    /// Returns the name of the route: its pattern, unless it was
    /// [renamed](crate::EventRouter::named).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Returns the retry policy of the route. `default` is the policy of the inbox.
    pub(crate) fn policy<'a>(&'a self, default: &'a RetryPolicy) -> Cow<'a, RetryPolicy> {
        RouteOptions::policy(self.options.as_deref(), default)
    }

    /// Returns whether the route may have to wait before it runs.
    pub(crate) fn has_limits(&self) -> bool {
        let options = self.options.as_ref();
        self.once_per.is_some() || options.is_some_and(|options| options.concurrency.is_some())
    }

    /// Returns whether the route runs once per key.
    #[cfg(any(feature = "jetstream", feature = "postgres"))]
    pub(crate) fn is_once_per_key(&self) -> bool {
        self.once_per.is_some()
    }

    /// Returns how many handlers of the route may run at once, if the route has a limit.
    #[cfg(any(feature = "jetstream", feature = "postgres"))]
    pub(crate) fn concurrency(&self) -> Option<usize> {
        self.options.as_ref()?.concurrency
    }

    /// Returns the options of the route, to change them.
    pub(super) fn options_mut(&mut self) -> &mut RouteOptions {
        Arc::make_mut(self.options.get_or_insert_default())
    }

    /// Returns the pattern of the route, or `None` for a route of `on_any` or `fallback`.
    #[must_use]
    pub fn pattern(&self) -> Option<&Pattern> {
        match &self.matcher {
            Matcher::Pattern(pattern) => Some(pattern),
            Matcher::Any | Matcher::Fallback => None,
        }
    }

    /// Returns whether the route was added by [`fallback`](crate::EventRouter::fallback).
    pub(crate) fn is_fallback(&self) -> bool {
        matches!(self.matcher, Matcher::Fallback)
    }

    /// Returns the pattern if it matches no documented event type.
    pub(super) fn undocumented_pattern(&self) -> Option<&Pattern> {
        self.pattern().filter(|pattern| !pattern.is_documented())
    }
}

/// Writes the pattern, and the name if the route was renamed.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matcher = self.matcher.to_string();
        if *matcher == *self.name {
            f.pad(&matcher)
        } else {
            write!(f, "{matcher:<40} as {}", self.name)
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern(pattern) => fmt::Display::fmt(pattern, f),
            Self::Any => f.write_str("*"),
            Self::Fallback => f.write_str("fallback"),
        }
    }
}
