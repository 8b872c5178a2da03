use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

/// Decides when the failed routes of an event are retried.
///
/// Only failed routes run again. The delays grow exponentially, with full jitter: the delay before attempt n + 1 is a random
/// time of at most `initial_delay` times 2 to the power of n - 1, and never more than `max_delay`. So events that failed
/// together, for example while a database was down, don't return together.
///
/// A handler can request a longer delay, up to `max_delay`, with
/// [`HandlerError::retry_after`](crate::HandlerError::retry_after), or no retry with
/// [`HandlerError::permanent`](crate::HandlerError::permanent). A route whose payload type doesn't fit isn't retried.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{EventRouter, MemoryInbox, RetryPolicy};
///
/// let retry = RetryPolicy::new().max_attempts(8).max_delay(Duration::from_secs(60));
/// let inbox = MemoryInbox::builder().retry(retry).build(EventRouter::new());
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RetryPolicy {
    max_attempts: NonZeroU32,
    initial_delay: Duration,
    max_delay: Duration,
    seed: u64,
}

impl RetryPolicy {
    /// Returns the default policy: 5 attempts, an initial delay of 1 s, a maximum delay of 5 minutes.
    ///
    /// The delays last at most 15 s in all. A process often gets some 25 s to end, so retries end within a drain.
    pub fn new() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN.saturating_add(4),
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            seed: fastrand::u64(..),
        }
    }

    /// Returns the policy of a single attempt.
    pub fn no_retry() -> Self {
        Self::new().max_attempts(1)
    }

    /// Sets the number of attempts in all. 0 counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = NonZeroU32::new(attempts).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// Sets the longest delay after the first attempt. It doubles with each attempt.
    pub fn initial_delay(mut self, initial_delay: Duration) -> Self {
        self.initial_delay = initial_delay;
        self
    }

    /// Sets the longest delay after any attempt.
    pub fn max_delay(mut self, max_delay: Duration) -> Self {
        self.max_delay = max_delay;
        self
    }

    /// Sets the seed of the random delays. The default is random.
    ///
    /// With the same seed an event has the same delays, as long as the program is built with the same version of Rust.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns the number of attempts in all.
    pub(crate) fn attempts(&self) -> u32 {
        self.max_attempts.get()
    }

    /// Returns the longest delay before an attempt.
    pub(crate) fn longest_delay(&self) -> Duration {
        self.max_delay
    }

    /// Returns whether `attempt` is the last one.
    pub(super) fn is_last(&self, attempt: NonZeroU32) -> bool {
        attempt >= self.max_attempts
    }

    /// Returns the delay after `attempt` at the event of this id. `requested` is the longest delay that its handlers asked
    /// for.
    pub(super) fn delay(
        &self,
        attempt: NonZeroU32,
        id: &str,
        requested: Option<Duration>,
    ) -> Duration {
        let factor = 1_u32.checked_shl(attempt.get() - 1).unwrap_or(u32::MAX);
        let longest = self.initial_delay.saturating_mul(factor);
        let longest = longest.min(self.max_delay);
        let mut hasher = DefaultHasher::new();
        (self.seed, id, attempt).hash(&mut hasher);
        // The error of an f64 is far below the resolution of a timer.
        let jittered = longest.mul_f64(fastrand::Rng::with_seed(hasher.finish()).f64());
        requested
            .map_or(jittered, |requested| requested.max(jittered))
            .min(self.max_delay)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}
