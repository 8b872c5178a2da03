use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

/// When the routes of an event that failed are tried again.
///
/// Only those that failed run again. The waits grow exponentially, with full jitter: before attempt
/// n + 1 it is a random time of up to `initial_delay` times 2 to the power of n - 1, never more than
/// `max_delay`. So events that failed together, because a database was away say, don't come back
/// together.
///
/// A handler can ask for more with [`HandlerError::retry_after`](crate::HandlerError::retry_after),
/// up to the max_delay, or for no further attempt with
/// [`HandlerError::permanent`](crate::HandlerError::permanent). A payload that doesn't fit
/// isn't tried again.
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
    /// Returns the default: 5 attempts, a initial_delay of 1 s, a max_delay of 5 minutes. An event is given up
    /// after at most 15 s of waits, within the 25 s or so that a process mostly has to end.
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

    /// Sets how many attempts there are in all. 0 counts as 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = NonZeroU32::new(attempts).unwrap_or(NonZeroU32::MIN);
        self
    }

    /// Sets the longest wait after the first attempt; it doubles with each one.
    pub fn initial_delay(mut self, initial_delay: Duration) -> Self {
        self.initial_delay = initial_delay;
        self
    }

    /// Sets the longest wait of all.
    pub fn max_delay(mut self, max_delay: Duration) -> Self {
        self.max_delay = max_delay;
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
        let most = self
            .initial_delay
            .saturating_mul(factor)
            .min(self.max_delay);
        let mut hasher = DefaultHasher::new();
        (self.seed, id, attempt).hash(&mut hasher);
        // In f64 the error is far below what a timer can tell apart.
        let jittered = most.mul_f64(fastrand::Rng::with_seed(hasher.finish()).f64());
        asked
            .map_or(jittered, |asked| asked.max(jittered))
            .min(self.max_delay)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}
