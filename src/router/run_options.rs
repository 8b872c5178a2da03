use std::sync::Arc;
use std::task::{Context, Poll};

use super::run_timeout::RunTimeout;
use crate::catch_panic::PanicMessage;
use crate::outcome::{AttemptState, RunPermit};

/// The effects of a route's options on one run of its handler.
pub(super) struct RunOptions {
    /// Absent if the attempt's timeout applies.
    timeout: Option<RunTimeout>,
    /// Present if the route has limits. Dropped after the handler's future.
    permit: Option<RunPermit>,
    attempt_state: Arc<AttemptState>,
}

impl RunOptions {
    pub(super) fn new(
        timeout: Option<RunTimeout>,
        permit: Option<RunPermit>,
        attempt_state: Arc<AttemptState>,
    ) -> Self {
        Self {
            timeout,
            permit,
            attempt_state,
        }
    }

    /// Returns whether the run has its own timeout.
    pub(super) fn has_timeout(&self) -> bool {
        self.timeout.is_some()
    }

    /// See [`RunTimeout::poll`].
    pub(super) fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PanicMessage>> {
        match &mut self.timeout {
            Some(timeout) => timeout.poll(cx),
            None => Poll::Pending,
        }
    }

    /// Records that the handler has handled the event.
    pub(super) fn succeed(&mut self) {
        if let Some(permit) = &mut self.permit {
            self.attempt_state.succeed(permit);
        }
    }
}
