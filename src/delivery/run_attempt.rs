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

/// Makes one attempt at an event: calls the service and returns the final outcomes of `attempt_state`.
///
/// After `timeout`, the router drops the routes that are still running and have no timeout of their own. Finished routes keep their
/// outcome. The function never panics, even if the service does.
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
    let (mut limit, mut expired) = (timeout, false);
    let end = poll_fn(|cx| {
        loop {
            if let Poll::Ready(end) = call.as_mut().poll(cx) {
                return Poll::Ready(ended(end));
            }
            if expired {
                // After `expire`, an `EventRouter` returns its report once the routes with their own timeout have ended. A
                // service that is still pending is dropped.
                match attempt_state.longest_own_timeout() {
                    None => return Poll::Ready(dropped(call.as_mut().cancel())),
                    Some(longest) => limit = longest,
                }
            }
            // The timer is created after the first `Pending`, because an attempt that doesn't wait needs no timer.
            let timer = catch_panic(|| {
                sleep
                    .get_or_insert_with(|| runtime.sleep(limit))
                    .poll_unpin(cx)
            });
            match timer {
                Ok(Poll::Pending) => return Poll::Pending,
                Ok(Poll::Ready(())) if expired => {
                    return Poll::Ready(dropped(call.as_mut().cancel()));
                }
                Ok(Poll::Ready(())) => {
                    attempt_state.expire();
                    expired = true;
                    sleep = None;
                }
                // If the runtime has no timer, the sleep panics and the attempt ends, because an attempt never runs without
                // a timeout.
                Err(panic) => return Poll::Ready(AttemptEnd::Lost(Outcome::Panicked(panic))),
            }
        }
    });
    let end = end.await;
    attempt_state.close(&end)
}

/// Returns the end of an attempt whose service was dropped after the timeout.
fn dropped(cancelled: Result<(), PanicMessage>) -> AttemptEnd {
    AttemptEnd::Lost(cancelled.map_or_else(Outcome::Panicked, |()| Outcome::TimedOut))
}

fn ended(end: Result<Result<Report, BoxError>, PanicMessage>) -> AttemptEnd {
    match end {
        // The attempt's state has the outcomes. A layer may have replaced the report.
        Ok(Ok(_)) => AttemptEnd::Returned,
        Ok(Err(error)) => AttemptEnd::Lost(Outcome::Failed(HandlerError::from(error))),
        Err(panic) => AttemptEnd::Lost(Outcome::Panicked(panic)),
    }
}
