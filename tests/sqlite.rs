//! The inbox on disk: what it takes, delivers, remembers and recovers.
#![cfg(all(feature = "sqlite", feature = "tokio"))]

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Accepted, Event, EventRouter, Inbox, SqliteInbox};

#[tokio::test(flavor = "multi_thread")]
async fn smoke() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("inbox.db");
    let router = EventRouter::new().on("account.updated", |event: Event| async move {
        println!("{}", event.id());
    });
    let inbox = SqliteInbox::open(&path, router).await.unwrap();
    for _ in 0..10 {
        let event = MockRequest::event("account.updated").to_event();
        assert_eq!(inbox.accept(event.clone()).await.unwrap(), Accepted::New);
        assert_eq!(inbox.accept(event).await.unwrap(), Accepted::Duplicate);
    }
    inbox.handle().settled().await;
    println!("{}", inbox.handle().stats());
}
