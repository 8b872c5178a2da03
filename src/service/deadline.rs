use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::catch_panic::catch_panic;
use crate::runtime::{BoxFuture, Runtime};

/// The one clock of a request. It runs from `call` on, over the body and the inbox.
pub(super) struct Deadline {
    runtime: Arc<dyn Runtime>,
    /// `None` lies beyond what a clock can show.
    at: Option<Instant>,
    /// Made after the first `Pending` only: most requests are there as a whole and need no timer.
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

    /// Returns whether the time is over, for work that is never pending.
    pub(super) fn is_over(&self) -> bool {
        self.at.is_some_and(|at| self.runtime.now() >= at)
    }

    /// Returns what `future` does, or `None` if the time is over first; it is dropped then.
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
            // A runtime without a timer: what can't be bounded isn't waited for.
            over.unwrap_or(Poll::Ready(())).map(|()| None)
        })
        .await
    }
}
