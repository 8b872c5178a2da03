//! The same pages and actions over each inbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, EventRouter, Inbox, Inspector, MemoryInbox, RetryPolicy,
};

use crate::site::{Client, fields, open_access, router};

/// Sends events to an inbox over the routes of a [`Site`](crate::site::Site), looks at each page, and replays and deletes events.
pub(crate) async fn operates<I: Inbox>(
    client: &Client,
    is_fixed: &AtomicBool,
    inbox: &I,
    wait: impl AsyncFn(),
) {
    for (event_type, id) in [
        ("connection.stream.started", "good"),
        ("account.updated", "bad-1"),
        ("account.updated", "bad-2"),
    ] {
        let event = MockRequest::event(event_type)
            .message_id(id)
            .data("a payload");
        inbox.accept(event.to_event()).await.unwrap();
    }
    wait().await;
    let ids = async |query: &str| client.get(query).await.texts("tbody .mono");
    assert_eq!(ids("?page=events").await, ["bad-2", "bad-1", "good"]);
    assert_eq!(ids("?page=events&state=handled").await, ["good"]);
    assert_eq!(
        ids("?page=dead-letters&reason=no+account").await,
        ["bad-2", "bad-1"]
    );
    assert_eq!(client.get("").await.status, 200);
    assert_eq!(client.get("?page=routes").await.status, 200);

    let link = client.link_of("bad-1").await;
    let page = client.get(&link).await;
    assert!(
        page.main().contains("account.updated failed: no account"),
        "{}",
        page.main()
    );
    assert!(page.texts("#payload")[0].contains("\"a payload\""));

    // The user replays one event to one route. Then the user replays every matching event to its remaining routes.
    is_fixed.store(true, Ordering::SeqCst);
    let number = link.rsplit_once('=').unwrap().1;
    let form = format!("do=replay-event&event={number}&routes=only%3Aaccount.updated");
    let answer = client.post(&form).await;
    assert!(
        answer.header("location").ends_with("count=1"),
        "{}",
        answer.body
    );
    wait().await;
    assert_eq!(ids("?page=dead-letters").await, ["bad-2"]);
    let listed = client.get("?page=dead-letters&type=account.*").await;
    let asked = client
        .post(&format!("{}&do=replay-matching", fields(&listed)))
        .await;
    assert_eq!(asked.texts("h1"), ["Replay 1 event?"]);
    client.post(&fields(&asked)).await;
    wait().await;
    assert_eq!(
        client
            .get("?page=dead-letters")
            .await
            .texts("tbody tr")
            .len(),
        0
    );
    assert_eq!(ids("?page=events&state=handled").await.len(), 3);

    let asked = client
        .post("do=delete-matching&back=events&q=type%3Daccount.*")
        .await;
    let answer = client.post(&fields(&asked)).await;
    assert!(
        answer.header("location").ends_with("done=deleted&count=2"),
        "{}",
        answer.body
    );
    assert_eq!(ids("?page=events").await, ["good"]);
}

fn parts() -> (Arc<AtomicBool>, EventRouter, DeliverySettings) {
    let is_fixed = Arc::new(AtomicBool::new(false));
    let router = router(&is_fixed);
    let delivery = DeliverySettings::new().retry(RetryPolicy::new().max_attempts(1));
    (is_fixed, router, delivery)
}

async fn operates_a_handle(inbox: impl Inbox, is_fixed: &AtomicBool) {
    let handle = inbox.handle();
    let client = Client(Inspector::new(&handle, open_access()));
    operates(&client, is_fixed, &inbox, async || handle.wait_idle().await).await;
}

#[tokio::test(start_paused = true)]
async fn the_inspector_operates_the_memory_inbox() {
    let (is_fixed, router, delivery) = parts();
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    operates_a_handle(inbox, &is_fixed).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn the_inspector_operates_the_inbox_on_disk() {
    let (is_fixed, router, delivery) = parts();
    let folder = tempfile::tempdir().unwrap();
    let inbox = botisimo_webhooks::SqliteInbox::builder(folder.path().join("inbox.db"))
        .delivery(delivery)
        .keep_handled(Duration::from_secs(60))
        .open(router)
        .await;
    operates_a_handle(inbox.unwrap(), &is_fixed).await;
}

#[cfg(feature = "jetstream")]
#[tokio::test]
async fn the_inspector_operates_a_worker_on_jetstream() {
    use botisimo_webhooks::{JetStreamInbox, JetStreamWorker, StreamSettings};

    use crate::support::nats::{Server, wait_idle};

    let (is_fixed, router, delivery) = parts();
    let server = Server::start().await;
    let stream = StreamSettings::new().create_if_missing();
    let inbox = JetStreamInbox::builder(server.context().await).stream(stream.clone());
    let inbox = inbox.open().await.unwrap();
    let context = server.context().await;
    let worker = JetStreamWorker::builder(context.clone(), "team")
        .stream(stream)
        .delivery(delivery)
        .start(router)
        .await
        .unwrap();
    let client = Client(Inspector::for_worker(&worker, open_access()));
    let wait = async || wait_idle(context.clone(), worker.clone()).await;
    operates(&client, &is_fixed, &inbox, wait).await;
}
