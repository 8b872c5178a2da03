use std::time::Duration;

use super::SkipReason;

/// The options of a route. A route without options has none of these.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteOptions {
    /// The maximum age of an event when an attempt starts.
    pub(crate) fresh_within: Option<Duration>,
}

impl RouteOptions {
    /// Returns why the route skips an event of this age, or `None` if the route runs.
    pub(crate) fn skips(&self, age: impl FnOnce() -> Duration) -> Option<SkipReason> {
        let within = self.fresh_within?;
        (age() > within).then_some(SkipReason::Stale)
    }
}
