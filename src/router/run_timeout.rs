use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;

use crate::catch_panic::{PanicMessage, catch_panic};
use crate::runtime::{BoxFuture, SystemClock};

/// The timeout of one run of a handler.
pub(super) struct RunTimeout {
    timeout: Duration,
    clock: SystemClock,
    /// Created when the handler first returns `Pending`, because a handler that doesn't wait needs no timer.
    sleep: Option<BoxFuture<()>>,
}

impl RunTimeout {
    pub(super) fn new(timeout: Duration, clock: SystemClock) -> Self {
        Self {
            timeout,
            clock,
            sleep: None,
        }
    }

    /// Returns `Ready` when the run has reached its timeout. Without a runtime, the run has no timeout.
    ///
    /// # Errors
    ///
    /// Returns the panic of a runtime without timers. The run ends, because it never runs without its timeout.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PanicMessage>> {
        let poll = catch_panic(|| {
            if self.sleep.is_none() {
                self.sleep = self.clock.sleep(self.timeout);
            }
            match &mut self.sleep {
                Some(sleep) => sleep.poll_unpin(cx),
                None => Poll::Pending,
            }
        });
        match poll {
            Ok(poll) => poll.map(Ok),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    }
}

impl Drop for RunTimeout {
    fn drop(&mut self) {
        // The timer is the runtime's code and may panic.
        let _ = catch_panic(|| self.sleep = None);
    }
}
