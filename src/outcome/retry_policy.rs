use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

/// Decides when the failed routes of an event are retried.
///
/// Only failed routes run again. The delays grow exponentially, with full jitter. The delay before attempt n + 1 is random,
/// at most `initial_delay` times 2 to the power of n - 1, and never above `max_delay`. So events that failed together, for
/// example while a database was down, aren't retried together.
///
/// A handler can request a longer delay, up to `max_delay`, with
/// [`HandlerError::retry_after`](crate::HandlerError::retry_after), or no retry with
/// [`HandlerError::permanent`](crate::HandlerError::permanent). A route whose payload type doesn't match the event isn't
/// retried.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{DeliverySettings, EventRouter, MemoryInbox, RetryPolicy};
///
/// let retry = RetryPolicy::new().max_attempts(8).max_delay(Duration::from_secs(60));
/// let delivery = DeliverySettings::new().retry(retry);
/// let inbox = MemoryInbox::builder().delivery(delivery).build(EventRouter::new());
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
    /// The delays add up to at most 15 s. A process often has about 25 s to shut down, so retries can finish during a drain.
    pub fn new() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN.saturating_add(4),
            initial_delay: Duration::from_secs(1),
            max_delay: Duration::from_secs(300),
            seed: fastrand::u64(..),
        }
    }

    /// Returns a policy of one attempt, without retries.
    pub fn no_retry() -> Self {
        Self::new().max_attempts(1)
    }

    /// Sets the total number of attempts. 0 counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = NonZeroU32::new(attempts).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// Sets the maximum delay after the first attempt. The maximum doubles with each attempt.
    pub fn initial_delay(mut self, initial_delay: Duration) -> Self {
        self.initial_delay = initial_delay;
        self
    }

    /// Sets the maximum delay after any attempt.
    pub fn max_delay(mut self, max_delay: Duration) -> Self {
        self.max_delay = max_delay;
        self
    }

    /// Sets the seed of the random delays. The default is random.
    ///
    /// With the same seed and the same version of Rust, an event always has the same delays.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns the total number of attempts.
    pub(crate) fn attempts(&self) -> u32 {
        self.max_attempts.get()
    }

    /// Returns the maximum delay before an attempt.
    pub(crate) fn longest_delay(&self) -> Duration {
        self.max_delay
    }

    /// Returns the longest time that all delays of an event take together.
    pub(crate) fn total_delay(&self) -> Duration {
        let mut total = Duration::ZERO;
        let mut longest = self.initial_delay.min(self.max_delay);
        let mut delays = self.attempts() - 1;
        while delays > 0 && longest < self.max_delay && !longest.is_zero() {
            total = total.saturating_add(longest);
            longest = longest.saturating_mul(2).min(self.max_delay);
            delays -= 1;
        }
        total.saturating_add(longest.saturating_mul(delays))
    }

    /// Returns whether `attempt` is the last one.
    pub(crate) fn is_last(&self, attempt: NonZeroU32) -> bool {
        attempt >= self.max_attempts
    }

    /// Returns the delay after `attempt` at the event with this id. `requested` is the longest delay that the event's
    /// handlers requested.
    pub(crate) fn delay(
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
        // The rounding error of an `f64` is far below the resolution of a timer.
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
