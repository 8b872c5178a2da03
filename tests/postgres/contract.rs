//! The inbox in PostgreSQL satisfies the contract of inboxes.

use std::time::Duration;

use botisimo_webhooks::{DeliverySettings, EventRouter, PostgresInbox};

use crate::kit::pool;
use crate::support::contract::{InboxFactory, Opened};
use crate::support::postgres::database;

/// An inbox in its own database.
struct Postgres;

impl InboxFactory for Postgres {
    type Inbox = PostgresInbox;

    async fn open(&self, router: EventRouter, delivery: DeliverySettings) -> Opened<PostgresInbox> {
        let database = database();
        let inbox = PostgresInbox::builder(pool(&database.url(), 4))
            .delivery(delivery)
            .keep_handled(Duration::from_secs(60))
            .open(router)
            .await;
        Opened::new(inbox.unwrap()).keeping(database)
    }
}

crate::contract_tests! { #[tokio::test] Postgres }
