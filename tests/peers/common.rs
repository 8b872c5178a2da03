//! The code that the programs of the peers share. An inbox on disk accepts events, and the handlers store the
//! events' ids through the peer.

use std::sync::Arc;

use botisimo_webhooks::{Event, EventRouter, HandlerError, Inbox, SqliteInbox};

/// The ids of the events that the program sends to the inbox.
pub const IDS: [&str; 3] = ["m-1", "m-2", "m-3"];

/// Opens an inbox whose handler runs `store` for each event. Accepts the events of [`IDS`], and waits until the
/// inbox is idle.
pub async fn deliver<F, E>(
    folder: &tempfile::TempDir,
    store: impl Fn(String) -> F + Send + Sync + 'static,
) where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let store = Arc::new(store);
    let router = EventRouter::new().on("account.updated", move |event: Event| async move {
        store(event.id().to_owned())
            .await
            .map_err(HandlerError::from)
    });
    let inbox = SqliteInbox::open(folder.path().join("inbox.db"), router)
        .await
        .expect("the inbox opens in the peer's process");
    for id in IDS {
        let body = format!(
            r#"{{"messageId":"{id}","timestamp":1,"eventType":"account.updated","data":null}}"#
        );
        let event = Event::from_bytes(body.into_bytes()).expect("the body is an event");
        inbox
            .accept(event)
            .await
            .expect("the inbox accepts the event");
    }
    inbox.handle().wait_idle().await;
    assert_eq!(inbox.handle().stats().handled, IDS.len() as u64);
}
