use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::PullConsumer;
use futures_util::future::join;

use super::event_stream::EventStream;
use super::pull_loop::pull;
use super::worker_inner::WorkerInner;
use super::{JetStreamWorkerBuilder, WorkerStats};
use crate::inbox::{
    DeadLetterStore, DeadLetters, Drain, Drained, EventLog, Health, HealthLimits, InboxInfo,
    Monitor, Monitored, Shutdown, evaluate,
};
use crate::router::EventRouter;
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry;

/// Runs the handlers of the events that a [`JetStreamInbox`](crate::JetStreamInbox) accepted, in the same process or elsewhere.
///
/// A worker runs until it is [drained](JetStreamWorker::drain) or its runtime shuts down. Clones of a worker are the same worker.
///
/// # Groups and routes
///
/// The workers of a group share the events: the server delivers each event to one of them. Each group gets all events. A group has
/// one durable consumer on the server for each route, named `<group>-<route>`, with the route's filter. So the server tracks each
/// route's progress and redelivers an event only to the route that failed. A slow route doesn't delay other routes.
///
/// Routes are identified by their names. A renamed route is a new route: it starts where
/// [`new_routes`](JetStreamWorkerBuilder::new_routes) says. The old consumer keeps its unfinished events until an operator deletes
/// it with `nats consumer rm`. All workers of a group should have the same routes. During the rollout of a new version, events of a
/// new route wait for workers that have the route.
///
/// Event types with a subject of more than 512 bytes go to one more consumer, `<group>-=long`. No documented event type is that
/// long. For each event of this consumer, the worker runs all matching routes. If one of these routes fails, all of them run again.
///
/// # At least once
///
/// A worker acknowledges an event once its route has succeeded. If the worker crashes before then, or is disconnected for longer
/// than [`ack_wait`](JetStreamWorkerBuilder::ack_wait), the server delivers the event to another worker. So make handlers
/// idempotent by [`Event::id`](crate::Event::id).
///
/// A worker that can't record a result doesn't repeat the handler: it keeps retrying the acknowledgement or the dead letter until
/// the server accepts it.
///
/// # Positions
///
/// Each worker stores its group's finished events in the stream of checkpoints. If an operator deletes a consumer, a worker
/// recreates the consumer, starting after the last finished event, even if no worker was running at the time of the deletion. If
/// the stream is deleted, or a server restarts without its data, the worker waits for a new stream and then runs all events of the
/// new stream. If [`create_if_missing`](crate::StreamSettings::create_if_missing) is set, the worker creates the stream.
///
/// # Stalls
///
/// While an operation is failing, the worker retries it. [`health`](JetStreamWorker::health) returns a problem with the route, the
/// start time and the cause. The worker logs a warning immediately and then every minute, and logs the recovery.
///
/// # Dead letters
///
/// If a route fails permanently, the worker publishes a dead letter to a separate stream, named after the event stream plus
/// `_DEAD`. Then it acknowledges the event. Each letter is about one route. If a letter is larger than the server accepts, the
/// worker stores it without its body, and the letter's [`cause`](crate::DeadLetter::cause) says so. If the worker creates the
/// dead-letter stream, the stream gets a quarter of the event stream's [`max_bytes`](crate::StreamSettings::max_bytes). A full
/// dead-letter stream drops the oldest letters. [`replay`](DeadLetters::replay) runs only the letter's route, for a new event with
/// its own id.
///
/// # Order
///
/// Ordering keys aren't supported on JetStream: several workers pull from one consumer, and a retry runs after later events. Use
/// `SqliteInbox` with `ordering_key` if the order matters.
///
/// # Examples
///
/// ```no_run
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
/// let drained = worker.shutdown_on_signal().await?; // runs until SIGTERM or Ctrl-C
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct JetStreamWorker {
    inner: Arc<WorkerInner>,
}

impl JetStreamWorker {
    /// Returns a builder for a worker of a group. `context` is the JetStream context of the user's client. The group's name is 1 to
    /// 64 characters from `A-Z a-z 0-9 _`.
    pub fn builder(context: Context, group: impl Into<String>) -> JetStreamWorkerBuilder {
        JetStreamWorkerBuilder::new(context, group.into())
    }

    pub(super) fn start(inner: Arc<WorkerInner>, consumers: Vec<PullConsumer>) -> Self {
        let runtime = &inner.connection.runtime;
        for (route, consumer) in inner.routes.iter().zip(consumers) {
            let (worker, route) = (Arc::clone(&inner), Arc::clone(route));
            let draining = inner.connection.draining.subscribe();
            runtime.spawn(Box::pin(pull(worker, route, consumer, draining)));
        }
        let worker = Arc::clone(&inner);
        runtime.spawn(Box::pin(async move { worker.checkpoints.run().await }));
        Monitor::wake(&inner);
        let (group, stream) = (&inner.options.group, &inner.connection.settings.name);
        let routes = inner.router.routes().len();
        telemetry::worker_started(group, stream, routes);
        if routes == 0 {
            telemetry::router_without_routes();
        }
        Self { inner }
    }

