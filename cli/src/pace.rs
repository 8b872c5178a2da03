use std::time::Duration;

use tokio::time::Instant;

/// The longest wait. A later instant can't be represented on every system.
const LONGEST: Duration = Duration::from_secs(365 * 86400);

/// Returns the instant that is this many seconds after `start`, and at most a year.
pub(crate) fn after(start: std::time::Instant, seconds: f64) -> Instant {
    let wait = Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST);
    Instant::from_std(start + wait.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_is_too_long_ends_after_a_year() {
        let start = std::time::Instant::now();
        let wait = |seconds| after(start, seconds) - Instant::from_std(start);
        assert_eq!(wait(1.5), Duration::from_millis(1500));
        for seconds in [1e15, 1e300, f64::INFINITY, f64::NAN] {
            assert_eq!(wait(seconds), LONGEST, "{seconds}");
        }
    }
}
