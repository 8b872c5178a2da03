//! The setup that the tests of workers share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::Context;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, DeliverySettings, Event, Inbox, JetStreamInbox, JetStreamWorker,
    JetStreamWorkerBuilder, RetryPolicy, StreamSettings, WorkerStats,
};
use tracing::subscriber::DefaultGuard;

use crate::support::nats::{Server, until};
use crate::support::subscriber::{self, Captured};

pub(crate) fn settings() -> StreamSettings {
    StreamSettings::new().create_if_missing()
}

pub(crate) async fn inbox(context: &Context) -> JetStreamInbox {
    let inbox = JetStreamInbox::builder(context.clone()).stream(settings());
    inbox.open().await.unwrap()
}

/// Starts a server with additional lines in its configuration, and a receiver.
pub(crate) async fn set_up(configuration: &str) -> (Server, Context, JetStreamInbox) {
    let server = Server::start_with(configuration).await;
    let context = server.context().await;
    let inbox = inbox(&context).await;
    (server, context, inbox)
}

/// Returns the builder of a worker that retries without delay.
pub(crate) fn worker(context: &Context) -> JetStreamWorkerBuilder {
    JetStreamWorker::builder(context.clone(), "team")
        .stream(settings())
        .delivery(delivery())
}

/// Returns settings that retry without delay.
pub(crate) fn delivery() -> DeliverySettings {
    let retry = RetryPolicy::new().initial_delay(Duration::ZERO);
    DeliverySettings::new().retry(retry)
}

pub(crate) fn event(event_type: &str, id: &str) -> Event {
    MockRequest::event(event_type).message_id(id).to_event()
}

pub(crate) async fn send(inbox: &JetStreamInbox, event_type: &str, id: &str) {
    let accepted = inbox.accept(event(event_type, id)).await;
    assert_eq!(accepted, Ok(Accepted::New));
}

/// The runs of handlers, in starting order: the route, the event's id, and the attempt.
#[derive(Clone, Default)]
pub(crate) struct Runs(Arc<Mutex<Vec<(String, String, u32)>>>);

impl Runs {
    pub(crate) fn add(&self, route: &str, event: &Event) {
        let run = (route.to_owned(), event.id().to_owned(), event.attempt());
        self.0.lock().unwrap().push(run);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub(crate) fn all(&self) -> Vec<(String, String, u32)> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn of(&self, route: &str) -> Vec<(String, u32)> {
        let all = self.all().into_iter();
        all.filter(|run| run.0 == route)
            .map(|run| (run.1, run.2))
            .collect()
    }

    /// Returns the ids of the events that a route ran, in order.
    pub(crate) fn ids(&self, route: &str) -> Vec<String> {
        self.of(route).into_iter().map(|run| run.0).collect()
    }

    /// Returns a handler that only records its run.
    pub(crate) fn noting(
        &self,
        route: &'static str,
    ) -> impl FnOnce(Event) -> std::future::Ready<()> + Clone + Send + Sync + 'static {
        let runs = self.clone();
        move |event: Event| {
            runs.add(route, &event);
            std::future::ready(())
        }
    }
}

/// The captured log of this thread.
pub(crate) struct Log {
    captured: Captured,
    _guard: DefaultGuard,
}

impl Log {
    pub(crate) fn capture() -> Self {
        let (captured, guard) = subscriber::capture("botisimo_webhooks=info");
        Self {
            captured,
            _guard: guard,
        }
    }

    pub(crate) fn text(&self) -> String {
        self.captured.text()
    }

    pub(crate) fn count(&self, text: &str) -> usize {
        self.text().matches(text).count()
    }

    /// Returns the number of warnings about a stall with this cause, and of lines about its end. A busy machine may also log stalls
    /// with other causes.
    pub(crate) fn stalls(&self, cause: &str) -> (usize, usize) {
        let text = self.text();
        let count = |message: &str| {
            let lines = text.lines();
            let lines = lines.filter(|line| line.contains(message) && line.contains(cause));
            lines.count()
        };
        (
            count("the worker is stalled"),
            count("the worker has recovered"),
        )
    }
}

#[track_caller]
pub(crate) fn balanced(stats: &WorkerStats) {
    assert_eq!(
        stats.taken,
        stats.acked + stats.retried + stats.dead + stats.returned + stats.running,
        "{stats:?}"
    );
}

/// Waits until this number of events has ended and no event runs.
pub(crate) async fn wait_idle(worker: &JetStreamWorker, ended: u64) {
    until("all events have ended", async || {
        let stats = worker.stats();
        balanced(&stats);
        stats.acked + stats.dead >= ended && stats.running == 0
    })
    .await;
}
