use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::Runtime;
use crate::catch_panic::catch_panic;

/// The maximum downtime, in milliseconds, that the clock accepts from two readings of the system time.
const MAX_CLOSED: i64 = 24 * 60 * 60 * 1000;

/// The clock of an inbox, in milliseconds. Windows, retention and due times use this clock.
///
/// The clock starts at the system time and advances with the runtime's monotonic clock. So a change of the system time
/// doesn't move the clock.
pub(crate) struct Clock {
    runtime: Arc<dyn Runtime>,
    created: Instant,
    /// The time of the system's clock when this clock was created.
    start: AtomicU64,
}

/// A reading of an inbox's clock. A store keeps the reading for the next process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockReading {
    pub(crate) now: u64,
    /// How far the system time is ahead of `now`.
    pub(crate) skew: i64,
}

impl Clock {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        let clock = Self {
            created: runtime.now(),
            start: AtomicU64::new(0),
            runtime,
        };
        clock
            .start
            .store(to_millis(clock.system_time()), Ordering::Relaxed);
        clock
    }

    pub(crate) fn now(&self) -> u64 {
        let since = self.runtime.now().saturating_duration_since(self.created);
        let start = self.start.load(Ordering::Relaxed);
        start.saturating_add(millis(since))
    }

    /// Returns the system time, which jumps if the system clock is changed.
    pub(crate) fn system_time(&self) -> SystemTime {
        catch_panic(|| self.runtime.system_time()).unwrap_or_else(|_| SystemTime::now())
    }
}

impl Clock {
    /// Continues the clock of an earlier process from `last`, its last reading.
    ///
    /// If the system time advanced by at most a day, the clock advances by the same time. If the system time advanced
    /// further or went back, either reading may be wrong. The clock then doesn't advance, so that nothing is deleted early.
    pub(crate) fn resume(&self, last: ClockReading) -> ClockReading {
        let ahead = self.ahead(last);
        let closed = if (0..=MAX_CLOSED).contains(&ahead) {
            ahead.unsigned_abs()
        } else {
            0
        };
        let since = self.now() - self.start.load(Ordering::Relaxed);
        let start = last.now.saturating_add(closed).saturating_sub(since);
        self.start.store(start, Ordering::Relaxed);
        self.read(last)
    }

    /// Reads the clock while a process is running. `last` is an earlier reading.
    pub(crate) fn read(&self, last: ClockReading) -> ClockReading {
        let now = self.now();
        let last = ClockReading { now, ..last };
        let ahead = self.ahead(last);
        // If the system clock went back by at most a day, `skew` stays. When the clock later catches up, the
        // repeated interval doesn't count twice.
        let skew = if (-MAX_CLOSED..=0).contains(&ahead) {
            last.skew
        } else {
            last.skew.saturating_add(ahead)
        };
        ClockReading { now, skew }
    }

    /// Returns how far the system time is ahead of the time that `last` predicts.
    fn ahead(&self, last: ClockReading) -> i64 {
        let signed = |millis| i64::try_from(millis).unwrap_or(i64::MAX);
        let system_time = signed(to_millis(self.system_time()));
        let expected = signed(last.now).saturating_add(last.skew);
        system_time.saturating_sub(expected)
    }
}

/// Returns a duration in milliseconds, or `u64::MAX` if the duration is longer.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a time in milliseconds since the Unix epoch, or 0 if the time is earlier.
pub(crate) fn to_millis(time: SystemTime) -> u64 {
    millis(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
