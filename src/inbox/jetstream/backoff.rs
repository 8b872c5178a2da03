use std::time::Duration;

/// Delays that double with each try.
pub(super) struct Backoff {
    pub(super) first: Duration,
    pub(super) longest: Duration,
}

impl Backoff {
    /// The delays after a failed request to the server.
    pub(super) const FAILED: Self = Self {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(2),
    };

    /// Returns the delay after `tries` earlier tries.
    pub(super) fn wait(&self, tries: u32) -> Duration {
        let factor = 1_u32.checked_shl(tries).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.longest)
    }
}
