use std::borrow::Cow;
use std::time::Duration;

use super::{RetryPolicy, SkipReason};

/// The options of a route. A route without options has none of these.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteOptions {
    /// The maximum age of an event when an attempt starts.
    pub(crate) fresh_within: Option<Duration>,
    /// Replaces the attempt's timeout for this route.
    pub(crate) timeout: Option<Duration>,
    /// The maximum number of the route's handlers that run at once.
    pub(crate) concurrency: Option<usize>,
    /// Overrides the number of attempts of the policy.
    pub(crate) max_attempts: Option<u32>,
    /// Replaces the policy of the inbox.
    pub(crate) retry: Option<RetryPolicy>,
}

impl RouteOptions {
    /// Returns the retry policy of a route with these options. `default` is the policy of the inbox.
    pub(crate) fn policy<'a>(
        options: Option<&'a Self>,
        default: &'a RetryPolicy,
    ) -> Cow<'a, RetryPolicy> {
        let Some(options) = options else {
            return Cow::Borrowed(default);
        };
        let policy = options.retry.as_ref().unwrap_or(default);
        match options.max_attempts {
            None => Cow::Borrowed(policy),
            Some(attempts) => Cow::Owned(policy.clone().max_attempts(attempts)),
        }
    }

    /// Returns why the route skips an event of this age, or `None` if the route runs.
    pub(crate) fn skips(&self, age: impl FnOnce() -> Duration) -> Option<SkipReason> {
        let within = self.fresh_within?;
        (age() > within).then_some(SkipReason::Stale)
    }
}
