use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::catch_panic::catch_panic;
use crate::runtime::{BoxFuture, Runtime};

/// A request's deadline, which starts in `call` and covers the body and the inbox.
pub(super) struct Deadline {
    runtime: Arc<dyn Runtime>,
    /// `None` if the deadline is later than the largest `Instant`.
    at: Option<Instant>,
    /// Created only after the first `Pending`, because most requests need no timer.
    sleep: Option<BoxFuture<()>>,
}

impl Deadline {
    pub(super) fn after(runtime: Arc<dyn Runtime>, within: Duration) -> Self {
        let at = runtime.now().checked_add(within);
        Self {
            runtime,
            at,
            sleep: None,
        }
    }

    /// Returns whether the deadline has passed. Work that is never pending must call this method.
    pub(super) fn is_over(&self) -> bool {
        self.at.is_some_and(|at| self.runtime.now() >= at)
    }

    /// Returns the output of `future`. If the deadline passes first, drops the future and returns
    /// `None`.
    pub(super) async fn bound<F: Future>(&mut self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            let Some(at) = self.at else {
                return Poll::Pending;
            };
            let (runtime, sleep) = (&self.runtime, &mut self.sleep);
            let over = catch_panic(|| {
                let left = || at.saturating_duration_since(runtime.now());
                sleep
                    .get_or_insert_with(|| runtime.sleep(left()))
                    .poll_unpin(cx)
            });
            // If the runtime has no timer, the sleep panics and the deadline passes at once,
            // because the receiver never waits without a deadline.
            over.unwrap_or(Poll::Ready(())).map(|()| None)
        })
        .await
    }
}
