use std::sync::Arc;
use std::time::SystemTime;

use crate::delivery::{AttemptRecord, EventRecord, EventState, RouteResult};
use crate::event::Event;
use crate::router::Pattern;

/// Selects events of an [`EventLog`](crate::EventLog). An event matches if all conditions hold.
///
/// # Examples
///
/// The failed runs of the route `announce` in the last hour:
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use botisimo_webhooks::EventFilter;
///
/// let hour_ago = SystemTime::now() - Duration::from_secs(60 * 60);
/// let filter = EventFilter::new().route("announce").outcome("failed").since(hour_ago);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct EventFilter {
    states: Vec<EventState>,
    event_type: Option<Pattern>,
    route: Option<Arc<str>>,
    outcome: Option<Arc<str>>,
    reason: Option<Arc<str>>,
    message_id: Option<Arc<str>>,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    before: Option<u64>,
}

impl EventFilter {
    /// Returns a filter that every event matches.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a filter that all dead letters match.
    pub fn dead() -> Self {
        Self::new().state(EventState::Dead)
    }

    /// Selects events in this state. Further calls add states.
    pub fn state(mut self, state: EventState) -> Self {
        self.states.push(state);
        self
    }

    /// Selects events whose type matches the pattern. An event that this version of the crate can't decode never matches.
    pub fn event_type(mut self, pattern: impl Into<Pattern>) -> Self {
        self.event_type = Some(pattern.into());
        self
    }

    /// Selects events with a result of this route, in any attempt.
    pub fn route(mut self, route: impl Into<Arc<str>>) -> Self {
        self.route = Some(route.into());
        self
    }

    /// Selects events in which a route had this outcome in any attempt. [`Outcome::as_str`](crate::Outcome::as_str) returns the
    /// names of outcomes, for example `failed` or `timed out`. With [`route`](Self::route), the outcome of that route counts.
    pub fn outcome(mut self, outcome: impl Into<Arc<str>>) -> Self {
        self.outcome = Some(outcome.into());
        self
    }

    /// Selects events in which a route failed with a [reason](crate::RouteResult::reason) that contains this text, in any attempt.
    /// Also selects events whose [cause](EventRecord::cause) contains the text. With [`route`](Self::route), only the reasons of
    /// that route count.
    pub fn reason(mut self, text: impl Into<Arc<str>>) -> Self {
        self.reason = Some(text.into());
        self
    }

    /// Selects events with this `messageId`.
    pub fn message_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.message_id = Some(id.into());
        self
    }

    /// Selects events that were [received](EventRecord::received_at) at this time or later.
    pub fn since(mut self, time: SystemTime) -> Self {
        self.since = Some(time);
        self
    }

    /// Selects events that were [received](EventRecord::received_at) before this time.
    pub fn until(mut self, time: SystemTime) -> Self {
        self.until = Some(time);
        self
    }

    /// Selects events whose [`id`](EventRecord::id) is lower. For the next page, pass the last id of this page.
    pub fn before(mut self, id: u64) -> Self {
        self.before = Some(id);
        self
    }

    /// Returns the id below which a list begins.
    pub(crate) fn first_before(&self) -> u64 {
        self.before.unwrap_or(u64::MAX)
    }

    /// Returns whether an event in this state may match.
    pub(crate) fn may_match(&self, state: EventState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    /// Returns whether the filter has a condition other than the states and [`before`](EventFilter::before).
    pub(crate) fn is_narrow(&self) -> bool {
        let has_event = self.event_type.is_some() || self.message_id.is_some();
        self.has_routes() || has_event || self.since.is_some() || self.until.is_some()
    }

    /// Returns whether the filter compares routes, outcomes or reasons.
    pub(crate) fn has_routes(&self) -> bool {
        self.route.is_some() || self.outcome.is_some() || self.reason.is_some()
    }

    /// Returns whether all conditions hold, except the conditions on routes, outcomes and reasons.
    pub(crate) fn matches_head(&self, id: u64, state: EventState, event: &Event) -> bool {
        self.matches_parts(id, state, Some(event), event.id(), event.received_at())
    }

    fn matches_parts(
        &self,
        id: u64,
        state: EventState,
        event: Option<&Event>,
        message_id: &str,
        received_at: SystemTime,
    ) -> bool {
        let matches_type = |pattern: &Pattern| {
            event.is_some_and(|event| pattern.matches(event.event_type().as_str()))
        };
        self.before.is_none_or(|before| id < before)
            && self.may_match(state)
            && self.message_id.as_deref().is_none_or(|id| id == message_id)
            && self.since.is_none_or(|since| received_at >= since)
            && self.until.is_none_or(|until| received_at < until)
            && self.event_type.as_ref().is_none_or(matches_type)
    }

    /// Returns whether all conditions hold.
    pub(crate) fn matches(&self, record: &EventRecord) -> bool {
        let (id, state) = (record.id(), record.state());
        let (event, message_id) = (record.event().ok(), record.message_id());
        self.matches_parts(id, state, event, message_id, record.received_at())
            && self.matches_routes(record)
    }

    /// Returns whether the conditions on routes, outcomes and reasons hold.
    pub(crate) fn matches_routes(&self, record: &EventRecord) -> bool {
        let attempts = record.history().iter().flat_map(AttemptRecord::routes);
        !self.has_routes()
            || attempts
                .chain(record.routes())
                .any(|result| self.matches_result(result))
            || self.matches_cause(record)
    }

    fn matches_result(&self, result: &RouteResult) -> bool {
        let contains = |text: &str| result.reason().is_some_and(|reason| reason.contains(text));
        self.route
            .as_deref()
            .is_none_or(|route| route == result.route())
            && self
                .outcome
                .as_deref()
                .is_none_or(|outcome| outcome == result.outcome())
            && self.reason.as_deref().is_none_or(contains)
    }

    /// Returns whether the filter compares only reasons, and the cause contains the text.
    fn matches_cause(&self, record: &EventRecord) -> bool {
        let contains = |text: &str| record.cause().is_some_and(|cause| cause.contains(text));
        self.route.is_none()
            && self.outcome.is_none()
            && self.reason.as_deref().is_some_and(contains)
    }
}
