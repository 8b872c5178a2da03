//! The shutdown of a worker, and of a process that receives and works.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::{AcceptError, AcceptErrorKind, Event, EventRouter, Inbox};
use tokio::sync::{Semaphore, oneshot};

use crate::kit::{Runs, event, inbox, send, worker};
use crate::support::nats::{Server, until};

/// Returns a router whose handler records its run and waits for a permit.
fn held(runs: &Runs, gate: &Arc<Semaphore>) -> EventRouter {
    let (runs, gate) = (runs.clone(), Arc::clone(gate));
    EventRouter::new().on("a", |event: Event| async move {
        runs.add("a", &event);
        gate.acquire().await.unwrap().forget();
    })
}

#[tokio::test]
async fn a_worker_runs_until_its_shutdown_and_reports_the_events_that_remain() {
    let server = Server::start().await;
    let context = server.context().await;
    let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let worker = worker(&context).start(held(&runs, &gate)).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = worker
        .shutdown_on(async { stopped.await.unwrap() })
        .drain_timeout(Duration::from_millis(100));
    let ended = tokio::spawn(shutdown.into_future());

    let inbox = inbox(&context).await;
    for id in ["1", "2"] {
        send(&inbox, "a", id).await;
    }
    until("the handlers run", async || runs.count() == 2).await;
    stop.send(()).unwrap();
    assert_eq!(ended.await.unwrap().unwrap().remaining, 2);

    gate.add_permits(2);
    let ended = worker.shutdown_on(ready(())).await;
    assert_eq!(ended.unwrap().remaining, 0);
    assert_eq!(worker.stats().acked, 2);
}

#[tokio::test]
async fn a_process_that_receives_and_works_drains_both_at_the_same_time() {
    let server = Server::start().await;
    let context = server.context().await;
    let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let worker = worker(&context).start(held(&runs, &gate)).await.unwrap();
    let inbox = inbox(&context).await;
    send(&inbox, "a", "1").await;
    until("the handler runs", async || runs.count() == 1).await;

    let (drains, stats) = (worker.clone(), worker.clone());
    let shutdown = inbox
        .handle()
        .shutdown_on(ready(()))
        .also_drain(move |within| drains.drain(within));
    let ended = tokio::spawn(shutdown.into_future());
    until("the receiver drains", async || {
        inbox.accept(event("a", "1")).await == Err(AcceptError::new(AcceptErrorKind::Draining))
    })
    .await;
    assert!(!ended.is_finished());
    gate.add_permits(1);
    assert_eq!(ended.await.unwrap().unwrap().remaining, 0);
    assert_eq!(stats.stats().acked, 1);
}
