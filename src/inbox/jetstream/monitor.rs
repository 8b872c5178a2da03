//! The tasks of a worker besides the pull loops: one task stores checkpoints, and the other checks the stream and the consumers for
//! changes.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::checkpoints::SPACING;
use super::connection::unless_drained;
use super::stalls::Operation;
use super::stream::check_events;
use super::worker_inner::WorkerInner;

/// The time between two checks of the stream and the consumers.
const INTERVAL: Duration = Duration::from_secs(5);

/// Stores a checkpoint after each change, until the worker is drained and idle.
pub(super) async fn store_checkpoints(worker: Arc<WorkerInner>) {
    let checkpoints = &worker.consumers.checkpoints;
    while let Either::Left(_) = select(
        pin!(checkpoints.changed()),
        pin!(worker.connection.draining.closed()),
    )
    .await
    {
        let bytes = checkpoints.store().await.unwrap_or_default();
        // Large records are written less often: a record of 1 MB every ten seconds.
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let wait = SPACING + Duration::from_micros(bytes.saturating_mul(10));
        worker.connection.runtime.sleep(wait).await;
    }
}

/// Checks the stream and the consumers, until the worker is drained.
pub(super) async fn watch(worker: Arc<WorkerInner>) {
    let checks = async {
        loop {
            worker.connection.runtime.sleep(INTERVAL).await;
            check(&worker).await;
        }
    };
    let mut draining = worker.connection.draining.subscribe();
    let _: Option<Infallible> = unless_drained(&mut draining, checks).await;
}

async fn check(worker: &WorkerInner) {
    let (connection, consumers) = (&worker.connection, &worker.consumers);
    let stream = consumers.stream().await;
    let fits = stream.as_ref().map_err(Clone::clone);
    let fits = fits.and_then(|stream| check_events(stream, &connection.settings));
    connection
        .stalls
        .report(None, Operation::CheckStream, &fits);
    let Ok(stream) = stream else {
        return;
    };
    connection.read_clock().await;
    // Store the record again, because an operator may have deleted it.
    consumers.checkpoints.store().await;
    for route in &consumers.routes {
        consumers.check(&stream, route).await;
        for operation in [Operation::Acknowledge, Operation::Start] {
            connection.stalls.expire(&route.name, operation);
        }
    }
}
