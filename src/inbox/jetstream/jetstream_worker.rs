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

/// Runs the handlers of the events that a [`JetStreamInbox`](crate::JetStreamInbox) accepted, in the same process or elsewhere.
///
/// A worker runs until it is [drained](JetStreamWorker::drain) or its runtime ends. Clones of a worker are the same worker.
///
/// # Groups and routes
///
/// Workers of one group share its events: the server delivers each event to one of them. Each group gets all events. A group has
/// one durable consumer on the server for each route, named `<group>-<route>`, with the route's filter. So the server knows what
/// each route has finished, delivers an event again only to the route that failed, and a slow route delays no other.
///
/// Routes are known by their names. A renamed route is a new one: it begins
/// [where new routes do](JetStreamWorkerBuilder::new_routes), and the old consumer keeps its unfinished events until an operator
/// deletes it with `nats consumer rm`. All workers of a group should have the same routes. While a new version is rolled out,
/// events of a new route wait for workers that have the route.
///
/// Event types with a subject of more than 512 bytes go to one more consumer, `<group>-=long`. No documented event type is that
/// long. This consumer runs all matching routes, and if one of them fails, all run again.
///
/// # At least once
///
/// A worker acknowledges an event once its route has succeeded. If the worker crashes before, or loses the server for longer than
/// [`ack_wait`](JetStreamWorkerBuilder::ack_wait), the server delivers the event to another worker. So make handlers idempotent by
/// [`Event::id`](crate::Event::id).
///
/// A worker that can't record a result doesn't repeat the handler: it sends the acknowledgement, or stores the dead letter, until
/// the server accepts it.
///
/// # Positions
///
/// Each worker stores what its group has finished in the stream of checkpoints. If an operator deletes a consumer, the worker
/// creates it again behind the last finished event, also if no worker ran in between. If the stream is deleted, or a server comes
/// back empty, the worker waits for a new stream, or creates it if
/// [`create_if_missing`](crate::StreamSettings::create_if_missing) is set, and runs all of its events.
///
/// # Stalls
///
/// While an operation fails, the worker tries again. [`WorkerStats::stalls`] has the route, the beginning and the cause, and the log
/// has a warning at first and once a minute, and a line at the end.
///
/// # Dead letters
///
/// If a route fails for good, the worker publishes a dead letter to a stream of its own, named as the stream of events with `_DEAD`
/// appended, and then acknowledges the event. One letter is about one route. A letter larger than the server accepts is stored
/// without its body, and its [`cause`](crate::DeadLetter::cause) says so. A stream of dead letters that is created has a quarter of the
/// [bytes](crate::StreamSettings::max_bytes) of the stream of events, and drops the oldest letters when it is full.
/// [`replay`](DeadLetters::replay) runs only that route, as a new event with its own id.
///
/// # Order
///
/// Ordering keys aren't supported on JetStream: several workers pull from one consumer, and a retry runs after later events. Use
/// `SqliteInbox` with `ordering_key` if the order matters.
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
/// let worker = JetStreamWorker::builder(async_nats::jetstream::new(client), "board")
///     .stream(StreamSettings::new().replicas(3).create_if_missing())
///     .start(router)
///     .await?;
/// // … on SIGTERM:
/// let drained = worker.drain(Duration::from_secs(25)).await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JetStreamWorker {
    inner: Arc<WorkerInner>,
}

impl JetStreamWorker {
    /// Returns a builder for a worker of a group. `context` is the JetStream context of the user's client. A group is 1 to 64 of
    /// `A-Z a-z 0-9 _`.
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

    /// Returns the counts and the stalls at this moment.
    #[must_use]
    pub fn stats(&self) -> WorkerStats {
        self.inner.stats()
    }

    /// Stops pulling events, then waits until the running ones have ended, but no longer than `within`. Returns how many remain. Events
    /// that the server still delivers are returned to it at once.
    ///
    /// Nothing is cancelled. A drain takes up to a second even if nothing runs. It is idempotent: a second call waits for the same
    /// events.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the worker pulls no more events, even if the future is dropped.
    pub fn drain(&self, within: Duration) -> impl Future<Output = Drained> + Send + use<> {
        drain(Arc::clone(&self.inner), within)
    }

    /// Returns the dead letters of the group, to list, replay or delete them. Their ids are the sequences in the stream of dead letters.
    ///
    /// A worker can't replay a letter of a route that it doesn't have: `replay` returns an error, and `replay_matching` skips it.
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
