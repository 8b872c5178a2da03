use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::RouteResult;
use crate::outcome::Report;
use crate::runtime::to_millis;

/// A finished attempt in an [`EventRecord`](crate::EventRecord): its times, and the result of each route that ran.
#[derive(Clone)]
pub struct AttemptRecord {
    number: u32,
    started_at: SystemTime,
    duration: Duration,
    routes: Arc<[RouteResult]>,
}

/// The maximum number of attempts that a record keeps.
const MAX_ATTEMPTS: usize = 25;

impl AttemptRecord {
    /// Returns the record of an attempt that just ended.
    ///
    /// Formats handlers' errors, so the caller holds no lock.
    pub(crate) fn new(
        number: u32,
        ended_at: SystemTime,
        duration: Duration,
        report: &Report,
    ) -> Self {
        let started_at = ended_at.checked_sub(duration).unwrap_or(ended_at);
        Self {
            number,
            started_at,
            duration,
            routes: report.routes().iter().map(RouteResult::of).collect(),
        }
    }

    /// Returns a stored record.
    pub(crate) fn stored(
        number: u32,
        started_at: SystemTime,
        duration: Duration,
        routes: Vec<RouteResult>,
    ) -> Self {
        Self {
            number,
            started_at,
            duration,
            routes: routes.into(),
        }
    }

    /// Returns the record. If its reasons have more than `space` bytes, only the names of the outcomes remain.
    pub(crate) fn within(self, space: usize) -> Self {
        if self.text_beside(&[]) <= space {
            return self;
        }
        Self {
            routes: self.routes.iter().map(RouteResult::brief).collect(),
            ..self
        }
    }

    /// Returns the number of the attempt, from 1. A replay counts from 1 again.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns when the attempt started, by this machine's clock.
    #[must_use]
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// Returns how long the attempt ran.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Returns the result of each route that ran in this attempt.
    #[must_use]
    pub fn routes(&self) -> &[RouteResult] {
        &self.routes
    }

    /// Returns the attempt. Results that `earlier` also contains share their text with `earlier`.
    pub(crate) fn sharing(self, earlier: &[RouteResult]) -> Self {
        let routes = self.routes.iter();
        Self {
            routes: routes.map(|result| result.sharing(earlier)).collect(),
            ..self
        }
    }

    /// Returns the attempt, with the routes of another attempt with the same number.
    #[cfg(feature = "jetstream")]
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let started_at = self.started_at.min(other.started_at);
        let ended_at = self.ended_at().max(other.ended_at());
        let ended_at = ended_at.unwrap_or(started_at);
        let own = self.routes.iter().filter(|result| {
            let mut others = other.routes.iter();
            others.all(|other| other.route != result.route)
        });
        Self {
            number: self.number,
            started_at,
            duration: ended_at.duration_since(started_at).unwrap_or_default(),
            routes: own.chain(&*other.routes).cloned().collect(),
        }
    }

    #[cfg(feature = "jetstream")]
    pub(crate) fn ended_at(&self) -> Option<SystemTime> {
        self.started_at.checked_add(self.duration)
    }

    /// Returns the attempt, with its routes in the order of `position`.
    #[cfg(feature = "jetstream")]
    pub(crate) fn sorted(self, position: impl Fn(&str) -> usize) -> Self {
        let mut routes = self.routes.to_vec();
        routes.sort_by_key(|result| position(&result.route));
        Self {
            routes: routes.into(),
            ..self
        }
    }

    /// Adds the attempt to the earlier attempts at the same event. Beyond 25 attempts, drops the oldest.
    ///
    /// If a route failed for the same reason as in the attempt before, both attempts share the text. If the remaining text has
    /// more than `space` bytes, the record keeps only the names of the outcomes.
    pub(crate) fn push_to(mut self, attempts: &mut Vec<Self>, space: usize) {
        let last = attempts.last().map_or(&[][..], Self::routes);
        self = self.sharing(last);
        if self.text_beside(last) > space {
            self.routes = self.routes.iter().map(RouteResult::brief).collect();
        }
        if attempts.len() >= MAX_ATTEMPTS {
            attempts.remove(0);
        }
        attempts.push(self);
    }

    /// Returns the latest result of each route.
    pub(crate) fn latest(attempts: &[Self]) -> Vec<RouteResult> {
        let mut latest: Vec<RouteResult> = Vec::new();
        for result in attempts.iter().flat_map(Self::routes) {
            match latest.iter_mut().find(|each| each.route == result.route) {
                Some(earlier) => *earlier = result.clone(),
                None => latest.push(result.clone()),
            }
        }
        latest
    }

    /// Returns the number of bytes in the reasons that `known` doesn't contain.
    fn text_beside(&self, known: &[RouteResult]) -> usize {
        let own = self.routes.iter().filter(|result| !known.contains(result));
        own.map(RouteResult::text).sum()
    }

    /// Returns the number of bytes in all reasons of these attempts, without the reasons in `results`. Equal reasons of consecutive
    /// attempts count once.
    pub(crate) fn text(attempts: &[Self], results: &[RouteResult]) -> usize {
        let mut last = results;
        let mut text = 0;
        for attempt in attempts {
            let own = attempt.routes.iter();
            let own = own.filter(|result| !last.contains(result) && !results.contains(result));
            text += own.map(RouteResult::text).sum::<usize>();
            last = attempt.routes();
        }
        text
    }
}

/// Writes everything except the reasons, which may contain handlers' error messages.
impl fmt::Debug for AttemptRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptRecord")
            .field("number", &self.number)
            .field("started_at", &self.started_at)
            .field("duration", &self.duration)
            .field("routes", &self.routes)
            .finish()
    }
}

/// Serializes the members `number`, `started_at` in milliseconds since the Unix epoch, `duration` in seconds, and `routes`.
impl Serialize for AttemptRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut attempt = serializer.serialize_struct("AttemptRecord", 4)?;
        attempt.serialize_field("number", &self.number)?;
        attempt.serialize_field("started_at", &to_millis(self.started_at))?;
        attempt.serialize_field("duration", &self.duration.as_secs_f64())?;
        attempt.serialize_field("routes", self.routes())?;
        attempt.end()
    }
}
