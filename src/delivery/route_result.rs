use std::fmt;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::catch_panic::catch_panic;
use crate::outcome::{Outcome, Report, RouteReport, SkipReason};

/// The maximum length of a reason, in bytes.
const MAX_REASON: usize = 1024;

/// The result of a route in one attempt at an event, or over all attempts: the route handled the event, skipped it or failed.
#[derive(Clone, PartialEq, Eq)]
pub struct RouteResult {
    pub(crate) route: Arc<str>,
    /// Absent if the route handled the event. Starts with the outcome's name.
    pub(crate) reason: Option<Arc<str>>,
}

impl RouteResult {
    /// Returns the result of a route that handled the event.
    pub(super) fn done(route: Arc<str>) -> Self {
        Self {
            route,
            reason: None,
        }
    }

    /// Returns the result of a route whose consumer acknowledged the event.
    #[cfg(feature = "jetstream")]
    pub(crate) fn handled_by(route: &Arc<str>) -> Self {
        Self::done(Arc::clone(route))
    }

    /// Returns the result of a route that failed or skipped the event.
    pub(super) fn failed(route: Arc<str>, outcome: &Outcome) -> Self {
        Self::with_reason(route, text(outcome))
    }

    /// Returns the result of a route that failed with `last` and skips the event from then on.
    pub(super) fn skipped_after(route: Arc<str>, reason: &SkipReason, last: &Outcome) -> Self {
        let skipped = Outcome::Skipped(reason.clone());
        Self::with_reason(route, format!("{skipped} after {}", text(last)))
    }

    fn with_reason(route: Arc<str>, mut reason: String) -> Self {
        // An error message may quote a whole payload, and the inbox's limits don't count the message.
        let end = (0..=MAX_REASON)
            .rev()
            .find(|end| reason.is_char_boundary(*end));
        reason.truncate(end.unwrap_or_default());
        Self {
            route,
            reason: Some(Arc::from(reason)),
        }
    }

    /// Returns the result of a route in one attempt.
    pub(super) fn of(route: &RouteReport) -> Self {
        match route.outcome() {
            Outcome::Handled => Self::done(route.name()),
            outcome => Self::failed(route.name(), outcome),
        }
    }

    /// Returns the results of a report in which every route handled or skipped the event.
    pub(crate) fn handled(report: &Report) -> Vec<Self> {
        let routes = report.routes().iter();
        routes.map(Self::of).collect()
    }

    /// Returns this result. If `earlier` contains the same result, both share the reason's text.
    pub(super) fn sharing(&self, earlier: &[Self]) -> Self {
        let same = earlier.iter().find(|result| *result == self);
        same.unwrap_or(self).clone()
    }

    /// Returns this result with only the outcome's name as its reason.
    pub(super) fn brief(&self) -> Self {
        let reason = self.reason.as_ref().map(|_| Arc::from(self.outcome()));
        Self {
            route: Arc::clone(&self.route),
            reason,
        }
    }

    /// Returns the number of bytes in the reason.
    pub(super) fn text(&self) -> usize {
        self.reason.as_ref().map_or(0, |reason| reason.len())
    }

    /// Returns the outcome's name, as [`Outcome::as_str`](crate::Outcome::as_str) does: for example `handled` or `timed out`.
    #[must_use]
    pub fn outcome(&self) -> &str {
        match self.reason() {
            None => Outcome::Handled.as_str(),
            Some(reason) => reason.split_once(": ").map_or(reason, |(name, _)| name),
        }
    }

    /// Returns whether the route failed: it neither handled the event nor skipped it.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        self.reason.is_some() && !self.is_skipped()
    }

    /// Returns whether the route [skipped](crate::Outcome::Skipped) the event.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        self.outcome() == Outcome::Skipped(SkipReason::Stale).as_str()
    }

    /// Returns the route's name.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// Returns why the route failed or skipped the event, or `None` if the route handled the event. The reason may contain
    /// the handler's error message and has at most 1,024 bytes.
    ///
    /// If a route failed and then skipped its retry, the reason also contains the last failure: `skipped: stale after
    /// failed: connection refused`.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

/// Returns the text of an outcome. User code formats a handler's error, and may panic.
fn text(outcome: &Outcome) -> String {
    let text = catch_panic(|| outcome.to_string());
    text.unwrap_or_else(|_| outcome.as_str().to_owned())
}

/// Writes everything except the reason, which may contain the handler's error message.
impl fmt::Debug for RouteResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteResult")
            .field("route", &self.route)
            .field("outcome", &self.outcome())
            .finish_non_exhaustive()
    }
}

/// Serializes the members `route` and `reason`.
impl Serialize for RouteResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut result = serializer.serialize_struct("RouteResult", 2)?;
        result.serialize_field("route", &*self.route)?;
        result.serialize_field("reason", &self.reason())?;
        result.end()
    }
}