    /// Returns the current counts.
    #[must_use]
    pub fn stats(&self) -> WorkerStats {
        self.inner.stats()
    }

    /// Returns what is wrong now with the worker and its routes. See [`Handle::health`](crate::Handle::health).
    ///
    /// Each stall is a problem.
    pub fn health(&self) -> Health {
        evaluate(&*self.inner)
    }

    /// Adds a hook that runs each time a problem begins, ends or changes its cause. See
    /// [`Handle::on_health_change`](crate::Handle::on_health_change).
    pub fn on_health_change(&self, hook: impl Fn(&Health) + Send + Sync + 'static) {
        self.inner.connection.monitor.add_hook(Arc::new(hook));
    }

    /// Sets the limits above which the worker reports a problem. The default is [`HealthLimits::new`].
    ///
    /// The limits of requests and of the age of events don't apply to a worker.
    pub fn set_health_limits(&self, limits: HealthLimits) {
        self.inner.connection.monitor.set_limits(limits);
    }

    /// Stops pulling events, then waits until the running events have ended, but at most `within`. Returns how many events remain.
    /// If the server still delivers an event, the worker returns it immediately.
    ///
    /// Nothing is cancelled. A drain takes up to a second even if nothing runs. It is idempotent: a second call waits for the same
    /// events.
    ///
    /// # Cancel safety
    ///
    /// Once the future has been polled, the worker pulls no more events, even if the future is dropped.
    pub fn drain(&self, within: Duration) -> impl Future<Output = Drained> + Send + use<> {
        drain(Arc::clone(&self.inner), within)
    }

    /// Returns a [`Shutdown`]. Await it to run the worker until SIGTERM or Ctrl-C, and then to drain. On Windows, only
    /// Ctrl-C counts.
    ///
    /// If the process also receives webhooks, shut both down together: see [`Shutdown::also_drain`].
    #[cfg(feature = "signal")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signal")))]
    pub fn shutdown_on_signal(&self) -> Shutdown {
        Shutdown::on_signal(self.clone(), Arc::clone(&self.inner.connection.runtime))
    }

    /// Returns a [`Shutdown`]. Await it to run the worker until `stop` completes, and then to drain.
    pub fn shutdown_on(&self, stop: impl Future<Output = ()> + Send + 'static) -> Shutdown {
        let runtime = Arc::clone(&self.inner.connection.runtime);
        Shutdown::on(stop, self.clone(), runtime)
    }

    /// Returns the events that the group's consumers get, to list, replay or delete them. An event's id is its sequence number in
    /// the stream of events.
    ///
    /// `JetStreamInbox` returns the events of all groups. The [guide](crate::guide::events) describes the differences from other
    /// inboxes. Only this log contains the attempts that this worker ran.
    #[must_use]
    pub fn events(&self) -> EventLog {
        let worker = &self.inner;
        let (connection, log) = (Arc::clone(&worker.connection), Arc::clone(&worker.log));
        let store = EventStream::new(connection, Some(Arc::clone(worker)), log);
        EventLog::new(Arc::new(store))
    }

    /// Returns the worker with its monitor.
    pub(crate) fn monitored(&self) -> Arc<dyn Monitored> {
        Arc::clone(&self.inner) as _
    }

    pub(crate) fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.inner.connection.runtime)
    }

    pub(crate) fn router(&self) -> EventRouter {
        self.inner.router.clone()
    }

    /// Returns the kind and the stream of the worker.
    pub(crate) fn info(&self) -> InboxInfo {
        InboxInfo {
            kind: "jetstream worker",
            location: Some(self.inner.connection.settings.name.clone()),
            recovered: None,
            is_durable: true,
            limits: None,
        }
    }

    /// Returns the dead letters of the group, to list, replay or delete them. A letter's id is its sequence number in the
    /// dead-letter stream.
    ///
    /// A worker can't replay a letter of a route that it doesn't have: `replay` returns an error, and `replay_matching` skips the
    /// letter.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(Arc::clone(&self.inner.dead_letters) as Arc<dyn DeadLetterStore>)
    }
}

async fn drain(inner: Arc<WorkerInner>, within: Duration) -> Drained {
    let finish = async {
        inner.checkpoints.store().await;
        // Returned events are on their way to the server and no longer count as remaining.
        let _ = inner.connection.context.client().flush().await;
    };
    let running = inner.counts().running;
    // `join` polls the drain first, so the worker stops before the log says so.
    let started = async { telemetry::draining(running) };
    let (is_idle, ()) = join(inner.connection.drain(within, finish), started).await;
    let remaining = if is_idle { 0 } else { inner.counts().running };
    telemetry::drained(remaining);
    Drained::new(remaining)
}

impl Drain for JetStreamWorker {
    fn drain(&self, within: Duration) -> BoxFuture<Drained> {
        Box::pin(self.drain(within))
    }

    fn count(&self) -> BoxFuture<Drained> {
        Box::pin(ready(Drained::new(self.inner.counts().running)))
    }

    fn is_durable(&self) -> bool {
        true
    }
}

impl fmt::Debug for JetStreamWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JetStreamWorker")
            .field("stats", &self.inner.stats())
            .finish_non_exhaustive()
    }
}
