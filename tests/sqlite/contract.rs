//! The inbox on disk satisfies the contract of inboxes.

use botisimo_webhooks::{EventRouter, SqliteInbox};

use crate::support::contract::{DeliverySettings, InboxFactory, Opened};

/// An inbox in its own folder.
struct Sqlite;

impl InboxFactory for Sqlite {
    type Inbox = SqliteInbox;

    async fn open(&self, router: EventRouter, settings: DeliverySettings) -> Opened<SqliteInbox> {
        let folder = tempfile::tempdir().unwrap();
        let inbox = SqliteInbox::builder(folder.path().join("inbox.db"))
            .retry(settings.retry)
            .attempt_timeout(settings.attempt_timeout)
            .open(router)
            .await;
        Opened::new(inbox.unwrap()).keeping(folder)
    }
}

crate::contract_tests! { #[tokio::test] Sqlite }
