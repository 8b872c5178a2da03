use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tower_service::Service;

use crate::contain::{Contained, PanicMessage, contain};
use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::{End, HandlerError, Ledger, Outcome, Report};
use crate::runtime::Runtime;
use crate::sync::Mutex;

/// Makes one attempt at an event: readies a clone of the service, calls it, and returns what
/// `ledger` says at the end.
///
/// It never panics, whatever the service does. When `timeout` is over, the routes that still run
/// are dropped and those that have finished keep their outcome.
pub(crate) async fn attempt<S>(
    service: &Mutex<S>,
    event: Event,
    ledger: &Arc<Ledger>,
    runtime: &dyn Runtime,
    timeout: Duration,
) -> Report
where
    S: Service<Event, Response = Report, Error: Into<BoxError>> + Clone,
{
    let event = event.with_ledger(Arc::clone(ledger));
    let mut call = pin!(Contained::new(async {
        // A clone that panics poisons the lock, and leaves the service as it was.
        let mut service = service
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        poll_fn(|cx| service.poll_ready(cx))
            .await
            .map_err(Into::into)?;
        service.call(event).await.map_err(Into::into)
    }));
    let mut sleep = None;
    let end = poll_fn(|cx| {
        if let Poll::Ready(end) = call.as_mut().poll(cx) {
            return Poll::Ready(ended(end));
        }
        // Made after the first `Pending` only: most handlers that don't wait need no timer.
        let waited = contain(|| {
            sleep
                .get_or_insert_with(|| runtime.sleep(timeout))
                .poll_unpin(cx)
        });
        match waited {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => ledger.expire(),
            // A runtime without a timer: what can't be bounded isn't run.
            Err(panic) => return Poll::Ready(End::Lost(Outcome::Panicked(panic))),
        }
        // The router has been told, and returns with what had finished; whatever else is there is
        // dropped.
        Poll::Ready(match call.as_mut().poll(cx) {
            Poll::Ready(end) => ended(end),
            Poll::Pending => End::Lost(
                call.as_mut()
                    .cancel()
                    .map_or_else(Outcome::Panicked, |()| Outcome::TimedOut),
            ),
        })
    });
    let end = end.await;
    ledger.close(&end)
}

fn ended(end: Result<Result<Report, BoxError>, PanicMessage>) -> End {
    match end {
        // The ledger knows what the routes did; the report may have been made by anyone.
        Ok(Ok(_)) => End::Returned,
        Ok(Err(error)) => End::Lost(Outcome::Failed(HandlerError::new(error))),
        Err(panic) => End::Lost(Outcome::Panicked(panic)),
    }
}
