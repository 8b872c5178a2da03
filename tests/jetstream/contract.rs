//! The inbox on JetStream, with a worker, satisfies the contract of inboxes.

use std::time::Duration;

use crate::support::contract::{InboxFactory, Opened};
use crate::support::nats::Server;
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

/// Waits until the server and the worker are idle.
async fn wait_idle(context: async_nats::jetstream::Context, worker: JetStreamWorker) {
    use futures_util::TryStreamExt;

    loop {
        let stream = context.get_stream("BOTISIMO").await.unwrap();
        let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
        let left = |info: &async_nats::jetstream::consumer::Info| {
            info.num_pending > 0 || info.num_ack_pending > 0
        };
        if worker.stats().running == 0 && !consumers.iter().any(left) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

crate::contract_tests! { #[tokio::test] JetStream }
