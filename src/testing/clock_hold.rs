use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

/// The maximum real time for which a paused clock is held. A commit takes milliseconds. If a request never gets an answer, the
/// test must still reach its deadline.
const MAX_HOLD: Duration = Duration::from_secs(2);

/// Keeps tokio's paused clock from advancing until the hold is dropped.
///
/// If no task can run, a paused clock advances to the next timer. A commit runs on a thread outside the runtime, so the response
/// timeout would fire before the commit ends.
pub(super) struct ClockHold {
    /// The blocking task ends when this sender is dropped.
    _release: Sender<()>,
}

impl ClockHold {
    /// Returns `None` outside tokio, and on a runtime whose clock can't be paused.
    pub(super) fn new() -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        let (release, released) = channel();
        // A paused clock doesn't advance while a blocking task runs.
        drop(runtime.spawn_blocking(move || released.recv_timeout(MAX_HOLD)));
        Some(Self { _release: release })
    }
}
