//! `complete_in`: the effects of a handler's transaction exist exactly once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use botisimo_webhooks::{Event, EventRouter, HandlerError, Inbox, Replay, RetryPolicy};
use deadpool_postgres::Pool;
use tokio::sync::Semaphore;

use crate::kit::{accept, builder, delivery, open, pool};
use crate::support::postgres::{Database, database};
use crate::support::{event, until, wait_idle};

fn effects(database: &Database<'_>) -> Pool {
    database.sql("CREATE TABLE effects (event text NOT NULL)");
    pool(&database.url(), 8)
}

/// Writes an effect, and records that the route has handled the event, in one transaction.
async fn write(event: &Event, pool: &Pool) -> Result<(), HandlerError> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let sql = "INSERT INTO effects VALUES ($1)";
    transaction.execute(sql, &[&event.id()]).await?;
    event.complete_in(&transaction).await?;
    transaction.commit().await?;
    Ok(())
}

fn count(database: &Database<'_>) -> String {
    let counts = "SELECT count(*), count(DISTINCT event) FROM effects";
    database.sql(counts).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_fails_after_its_commit_does_not_run_again() {
    let database = database();
    let (pool, runs) = (effects(&database), Arc::new(AtomicU32::new(0)));
    let (counted, other) = (Arc::clone(&runs), Arc::new(AtomicU32::new(0)));
    let others = Arc::clone(&other);
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            counted.fetch_add(1, Ordering::Relaxed);
            write(&event, &pool).await?;
            Err::<(), HandlerError>("a later step failed".into())
        })
        .named("points")
        .on("a", |event: Event| async move {
            others.fetch_add(1, Ordering::Relaxed);
            match event.attempt() {
                1 => Err("not yet"),
                _ => Ok(()),
            }
        })
        .named("other");
    let inbox = open(&database, router).await;
    accept(&inbox, event("1")).await;
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(stats.handled, 1, "{stats:?}");
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    assert_eq!(other.load(Ordering::Relaxed), 2, "another route is retried");
    assert_eq!(count(&database), "1|1");
    let left = database.sql("SELECT count(*) FROM botisimo.finished_routes");
    assert_eq!(left.trim(), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_lease_can_not_commit() {
    let database = database();
    let (pool, gate) = (effects(&database), Arc::new(Semaphore::new(0)));
    let begun = Arc::new(AtomicU32::new(0));
    let router = |permits: u32| {
        let (pool, gate, begun) = (pool.clone(), Arc::clone(&gate), Arc::clone(&begun));
        EventRouter::new()
            .on("a", move |event: Event| async move {
                begun.fetch_add(1, Ordering::Relaxed);
                gate.acquire_many(permits).await?.forget();
                write(&event, &pool).await
            })
            .named("points")
    };
    // Its only place is busy, so the process can't take the event back.
    let zombie = builder(&database).delivery(delivery().concurrency(1));
    let zombie = zombie.open(router(1)).await.unwrap();
    accept(&zombie, event("1")).await;
    until(|| begun.load(Ordering::Relaxed) == 1).await;
    database.sql("DELETE FROM botisimo.workers");
    let worker = open(&database, router(0)).await;
    until(|| worker.handle().stats().handled == 1).await;
    gate.add_permits(1);
    wait_idle(&zombie.handle()).await;
    assert_eq!(count(&database), "1|1");
    assert_eq!(begun.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_process_died_after_the_commit_does_not_run_again() {
    let database = database();
    let (pool, gate) = (effects(&database), Arc::new(Semaphore::new(0)));
    let committed = Arc::new(AtomicU32::new(0));
    let (flag, closed) = (Arc::clone(&committed), Arc::clone(&gate));
    let effect = pool.clone();
    let first = EventRouter::new()
        .on("a", |event: Event| async move {
            write(&event, &effect).await?;
            flag.fetch_add(1, Ordering::Relaxed);
            closed.acquire().await?.forget();
            Ok::<_, HandlerError>(())
        })
        .named("points");
    // Its only place is busy, so the process can't take the event back.
    let dying = builder(&database).delivery(delivery().concurrency(1));
    let dying = dying.open(first).await.unwrap();
    accept(&dying, event("1")).await;
    until(|| committed.load(Ordering::Relaxed) == 1).await;
    database.sql("DELETE FROM botisimo.workers");
    let second = EventRouter::new()
        .on(
            "a",
            |event: Event| async move { write(&event, &pool).await },
        )
        .named("points");
    let worker = open(&database, second).await;
    until(|| worker.handle().stats().handled == 1).await;
    assert_eq!(count(&database), "1|1");
    gate.add_permits(1);
    wait_idle(&dying.handle()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_a_dead_letter_runs_a_completed_route_only_if_it_is_asked_to() {
    let database = database();
    let pool = effects(&database);
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            write(&event, &pool).await?;
            Err::<(), HandlerError>(HandlerError::permanent("no"))
        })
        .named("points");
    let retry = RetryPolicy::new().max_attempts(1);
    let inbox = builder(&database).delivery(delivery().retry(retry));
    let inbox = inbox
        .keep_handled(Duration::from_secs(60))
        .open(router)
        .await
        .unwrap();
    accept(&inbox, event("1")).await;
    let handle = inbox.handle();
    assert_eq!(wait_idle(&handle).await.dead, 1);
    let letter = handle.dead_letters().unwrap().list(None, 1).await.unwrap();
    let id = letter[0].id();
    let events = handle.events();
    let replay = |routes| events.replay(id, routes);
    assert!(replay(Replay::Remaining).await.unwrap());
    assert_eq!(wait_idle(&handle).await.handled, 1);
    assert_eq!(count(&database), "1|1");
    assert!(replay(Replay::All).await.unwrap());
    assert_eq!(wait_idle(&handle).await.dead, 2);
    assert_eq!(count(&database), "2|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_client_can_call_the_function_of_the_schema() {
    let database = Arc::new(database());
    let place = Arc::clone(&database);
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            let completion = event.completion().unwrap();
            place.sql(&format!(
                "SELECT botisimo.complete({}, {}, '{}')",
                completion.event_id(),
                completion.worker(),
                completion.route(),
            ));
            Err::<(), _>("a later step failed")
        })
        .named("points");
    let inbox = open(&database, router).await;
    accept(&inbox, event("1")).await;
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.handled, stats.retried), (1, 1));
}

#[tokio::test]
async fn an_event_outside_a_handler_has_no_completion() {
    assert!(event("1").completion().is_none());
}
