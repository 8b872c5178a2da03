//! The loop that pulls a route's events, at most one per free permit.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;

use super::backoff::Backoff;
use super::connection::{Running, failed, unless_drained};
use super::message_task::MessageTask;
use super::route_consumer::RouteConsumer;
use super::stalls::Operation;
use super::worker_inner::WorkerInner;
use crate::error::{BoxError, Error, ErrorKind};

/// How long the server waits for a first event before it answers that it has no event. A drain takes up to this long.
const PULL: Duration = Duration::from_secs(1);

/// A pull that brings no events and takes this long counts as unanswered. If the server doesn't answer within [`PULL`], the client
/// waits another 5 s and then reports no events.
const UNANSWERED: Duration = Duration::from_secs(4);

/// The delays after a pull that ended early without an event, because the server was serving other pulls.
const EARLY: Backoff = Backoff {
    first: Duration::from_millis(10),
    longest: Duration::from_millis(250),
};

/// Pulls until the worker is drained. The loop awaits the end of each pull. If the loop dropped the stream of messages, the
/// messages in flight would be stuck until `ack_wait` is over.
pub(super) async fn pull(
    worker: Arc<WorkerInner>,
    route: Arc<RouteConsumer>,
    consumer: PullConsumer,
    mut draining: Running,
) {
    let (runtime, stalls) = (&worker.connection.runtime, &worker.connection.stalls);
    let name = Some(&route.name);
    let (mut early, mut failures) = (0, 0);
    while let Some(permit) = unless_drained(&mut draining, route.permits.acquire()).await {
        // Only this loop takes permits, so the permits counted here stay free.
        let free = route.permits.available_permits() + 1;
        drop(permit);
        let begun = runtime.now();
        let pulled = fetch(&worker, &route, &consumer, free).await;
        let took = runtime.now().saturating_duration_since(begun);
        let pulled = match pulled {
            Ok(0) if took >= UNANSWERED => Err(unanswered(&consumer)),
            Ok(count) => Ok(count),
            Err(error) => Err(failed("events can't be pulled", error)),
        };
        stalls.report(name, Operation::Pull, &pulled);
        let wait = match pulled {
            Ok(0) if took < PULL / 2 => {
                (early, failures) = (early + 1, 0);
                EARLY.wait(early - 1)
            }
            Ok(_) => {
                (early, failures) = (0, 0);
                continue;
            }
            Err(_) => {
                let restored = worker.restore_consumer(&route).await;
                if restored.is_err() {
                    stalls.report(name, Operation::Pull, &restored);
                }
                failures += 1;
                Backoff::FAILED.wait(failures - 1)
            }
        };
        unless_drained(&mut draining, runtime.sleep(wait)).await;
    }
}

/// Returns the error of a pull without an answer. The server doesn't answer a request that it denies.
fn unanswered(consumer: &PullConsumer) -> Error {
    let info = consumer.cached_info();
    let text = format!(
        "the server doesn't answer pulls: it is overloaded, or it denies `publish` on \
         `$JS.API.CONSUMER.MSG.NEXT.{}.{}` to this user",
        info.stream_name, info.name
    );
    Error::new(ErrorKind::Inbox, text)
}

/// Pulls up to `free` events and starts each event immediately. Returns the number of events.
async fn fetch(
    worker: &Arc<WorkerInner>,
    route: &Arc<RouteConsumer>,
    consumer: &PullConsumer,
    free: usize,
) -> Result<usize, BoxError> {
    let request = consumer.fetch().max_messages(free).expires(PULL);
    let mut messages = request.messages().await?;
    let (mut count, mut failure) = (0, None);
    while let Some(message) = messages.next().await {
        match message {
            Ok(message) => {
                count += 1;
                // A message that isn't from a stream needs no acknowledgement.
                let Some(task) = MessageTask::new(worker, route, message) else {
                    continue;
                };
                if route.is_recreated(task.consumer_sequence) {
                    // Another worker recreated the consumer. That worker's checkpoint has the events that it finished.
                    let _ = worker.restore_consumer(route).await;
                }
                worker.connection.runtime.spawn(Box::pin(task.run()));
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if count == 0 => Err(error),
        _ => Ok(count),
    }
}
