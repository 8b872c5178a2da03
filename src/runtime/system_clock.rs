use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{BoxFuture, Runtime};
use crate::catch_panic::catch_panic;

/// The system time and the timers of a runtime. Without a runtime, the clock has the system time of the standard library, and
/// no timers.
#[derive(Clone, Default)]
pub(crate) struct SystemClock {
    runtime: Option<Arc<dyn Runtime>>,
}

impl SystemClock {
    pub(crate) fn of(runtime: &Arc<dyn Runtime>) -> Self {
        Self {
            runtime: Some(Arc::clone(runtime)),
        }
    }

    /// Returns the system time. If the runtime panics, returns the standard library's time.
    pub(crate) fn now(&self) -> SystemTime {
        let time = self.runtime.as_ref();
        let time = time.and_then(|runtime| catch_panic(|| runtime.system_time()).ok());
        time.unwrap_or_else(SystemTime::now)
    }
}

impl SystemClock {
    /// Returns a timer, or `None` without a runtime.
    ///
    /// # Panics
    ///
    /// Panics if the runtime panics.
    pub(crate) fn sleep(&self, duration: Duration) -> Option<BoxFuture<()>> {
        let runtime = self.runtime.as_ref()?;
        Some(runtime.sleep(duration))
    }
}

impl fmt::Debug for SystemClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemClock").finish_non_exhaustive()
    }
}
