//! The loop that pulls a route's events: as many as there are free permits, and no more.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Error;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt;
use futures_util::future::{Either, select};
use tokio::sync::watch;

use super::message_task::MessageTask;
use super::worker_inner::{RouteConsumer, WorkerInner};
use crate::catch_panic::catch_panic;

use crate::telemetry;

/// How long the server waits for a first event before it answers that there is none. A drain takes up to
/// this long.
const PULL: Duration = Duration::from_secs(1);

/// The waits after a pull that brought nothing sooner than it should have, because the server had
/// others to serve, and after one that failed.
const EARLY: Backoff = Backoff {
    first: Duration::from_millis(10),
    ceiling: Duration::from_millis(250),
};
const FAILED: Backoff = Backoff {
    first: Duration::from_millis(100),
    ceiling: Duration::from_secs(2),
};

struct Backoff {
    first: Duration,
    ceiling: Duration,
}

impl Backoff {
    fn wait(&self, times: u32) -> Duration {
        let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
        self.first.saturating_mul(factor).min(self.ceiling)
    }
}

/// Pulls until the worker is drained. What is pulled is awaited to the end each time: a stream of messages that
/// is dropped leaves those that were on their way stuck until `ack_wait` is over.
pub(super) async fn pull(
    worker: Arc<WorkerInner>,
    route: Arc<RouteConsumer>,
    consumer: PullConsumer,
) {
    let pulling = Pulling::new(Arc::clone(&worker));
    let mut draining = worker.draining();
    let (mut early, mut failed) = (0, 0);
    while let Some(free) = free_permits(&route, &mut draining).await {
        let begun = worker.executor.runtime.now();
        let wait = match fetch(&worker, &route, &consumer, free).await {
            Ok(0) => {
                failed = 0;
                let took = worker
                    .executor
                    .runtime
                    .now()
                    .saturating_duration_since(begun);
                if took >= PULL / 2 {
                    early = 0;
                    continue;
                }
                early += 1;
                EARLY.wait(early - 1)
            }
            Ok(_) => {
                (early, failed) = (0, 0);
                continue;
            }
            Err(error) => {
                if failed == 0 {
                    telemetry::pull_failed(&route.plan.name, &*error);
                }
                failed += 1;
                FAILED.wait(failed - 1)
            }
        };
        let sleep = worker.executor.runtime.sleep(wait);
        let told = Box::pin(draining.wait_for(|draining| *draining));
        drop(select(sleep, told).await);
    }
    drop(pulling);
}

/// Waits for a free permit and returns how many there are, or `None` once the worker is drained.
async fn free_permits(
    route: &RouteConsumer,
    draining: &mut watch::Receiver<bool>,
) -> Option<usize> {
    if *draining.borrow() {
        return None;
    }
    let permit = Box::pin(route.permits.acquire());
    let told = Box::pin(draining.wait_for(|draining| *draining));
    match select(permit, told).await {
        // Nobody else takes permits, so that those counted here are there to be taken.
        Either::Left((permit, _)) => {
            let permit = permit.ok()?;
            let others = route.permits.available_permits();
            drop(permit);
            Some(others + 1)
        }
        Either::Right(_) => None,
    }
}

/// Pulls up to `free` events and starts each at once. Returns how many there were.
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
                let permit = Arc::clone(&route.permits).try_acquire_owned().ok();
                let running = MessageTask::new(Arc::clone(worker), Arc::clone(route), message);
                let runtime = &worker.executor.runtime;
                // A runtime that can't spawn drops the task, and so counts the event as handed back.
                let _ = catch_panic(|| {
                    runtime.spawn(Box::pin(async move {
                        running.run().await;
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

/// Counts a pull loop, until it is dropped.
struct Pulling {
    worker: Arc<WorkerInner>,
}

impl Pulling {
    fn new(worker: Arc<WorkerInner>) -> Self {
        worker.begin_pulling();
        Self { worker }
    }
}

impl Drop for Pulling {
    fn drop(&mut self) {
        self.worker.end_pulling();
    }
}
