//! The inbox on JetStream, with a worker, satisfies the contract of inboxes.

use crate::support::contract::{InboxFactory, Opened};
use crate::support::nats::{Server, wait_idle};
use botisimo_webhooks::{
    DeliverySettings, EventRouter, JetStreamInbox, JetStreamWorker, StreamSettings,
};

/// A receiver and a worker on a separate NATS server.
struct JetStream;

impl InboxFactory for JetStream {
    type Inbox = JetStreamInbox;

    async fn open(
        &self,
        router: EventRouter,
        delivery: DeliverySettings,
    ) -> Opened<JetStreamInbox> {
        let server = Server::start().await;
        let stream = StreamSettings::new().create_if_missing();
        let inbox = JetStreamInbox::builder(server.context().await);
        let inbox = inbox.stream(stream.clone()).open().await.unwrap();
        let context = server.context().await;
        let worker = JetStreamWorker::builder(context.clone(), "contract")
            .stream(stream)
            .delivery(delivery)
            .start(router)
            .await
            .unwrap();
        let (dead_letters, events) = (worker.dead_letters(), worker.events());
        let wait_idle = move || wait_idle(context.clone(), worker.clone());
        Opened::new(inbox)
            .wait_idle(wait_idle)
            .dead_letters(dead_letters)
            .events(events)
            .keeping(server)
    }
}

crate::contract_tests! { #[tokio::test] JetStream }
