use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::runtime::to_millis;

/// A problem of an inbox, its receivers or its routes.
///
/// The message says what is wrong and what to do next. It may name a file, a stream, a server or a route, but never contains a
/// payload, a secret or the id of an event.
#[derive(Clone, Debug)]
pub struct HealthProblem {
    kind: HealthProblemKind,
    route: Option<Arc<str>>,
    cause: Option<Arc<str>>,
    since: SystemTime,
    advice: &'static str,
    needs_restart: bool,
    is_logged: bool,
}

/// The kinds of [`HealthProblem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HealthProblemKind {
    /// The inbox can't store events, for example because the disk is full or the server is unreachable. The receiver answers
    /// 503.
    InboxFailing,
    /// The inbox can't read some stored events, or its stream differs from its settings.
    InboxDamaged,
    /// The inbox is full. The receiver answers 503.
    Full,
    /// The inbox drains. The receiver answers 503.
    Draining,
    /// The receiver has rejected every request since the last accepted event, because the secret is wrong or missing.
    Unverified,
    /// The receiver has rejected every body since the last accepted event, because no body was an event.
    Malformed,
    /// The receiver has rejected every request since the last accepted event, for another reason.
    Rejected,
    /// The route makes no progress: every recent run timed out, or a JetStream worker can't pull or acknowledge the route's
    /// events.
    RouteStalled,
    /// Every recent run of the route failed.
    RouteFailing,
    /// An event has been in the inbox for too long.
    EventsDelayed,
    /// Many events became dead letters recently.
    DeadLettersGrowing,
    /// The inbox has accepted no event for longer than [`max_silence`](crate::HealthLimits::max_silence).
    Silent,
}

impl HealthProblemKind {
    /// Returns the kind's name in `snake_case`, for example `inbox_failing`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InboxFailing => "inbox_failing",
            Self::InboxDamaged => "inbox_damaged",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Unverified => "unverified",
            Self::Malformed => "malformed",
            Self::Rejected => "rejected",
            Self::RouteStalled => "route_stalled",
            Self::RouteFailing => "route_failing",
            Self::EventsDelayed => "events_delayed",
            Self::DeadLettersGrowing => "dead_letters_growing",
            Self::Silent => "silent",
        }
    }

    /// Returns what is wrong.
    fn what(self) -> &'static str {
        match self {
            Self::InboxFailing => "the inbox can't store events",
            Self::InboxDamaged => "the inbox's data is damaged",
            Self::Full => "the inbox is full",
            Self::Draining => "the inbox drains",
            Self::Unverified => {
                "the receiver rejects every request, because the secret is wrong or missing"
            }
            Self::Malformed => "the receiver rejects every body, because no body is an event",
            Self::Rejected => "the receiver rejects every request",
            Self::RouteStalled => "the route makes no progress",
            Self::RouteFailing => "every run of the route fails",
            Self::EventsDelayed => "an event has been in the inbox for too long",
            Self::DeadLettersGrowing => "many events became dead letters",
            Self::Silent => "the inbox has accepted no event for too long",
        }
    }

    /// Returns what to do next.
    fn advice(self) -> &'static str {
        match self {
            Self::InboxFailing => "fix the cause, and the inbox recovers without a restart",
            Self::InboxDamaged => "repair the store, or restore a backup",
            Self::Full => "find the slow or failing route, or raise the inbox's limits",
            Self::Draining => "if the process doesn't exit, restart it",
            Self::Unverified => "compare the secret at the sender with the secret of `verify`",
            Self::Malformed => {
                "read a body in an `on_rejection` hook, and compare it with the specification"
            }
            Self::Rejected => "check the webhook's URL and the proxies in front of the receiver",
            Self::RouteStalled => "check the handler and the services that it calls",
            Self::RouteFailing => "find the error in the log, fix it, and replay the dead letters",
            Self::EventsDelayed => {
                "find the slow route or the blocked ordering key, or raise `concurrency`"
            }
            Self::DeadLettersGrowing => "list the dead letters, fix their routes, and replay them",
            Self::Silent => {
                "check whether the sender has disabled the endpoint or uses another URL"
            }
        }
    }
}

/// Writes the kind's name in `snake_case`.
impl fmt::Display for HealthProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl HealthProblem {
    pub(super) fn new(kind: HealthProblemKind, since: SystemTime) -> Self {
        Self {
            kind,
            route: None,
            cause: None,
            since,
            advice: kind.advice(),
            needs_restart: false,
            is_logged: false,
        }
    }

    /// Returns the kind.
    #[must_use]
    pub fn kind(&self) -> HealthProblemKind {
        self.kind
    }

    /// Returns the name of the affected route, or `None` if the problem isn't about one route.
    #[must_use]
    pub fn route(&self) -> Option<&str> {
        self.route.as_deref()
    }

    /// Returns when the problem began, by this machine's current clock.
    ///
    /// The time is computed backwards from the current time. So after a step of the system clock, the time moves with the clock.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Returns whether the inbox accepts no new events.
    pub(super) fn refuses_events(&self) -> bool {
        matches!(
            self.kind,
            HealthProblemKind::InboxFailing | HealthProblemKind::Full | HealthProblemKind::Draining
        )
    }

    /// Returns whether a restart solves the problem.
    pub(super) fn needs_restart(&self) -> bool {
        self.needs_restart
    }

    /// Returns whether another part of the inbox writes the problem to the log.
    pub(crate) fn is_logged(&self) -> bool {
        self.is_logged
    }

    /// Returns whether both are the same problem, apart from its start.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.route == other.route && self.cause == other.cause
    }

    /// Sets the affected route.
    pub(crate) fn route_named(&mut self, route: Arc<str>) -> &mut Self {
        self.route = Some(route);
        self
    }

    /// Sets the cause. The cause must stay the same while the problem lasts, because a new cause runs the hooks again.
    pub(crate) fn because(&mut self, cause: impl Into<Arc<str>>) -> &mut Self {
        self.cause = Some(cause.into());
        self
    }

    /// Replaces the text that says what to do next.
    pub(crate) fn advise(&mut self, advice: &'static str) -> &mut Self {
        self.advice = advice;
        self
    }

    /// Marks a problem that a restart solves.
    pub(crate) fn solved_by_restart(&mut self) -> &mut Self {
        self.needs_restart = true;
        self.advise("restart the process")
    }

    /// Marks a problem that another part of the inbox writes to the log every minute.
    pub(crate) fn logged(&mut self) -> &mut Self {
        self.is_logged = true;
        self
    }
}

/// Writes what is wrong, the cause, and what to do next.
impl fmt::Display for HealthProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(route) = &self.route {
            write!(f, "route {}: ", route.escape_debug())?;
        }
        f.write_str(self.kind.what())?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        write!(f, "; {}", self.advice)
    }
}

/// Serializes the members `kind`, `route`, `since` (in milliseconds since the Unix epoch) and `message`.
impl Serialize for HealthProblem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut problem = serializer.serialize_struct("HealthProblem", 4)?;
        problem.serialize_field("kind", self.kind.as_str())?;
        problem.serialize_field("route", &self.route())?;
        problem.serialize_field("since", &to_millis(self.since))?;
        problem.serialize_field("message", &self.to_string())?;
        problem.end()
    }
}
