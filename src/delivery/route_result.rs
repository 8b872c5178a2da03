use std::fmt;
use std::sync::Arc;

use crate::catch_panic::catch_panic;
use crate::outcome::Outcome;

/// How many bytes of what a handler said are kept.
const MAX_REASON: usize = 1024;

/// How a route of an event ended: it did its work, or it won't be tried again.
#[derive(Clone, PartialEq, Eq)]
pub struct RouteResult {
    pub(crate) route: Arc<str>,
    /// Absent if the route did its work.
    pub(crate) reason: Option<Arc<str>>,
}

impl RouteResult {
    /// Returns that of a route that did its work.
    pub(super) fn done(route: Arc<str>) -> Self {
        Self {
            route,
            reason: None,
        }
    }

    /// Returns that of a route that won't be tried again.
    pub(super) fn failed(route: Arc<str>, outcome: &Outcome) -> Self {
        // The text of a handler's error is made by the user's code.
        let reason = catch_panic(|| outcome.to_string());
        let mut reason = reason.unwrap_or_else(|_| outcome.as_str().to_owned());
        // What handlers say may quote a whole payload, and counts against no bound.
        let end = (0..=MAX_REASON)
            .rev()
            .find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or_default());
        Self {
            route,
            reason: Some(Arc::from(reason)),
        }
    }

    /// Returns the route's name.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Returns why the route was given up, or `None` if it did its work. The text may hold that of
    /// the handler's error, up to 1,024 bytes in all.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// Writes everything but what the handler said.
impl fmt::Debug for RouteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteResult")
            .field("route", &self.route)
            .field("failed", &self.reason.is_some())
            .finish_non_exhaustive()
    }
}
