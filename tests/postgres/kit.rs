//! The setup that the tests of the inbox share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::{
    Accepted, DeliverySettings, Event, EventRouter, Inbox, PostgresInbox, PostgresInboxBuilder,
    RetryPolicy,
};
use deadpool_postgres::{Manager, Pool};
use tokio::sync::Semaphore;
use tokio_postgres::{Config, NoTls};

use crate::support::postgres::Database;

/// Returns a pool with at most `size` connections.
pub(crate) fn pool(url: &str, size: usize) -> Pool {
    let config: Config = url.parse().unwrap();
    let manager = Manager::new(config, NoTls);
    Pool::builder(manager).max_size(size).build().unwrap()
}

/// Returns settings that retry without delay.
pub(crate) fn delivery() -> DeliverySettings {
    let retry = RetryPolicy::new().initial_delay(Duration::ZERO);
    DeliverySettings::new().retry(retry)
}

/// Returns the builder of an inbox in the database.
pub(crate) fn builder(database: &Database<'_>) -> PostgresInboxBuilder {
    PostgresInbox::builder(pool(&database.url(), 4)).delivery(delivery())
}

pub(crate) async fn open(database: &Database<'_>, router: EventRouter) -> PostgresInbox {
    builder(database).open(router).await.unwrap()
}

/// Accepts an event that must be new.
pub(crate) async fn accept(inbox: &PostgresInbox, event: Event) {
    assert_eq!(inbox.accept(event).await, Ok(Accepted::New));
}

/// The ids of the events that handlers ran, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn add(&self, event: &Event) {
        self.0.lock().unwrap().push(event.id().to_owned());
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut ids = self.ids();
        ids.sort();
        ids
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Returns a router whose only route adds the event to the log.
    pub(crate) fn router(&self) -> EventRouter {
        let log = self.clone();
        EventRouter::new().on("a", |event: Event| async move { log.add(&event) })
    }

    /// Returns a router whose only route adds the event to the log and then waits for a permit.
    pub(crate) fn gated(&self, gate: &Arc<Semaphore>) -> EventRouter {
        let (log, gate) = (self.clone(), Arc::clone(gate));
        EventRouter::new().on("a", |event: Event| async move {
            log.add(&event);
            gate.acquire().await.unwrap().forget();
        })
    }
}
