//! The inbox on disk satisfies the contract of inboxes.

use std::time::Duration;

use botisimo_webhooks::{DeliverySettings, EventRouter, SqliteInbox};

use crate::support::contract::{InboxFactory, Opened};

/// An inbox in its own folder.
struct Sqlite;

impl InboxFactory for Sqlite {
    type Inbox = SqliteInbox;

    async fn open(&self, router: EventRouter, delivery: DeliverySettings) -> Opened<SqliteInbox> {
        let folder = tempfile::tempdir().unwrap();
        let inbox = SqliteInbox::builder(folder.path().join("inbox.db"))
            .delivery(delivery)
            .keep_handled(Duration::from_secs(60))
            .open(router)
            .await;
        Opened::new(inbox.unwrap()).keeping(folder)
    }
}

crate::contract_tests! { #[tokio::test] Sqlite }
