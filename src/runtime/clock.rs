use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Runtime;

/// The time of an inbox, in milliseconds since the Unix epoch: that of the day when it was opened, and
/// from then on as the runtime's clock goes, which is never set back.
pub(crate) struct Clock {
    runtime: Arc<dyn Runtime>,
    opened: Instant,
    system_time: u64,
}

impl Clock {
    pub(crate) fn new(runtime: Arc<dyn Runtime>) -> Self {
        Self {
            opened: runtime.now(),
            system_time: to_millis(runtime.system_time()),
            runtime,
        }
    }

    pub(crate) fn now(&self) -> u64 {
        let since = self.runtime.now().saturating_duration_since(self.opened);
        self.system_time.saturating_add(millis(since))
    }
}

/// Returns a duration in milliseconds; one that is too long is for ever.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a time in milliseconds since the epoch; one before it is the epoch.
pub(crate) fn to_millis(time: SystemTime) -> u64 {
    millis(
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
