//! The loop that pulls a route's events, at most one per free permit.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Error;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::backoff::Backoff;
use super::delivery_info::DeliveryInfo;
use super::message_task::MessageTask;
use super::route_consumer::RouteConsumer;
use super::stalls::Operation;
use super::stream::describe;
use super::worker_inner::WorkerInner;
use crate::catch_panic::catch_panic;

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
) {
    let guard = PullGuard::new(Arc::clone(&worker));
    let name = Some(&route.plan.name);
    let mut draining = worker.draining();
    let (mut early, mut failed) = (0, 0);
    while let Some(free) = free_permits(&route, &mut draining).await {
        let begun = worker.executor.runtime.now();
        let pulled = fetch(&worker, &route, &consumer, free).await;
        let took = worker
            .executor
            .runtime
            .now()
            .saturating_duration_since(begun);
        let cause = match &pulled {
            Ok(0) if took >= UNANSWERED => Some(unanswered(&consumer)),
            Ok(_) => None,
            Err(error) => Some(format!("events can't be pulled: {error}")),
        };
        let wait = if let Some(cause) = cause {
            worker.stalls.raise(name, Operation::Pull, cause);
            if let Err(error) = worker.consumers.restore(&route.plan).await {
                worker.stalls.raise(name, Operation::Pull, describe(&error));
            }
            failed += 1;
            Backoff::FAILED.wait(failed - 1)
        } else {
            worker.stalls.clear(name, Operation::Pull);
            failed = 0;
            if !matches!(pulled, Ok(0)) || took >= PULL / 2 {
                early = 0;
                continue;
            }
            early += 1;
            EARLY.wait(early - 1)
        };
        let sleep = worker.executor.runtime.sleep(wait);
        let drained = Box::pin(draining.wait_for(|draining| *draining));
        drop(select(sleep, drained).await);
    }
    drop(guard);
}

/// Returns the cause of a pull without an answer. The server doesn't answer a request that it denies.
fn unanswered(consumer: &PullConsumer) -> String {
    let info = consumer.cached_info();
    format!(
        "the server doesn't answer pulls: it is overloaded, or it denies `publish` on \
         `$JS.API.CONSUMER.MSG.NEXT.{}.{}` to this user",
        info.stream_name, info.name
    )
}

/// Waits for a free permit and returns the number of free permits, or `None` once the worker is drained.
async fn free_permits(
    route: &RouteConsumer,
    draining: &mut watch::Receiver<bool>,
) -> Option<usize> {
    if *draining.borrow() {
        return None;
    }
    let permit = Box::pin(route.permits.acquire());
    let drained = Box::pin(draining.wait_for(|draining| *draining));
    match select(permit, drained).await {
        // Only this loop takes permits, so the permits counted here stay free.
        Either::Left((permit, _)) => {
            let permit = permit.ok()?;
            let others = route.permits.available_permits();
            drop(permit);
            Some(others + 1)
        }
        Either::Right(_) => None,
    }
}

/// Pulls up to `free` events and starts each event immediately. Returns the number of events.
async fn fetch(
    worker: &Arc<WorkerInner>,
    route: &Arc<RouteConsumer>,
    consumer: &PullConsumer,
    free: usize,
) -> Result<usize, Error> {
    let request = consumer.fetch().max_messages(free).expires(PULL);
    let mut messages = request.messages().await?;
    let (mut count, mut failure) = (0, None);
    while let Some(message) = messages.next().await {
        match message {
            Ok(message) => {
                count += 1;
                let info = DeliveryInfo::of(&message);
                if info.is_some_and(|info| route.is_recreated(info.consumer_sequence)) {
                    // Another worker recreated the consumer. That worker's checkpoint has the events that it finished.
                    let _ = worker.consumers.restore(&route.plan).await;
                }
                let permit = Arc::clone(&route.permits).try_acquire_owned().ok();
                let task = MessageTask::new(Arc::clone(worker), Arc::clone(route), message);
                let runtime = &worker.executor.runtime;
                // If the runtime can't spawn, the task is dropped and the event counts as returned.
                let _ = catch_panic(|| {
                    runtime.spawn(Box::pin(async move {
                        task.run().await;
                        drop(permit);
                    }));
                });
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(error) if count == 0 => Err(error),
        _ => Ok(count),
    }
}

/// Counts a pull loop until the guard is dropped.
struct PullGuard {
    worker: Arc<WorkerInner>,
}

impl PullGuard {
    fn new(worker: Arc<WorkerInner>) -> Self {
        worker.begin_pull_loop();
        Self { worker }
    }
}

impl Drop for PullGuard {
    fn drop(&mut self) {
        self.worker.end_pull_loop();
    }
}
