use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

/// How long a paused clock is held at most, in real time: a commit takes milliseconds. A test whose request never gets an answer
/// must still reach its deadline.
const MAX_HOLD: Duration = Duration::from_secs(2);

/// Keeps a paused clock of tokio from advancing while it is alive.
///
/// If no task can run, a paused clock advances to the next timer. A commit runs on a thread outside the runtime, so the response
/// timeout would fire before it ends.
pub(super) struct ClockHold {
    /// The blocking task ends once this is dropped.
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
