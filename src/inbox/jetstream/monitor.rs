//! The tasks of a worker besides the pull loops: one task stores checkpoints, and the other checks the stream and the consumers for
//! changes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::checkpoints::SPACING;
use super::stalls::Operation;
use super::stream::{self, describe, mismatch};
use super::worker_inner::WorkerInner;

/// The time between two checks of the stream and the consumers.
const INTERVAL: Duration = Duration::from_secs(5);

/// Stores a checkpoint after each change, until the worker is drained.
pub(super) async fn store_checkpoints(worker: Arc<WorkerInner>) {
    loop {
        let changed = Box::pin(worker.checkpoints.changed());
        let idle = Box::pin(worker.idle());
        if let Either::Right(_) = select(changed, idle).await {
            return;
        }
        let bytes = worker.consumers.store_checkpoints().await;
        // Large records are written less often: a record of 1 MB every ten seconds.
        let bytes = u64::try_from(bytes.unwrap_or(0)).unwrap_or(u64::MAX);
        let wait = SPACING + Duration::from_micros(bytes.saturating_mul(10));
        worker.executor.runtime.sleep(wait).await;
    }
}

/// Checks the stream and the consumers, until the worker is drained.
pub(super) async fn watch(worker: Arc<WorkerInner>) {
    let mut draining = worker.draining();
    loop {
        let sleep = worker.executor.runtime.sleep(INTERVAL);
        let drained = Box::pin(draining.wait_for(|draining| *draining));
        if let Either::Right(_) = select(sleep, drained).await {
            return;
        }
        look(&worker).await;
    }
}

async fn look(worker: &WorkerInner) {
    let (context, settings) = (&worker.consumers.context, &worker.consumers.settings);
    let stream = match stream::find(context, settings).await {
        Ok(stream) => stream,
        Err(error) => {
            let cause = describe(&error);
            worker.stalls.raise(None, Operation::CheckStream, cause);
            return;
        }
    };
    worker.checkpoints.identify(stream.cached_info());
    let cause = mismatch(&stream.cached_info().config, settings);
    worker.stalls.update(None, Operation::CheckStream, cause);
    worker.read_server_time().await;
    // Store the record again, because an operator may have deleted it.
    worker.consumers.store_checkpoints().await;
    for route in &worker.routes {
        if let Some(ack_wait) = worker.consumers.check(&stream, &route.plan).await {
            route.set_ack_wait(ack_wait);
        }
        worker
            .stalls
            .expire(&route.plan.name, Operation::Acknowledge);
    }
}
