use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

/// When the routes of an event that failed are tried again.
///
/// Only those that failed run again. The waits grow exponentially, with full jitter: before attempt
/// n + 1 it is a random time of up to `base` times 2 to the power of n - 1, never more than
/// `ceiling`. So events that failed together, because a database was away say, don't come back
/// together.
///
/// A handler can ask for more with [`HandlerError::retry_after`](crate::HandlerError::retry_after),
/// up to the ceiling, or for no further attempt with
/// [`HandlerError::permanent`](crate::HandlerError::permanent). A payload that doesn't fit
/// isn't tried again.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{EventRouter, MemoryInbox, RetryPolicy};
///
/// let retry = RetryPolicy::new().max_attempts(8).ceiling(Duration::from_secs(60));
/// let inbox = MemoryInbox::builder().retry(retry).build(EventRouter::new());
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RetryPolicy {
    max_attempts: NonZeroU32,
    base: Duration,
    ceiling: Duration,
    seed: u64,
}

impl RetryPolicy {
    /// Returns the default: 5 attempts, a base of 1 s, a ceiling of 5 minutes. An event is given up
    /// after at most 15 s of waits, within the 25 s or so that a process mostly has to end.
    pub fn new() -> Self {
        Self {
            max_attempts: NonZeroU32::MIN.saturating_add(4),
            base: Duration::from_secs(1),
            ceiling: Duration::from_secs(300),
            seed: fastrand::u64(..),
        }
    }

    /// Returns the policy of a single attempt.
    pub fn never() -> Self {
        Self::new().max_attempts(1)
    }

    /// Sets how many attempts there are in all. 0 counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = NonZeroU32::new(attempts).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// Sets the longest wait after the first attempt; it doubles with each one.
    pub fn base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// Sets the longest wait of all.
    pub fn ceiling(mut self, ceiling: Duration) -> Self {
        self.ceiling = ceiling;
        self
    }

    /// Sets what the random waits come from: with the same seed, an event has the same waits, as
    /// long as the program is built with the same version of Rust. The default is random.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns how many attempts there are in all.
    #[cfg(feature = "jetstream")]
    pub(crate) fn attempts(&self) -> u32 {
        self.max_attempts.get()
    }

    /// Returns whether `attempt` was the last one.
    pub(super) fn is_last(&self, attempt: NonZeroU32) -> bool {
        attempt >= self.max_attempts
    }

    /// Returns the wait after `attempt` at the event of this id; `asked` is what its handlers want
    /// at least.
    pub(super) fn wait(&self, attempt: NonZeroU32, id: &str, asked: Option<Duration>) -> Duration {
        let factor = 1_u32.checked_shl(attempt.get() - 1).unwrap_or(u32::MAX);
        let most = self.base.saturating_mul(factor).min(self.ceiling);
        let mut hasher = DefaultHasher::new();
        (self.seed, id, attempt).hash(&mut hasher);
        // In f64 the error is far below what a timer can tell apart.
        let jittered = most.mul_f64(fastrand::Rng::with_seed(hasher.finish()).f64());
        asked
            .map_or(jittered, |asked| asked.max(jittered))
            .min(self.ceiling)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}
