//! The contract of inboxes, on those that need no server.

use botisimo_webhooks::testing::contract::{self, Candidate, Opened, Terms};
use botisimo_webhooks::{EventRouter, MemoryInbox, SqliteInbox};

struct Memory;

impl Candidate for Memory {
    type Inbox = MemoryInbox;

    async fn open(&self, router: EventRouter, terms: Terms) -> Opened<MemoryInbox> {
        let inbox = MemoryInbox::builder()
            .retry(terms.retry)
            .attempt_timeout(terms.attempt_timeout)
            .build(router);
        Opened::new(inbox)
    }
}

/// An inbox on disk, in a directory of its own.
struct Sqlite;

impl Candidate for Sqlite {
    type Inbox = SqliteInbox;

    async fn open(&self, router: EventRouter, terms: Terms) -> Opened<SqliteInbox> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let inbox = SqliteInbox::builder(directory.path().join("inbox.db"))
            .retry(terms.retry)
            .attempt_timeout(terms.attempt_timeout)
            .open(router)
            .await;
        Opened::new(inbox.expect("the inbox can be opened")).keeping(directory)
    }
}

#[tokio::test]
async fn the_disk_holds_to_the_contract() {
    contract::all(&Sqlite).await;
}

#[tokio::test]
async fn memory_holds_to_the_contract() {
    contract::all(&Memory).await;
}

#[tokio::test(start_paused = true)]
async fn memory_holds_to_the_contract_in_a_time_of_its_own() {
    contract::all(&Memory).await;
}
