use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;

use super::ErasedService;
use crate::catch_panic::{CatchPanic, PanicMessage, catch_panic};
use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::{AttemptEnd, AttemptState, HandlerError, Outcome, Report};
use crate::runtime::Runtime;

/// Makes one attempt at an event: readies a clone of the service, calls it, and returns what
/// `attempt_state` says at the end.
///
/// It never panics, whatever the service does. When `timeout` is over, the routes that still run
/// are dropped and those that have finished keep their outcome.
pub(crate) async fn run_attempt(
    service: &ErasedService,
    event: Event,
    attempt_state: &Arc<AttemptState>,
    runtime: &dyn Runtime,
    timeout: Duration,
) -> Report {
    let event = event.with_attempt_state(Arc::clone(attempt_state));
    let mut call = pin!(CatchPanic::new(async { service.call(event).await }));
    let mut sleep = None;
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = call.as_mut().poll(cx) {
            return Poll::Ready(ended(end));
        }
        // Made after the first `Pending` only: most handlers that don't wait need no timer.
        let waited = catch_panic(|| {
            sleep
                .get_or_insert_with(|| runtime.sleep(timeout))
                .poll_unpin(cx)
        });
        match waited {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => attempt_state.expire(),
            // A runtime without a timer: what can't be bounded isn't run.
            Err(panic) => return Poll::Ready(AttemptEnd::Lost(Outcome::Panicked(panic))),
        }
        // The router has been told, and returns with what had finished; whatever else is there is
        // dropped.
        Poll::Ready(match call.as_mut().poll(cx) {
            Poll::Ready(end) => ended(end),
            Poll::Pending => AttemptEnd::Lost(
                call.as_mut()
                    .cancel()
                    .map_or_else(Outcome::Panicked, |()| Outcome::TimedOut),
            ),
        })
    });
    let end = end.await;
    attempt_state.close(&end)
}

fn ended(end: Result<Result<Report, BoxError>, PanicMessage>) -> AttemptEnd {
    match end {
        // The attempt_state knows what the routes did; the report may have been made by anyone.
        Ok(Ok(_)) => AttemptEnd::Returned,
        Ok(Err(error)) => AttemptEnd::Lost(Outcome::Failed(HandlerError::new(error))),
        Err(panic) => AttemptEnd::Lost(Outcome::Panicked(panic)),
    }
}
