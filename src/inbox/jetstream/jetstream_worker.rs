use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::future::{Either, select};

use super::pull_loop::pull;
use super::worker_inner::WorkerInner;
use super::{JetStreamWorkerBuilder, WorkerStats, monitor};
use crate::inbox::{DeadLetterStore, DeadLetters, Drained};

/// Runs the handlers of events that a [`JetStreamInbox`](crate::JetStreamInbox) took, in this process or in
/// another one. Its clones are the same worker, which goes on until it is [drained](JetStreamWorker::drain)
/// or its runtime ends.
///
/// # Groups and routes
///
/// Workers of one group share its events: each goes to one of them. Each group gets all events. A group has
/// one durable consumer a route on the server, named `<group>-<route>`, with one filter: the server knows
/// what each route has done, delivers again only what failed, and a route that is slow or poisoned stalls
/// itself alone.
///
/// So routes are known by their names, as in every durable inbox: a route that is renamed is a new one, and
/// begins [where new ones do](JetStreamWorkerBuilder::new_routes); the consumer of the old name stays, and
/// with it what it hasn't done, until it is deleted by hand (`nats consumer rm`). All workers of a group
/// should have the same routes; while a new version is rolled out, events of a new route wait for the
/// workers that have it.
///
/// Event types whose subject would be longer than 512 bytes, of which none is documented, go to one more
/// consumer, `<group>-=long`, which runs all routes that match. When one of them fails, all run again.
///
/// # At least once
///
/// An event is acknowledged once its route has done its work. If a worker dies in the middle, or is cut off
/// from the server for longer than [`ack_wait`](JetStreamWorkerBuilder::ack_wait), it is delivered to
/// another one, which may run what the first had all but finished: make handlers idempotent by
/// [`Event::id`](crate::Event::id).
///
/// # Dead letters
///
/// The worker publishes a dead letter to a second stream, whose name is the name of the events' stream and `_DEAD`. It
/// acknowledges the event once that stream has stored the letter. One letter is about one route. If the worker creates the
/// stream, it has a quarter of the [bytes](crate::StreamSettings::max_bytes) of the events' stream, and a full one drops the
/// oldest letters. [`replay`](DeadLetters::replay) runs the route of the letter only, as a new event with a new id.
///
/// # Order
///
/// Events of one key can't be put in order here: several workers pull from one consumer, and a retry comes
/// after what followed. Where that matters there is `SqliteInbox`, with `ordering_key`.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use botisimo_webhooks::{Event, EventRouter, JetStreamWorker, StreamSettings};
///
/// # async fn work() -> Result<(), Box<dyn std::error::Error>> {
/// let client = async_nats::connect("localhost:4222").await?;
/// let router = EventRouter::new()
///     .on("account.updated", |event: Event| async move { println!("{}", event.id()) });
/// let worker = JetStreamWorker::builder(async_nats::jetstream::new(client), "worker")
///     .stream(StreamSettings::new().replicas(3).create_if_missing())
///     .start(router)
///     .await?;
/// // … until the process is told to end, then:
/// let drained = worker.drain(Duration::from_secs(25)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JetStreamWorker {
    inner: Arc<WorkerInner>,
}

impl JetStreamWorker {
    /// Returns a builder, over the JetStream context of the user's client, for a worker of a group. A group
    /// is 1 to 64 of `A-Z a-z 0-9 _`.
    pub fn builder(context: Context, group: impl Into<String>) -> JetStreamWorkerBuilder {
        JetStreamWorkerBuilder::new(context, group.into())
    }

    pub(super) async fn start(inner: Arc<WorkerInner>, consumers: Vec<PullConsumer>) -> Self {
        inner.read_server_time().await;
        let runtime = &inner.executor.runtime;
        for (route, consumer) in inner.routes.iter().zip(consumers) {
            runtime.spawn(Box::pin(pull(
                Arc::clone(&inner),
                Arc::clone(route),
                consumer,
            )));
        }
        runtime.spawn(Box::pin(monitor::store_checkpoints(Arc::clone(&inner))));
        runtime.spawn(Box::pin(monitor::watch(Arc::clone(&inner))));
        Self { inner }
    }

    /// Returns the counts of this moment.
    #[must_use]
    pub fn stats(&self) -> WorkerStats {
        self.inner.stats()
    }

    /// Stops pulling events, waits until the running events have ended, for at most `within`, and returns the
    /// number of the others. Events that the server still sends are returned to it at once.
    ///
    /// A drain cancels nothing. It takes up to a second, even if nothing runs. It is idempotent: a second call
    /// waits for the same events.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the worker takes no more events also when the future is dropped.
    pub fn drain(&self, within: Duration) -> impl Future<Output = Drained> + Send + use<> {
        drain(Arc::clone(&self.inner), within)
    }

    /// Returns the dead letters of all workers of the group, to list, replay or delete them. Their ids are the
    /// sequence numbers in the stream of dead letters.
    ///
    /// A letter of a route that this worker doesn't have can't be replayed by it: `replay` says so, and
    /// `replay_matching` passes it over.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(Arc::clone(&self.inner.dead_letters) as Arc<dyn DeadLetterStore>)
    }
}

async fn drain(inner: Arc<WorkerInner>, within: Duration) -> Drained {
    inner.drain();
    let sleep = inner.executor.runtime.sleep(within);
    let idle = Box::pin(async {
        inner.idle().await;
        inner.consumers.store_checkpoints().await;
        // Returned events are on their way to the server, and no longer in this process.
        let _ = inner.consumers.context.client().flush().await;
    });
    match select(idle, sleep).await {
        Either::Left(_) => Drained::new(0),
        Either::Right(_) => Drained::new(inner.stats().running),
    }
}

impl fmt::Debug for JetStreamWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamWorker")
            .field("stats", &self.inner.stats())
            .finish_non_exhaustive()
    }
}
