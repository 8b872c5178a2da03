//! Events of one key run one after another over all processes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use botisimo_webhooks::{Event, EventRouter, HandlerError, Inbox, PostgresInbox};
use futures_util::future::join_all;

use crate::kit::{Log, accept, builder, delivery};
use crate::support::postgres::{Database, database};
use crate::support::{key, keyed, until, wait_idle};

async fn ordered(database: &Database<'_>, router: EventRouter) -> PostgresInbox {
    let delivery = delivery().ordering_key(key).block_key_on_dead_letter();
    builder(database)
        .delivery(delivery)
        .open(router)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_key_run_in_the_order_of_their_commits_over_two_processes() {
    let (database, log) = (database(), Log::default());
    let running = Arc::new(Mutex::new(HashSet::new()));
    let router = || {
        let (log, running) = (log.clone(), Arc::clone(&running));
        EventRouter::new().on("a", |event: Event| async move {
            let key = key(&event).unwrap();
            assert!(
                running.lock().unwrap().insert(key.clone()),
                "two run at once"
            );
            tokio::task::yield_now().await;
            log.add(&event);
            running.lock().unwrap().remove(&key);
        })
    };
    let inboxes = [
        ordered(&database, router()).await,
        ordered(&database, router()).await,
    ];
    // Each key's events are accepted one after another, so that their order is known.
    let keys = (0..20).map(|number| {
        let inboxes = &inboxes;
        async move {
            for event in 0..20 {
                let key = format!("k{number:02}");
                let event = keyed(&format!("{key}-{event:02}"), &key);
                accept(&inboxes[fastrand::usize(0..2)], event).await;
            }
        }
    });
    join_all(keys).await;
    for inbox in &inboxes {
        wait_idle(&inbox.handle()).await;
    }
    let ids = log.ids();
    assert_eq!(ids.len(), 400);
    for number in 0..20 {
        let prefix = format!("k{number:02}-");
        let of_key: Vec<_> = ids.iter().filter(|id| id.starts_with(&prefix)).collect();
        assert_eq!(of_key.len(), 20);
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
    let dead = inboxes.iter().map(|inbox| inbox.handle().stats().dead);
    assert_eq!(dead.sum::<u64>(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_blocks_its_key_in_all_processes_until_it_is_replayed_or_deleted() {
    let (database, log) = (database(), Log::default());
    let router = || {
        let log = log.clone();
        EventRouter::new().on("a", |event: Event| async move {
            log.add(&event);
            let runs = log.ids().iter().filter(|id| *id == event.id()).count();
            match event.id().starts_with("bad") && runs == 1 {
                true => Err(HandlerError::permanent("no")),
                false => Ok(()),
            }
        })
    };
    let inboxes = [
        ordered(&database, router()).await,
        ordered(&database, router()).await,
    ];
    for (id, key) in [("bad-1", "x"), ("2", "x"), ("bad-3", "y"), ("4", "y")] {
        accept(&inboxes[0], keyed(id, key)).await;
    }
    until(|| inboxes[0].handle().stats().dead == 2).await;
    accept(&inboxes[1], keyed("5", "x")).await;
    accept(&inboxes[1], keyed("6", "z")).await;
    until(|| log.len() == 3).await;
    assert_eq!(log.sorted(), ["6", "bad-1", "bad-3"]);
    let letters = inboxes[1].handle().dead_letters().unwrap();
    let listed = letters.list(None, 9).await.unwrap();
    assert!(letters.replay(listed[0].id()).await.unwrap());
    assert!(letters.delete(listed[1].id()).await.unwrap());
    for inbox in &inboxes {
        wait_idle(&inbox.handle()).await;
    }
    let ids = log.ids();
    let place = |id: &str| ids.iter().rposition(|each| each == id).unwrap();
    assert_eq!(ids.len(), 7, "{ids:?}");
    assert!(
        place("bad-1") < place("2") && place("2") < place("5"),
        "{ids:?}"
    );
}
