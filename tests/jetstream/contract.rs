//! The contract of inboxes, on JetStream.

use std::time::Duration;

use crate::support::nats::Server;
use botisimo_webhooks::testing::contract::{self, Candidate, Opened, Terms};
use botisimo_webhooks::{EventRouter, JetStreamInbox, JetStreamWorker, StreamSettings};

/// A receiver and a worker, over a server of their own.
struct JetStream;

impl Candidate for JetStream {
    type Inbox = JetStreamInbox;

    async fn open(&self, router: EventRouter, terms: Terms) -> Opened<JetStreamInbox> {
        let server = Server::start().await;
        let settings = StreamSettings::new().create_if_missing();
        let inbox = JetStreamInbox::builder(server.context().await);
        let inbox = inbox.stream(settings.clone()).open().await.unwrap();
        let context = server.context().await;
        let worker = JetStreamWorker::builder(context.clone(), "contract")
            .stream(settings)
            .retry(terms.retry)
            .attempt_timeout(terms.attempt_timeout)
            .start(router)
            .await
            .unwrap();
        let dead_letters = worker.dead_letters();
        let wait_idle = move || wait_idle(context.clone(), worker.clone());
        Opened::new(inbox)
            .wait_idle(wait_idle)
            .dead_letters(dead_letters)
            .keeping(server)
    }
}

/// Waits until the server has nothing for the worker, and the worker has nothing.
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

macro_rules! laws {
    ($($law:ident)*) => {$(
        #[tokio::test]
        async fn $law() {
            contract::$law(&JetStream).await;
        }
    )*};
}

laws! {
    events_are_delivered_as_they_came
    copies_are_taken_once
    of_concurrent_copies_one_is_taken
    an_accept_that_was_never_polled_takes_nothing
    an_accept_that_is_dropped_is_all_or_nothing
    new_events_are_refused_after_a_drain
    only_routes_that_failed_run_again
    attempts_end
    a_failure_for_good_is_not_tried_again
    a_handler_hurts_no_other
    what_is_given_up_can_be_replayed
}
