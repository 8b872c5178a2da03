use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use super::Runtime;
use crate::catch_panic::catch_panic;

/// The longest time for which an inbox may have been closed, as far as two readings of the system clock can be trusted.
const MAX_CLOSED: i64 = 24 * 60 * 60 * 1000;

/// The clock of an inbox, in milliseconds. Windows, retention and due times go by it.
///
/// It begins at the system time and advances as the runtime's monotonic clock does. So a change of the system time doesn't
/// move it: it counts the time that really passes.
pub(crate) struct Clock {
    runtime: Arc<dyn Runtime>,
    created: Instant,
    /// The reading of the clock when it was created.
    start: AtomicU64,
}

/// A reading of an inbox's clock, which a store keeps from one process to the next.
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

    /// Returns the time of day, which follows every change of the system time.
    pub(crate) fn system_time(&self) -> SystemTime {
        catch_panic(|| self.runtime.system_time()).unwrap_or_else(|_| SystemTime::now())
    }
}

impl Clock {
    /// Continues the clock of an earlier process, whose last reading was `last`.
    ///
    /// The system time tells how long no process ran, if that is less than a day. If the system time jumps further or goes
    /// back, nothing tells whether it was wrong then or is wrong now: no time has passed, so that nothing is deleted early.
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

    /// Reads the clock while a process runs. `last` is an earlier reading.
    pub(crate) fn read(&self, last: ClockReading) -> ClockReading {
        let now = self.now();
        let last = ClockReading { now, ..last };
        let ahead = self.ahead(last);
        // A clock that was set back a little may be set forward again. If it is, that time doesn't count a second time.
        let skew = if (-MAX_CLOSED..=0).contains(&ahead) {
            last.skew
        } else {
            last.skew.saturating_add(ahead)
        };
        ClockReading { now, skew }
    }

    /// Returns how far the system time is ahead of what `last` expects.
    fn ahead(&self, last: ClockReading) -> i64 {
        let signed = |millis| i64::try_from(millis).unwrap_or(i64::MAX);
        let system_time = signed(to_millis(self.system_time()));
        let expected = signed(last.now).saturating_add(last.skew);
        system_time.saturating_sub(expected)
    }
}

/// Returns a duration in milliseconds. A duration that is too long is the longest one.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a time in milliseconds since the Unix epoch. A time before it is the epoch.
pub(crate) fn to_millis(time: SystemTime) -> u64 {
    millis(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
