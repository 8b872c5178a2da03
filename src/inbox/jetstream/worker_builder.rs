use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::Context;
use tower_service::Service;

use super::worker_inner::WorkerInner;
use super::worker_options::WorkerOptions;
use super::{JetStreamWorker, StreamSettings};
use crate::delivery::{DeliverySettings, ErasedService};
use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::outcome::Report;
use crate::router::EventRouter;

/// Where in the stream a route starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// The oldest event that the stream has.
    Beginning,
    /// The next event that the stream accepts.
    Now,
}

/// Configures and starts a [`JetStreamWorker`].
#[derive(Clone, Debug)]
#[must_use]
pub struct JetStreamWorkerBuilder {
    pub(super) context: Context,
    pub(super) stream: StreamSettings,
    pub(super) delivery: DeliverySettings,
    pub(super) options: WorkerOptions,
}

impl JetStreamWorkerBuilder {
    pub(super) fn new(context: Context, group: String) -> Self {
        Self {
            context,
            stream: StreamSettings::new(),
            delivery: DeliverySettings::new(),
            options: WorkerOptions::new(group),
        }
    }

    /// Sets the stream of events. The default is [`StreamSettings::new`].
    pub fn stream(mut self, settings: StreamSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Sets how the worker runs the handlers. The default is [`DeliverySettings::new`]. A second call replaces the first.
    ///
    /// The worker runs [`concurrency`](DeliverySettings::concurrency) events of each route at once, by default 16.
    /// [`EventRouter::concurrency`] overrides the number for one route. The worker pulls no more events than it can run. Further
    /// events wait in the stream, for any worker.
    ///
    /// Ordering keys and [`EventRouter::once_per`] aren't supported: [`start`](Self::start) returns an error if the settings or the
    /// router use them.
    pub fn delivery(mut self, settings: DeliverySettings) -> Self {
        self.delivery = settings;
        self
    }

    /// Sets how many unacknowledged events of a route the server delivers to the whole group, unless
    /// [`route_max_ack_pending`](Self::route_max_ack_pending) is set for the route. The default is 10,000. 0 counts as 1.
    ///
    /// Events that wait for a retry also count. If `max_ack_pending` events wait, the route stalls until one of them is due. So set
    /// a number above the total concurrency of all workers, plus the events that may fail within the longest delay of the
    /// [`RetryPolicy`](crate::RetryPolicy).
    pub fn max_ack_pending(mut self, events: u32) -> Self {
        self.options.max_ack_pending = events.max(1);
        self
    }

    /// Sets [`max_ack_pending`](Self::max_ack_pending) for the route with this name.
    pub fn route_max_ack_pending(mut self, route: impl Into<String>, events: u32) -> Self {
        let max_ack_pending = &mut self.options.route_max_ack_pending;
        max_ack_pending.insert(route.into(), events.max(1));
        self
    }

    /// Sets how long the server waits for a progress signal before it delivers the event to another worker. The default is 30 s. A
    /// worker sends three signals in that time while its handler runs. Less than 100 ms counts as 100 ms.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.options.ack_wait = ack_wait.max(Duration::from_millis(100));
        self
    }

    /// Delivers events to the router's fallback. By default, the fallback gets no events: the server doesn't know which events
    /// match no other route, so it would deliver every event to the worker.
    pub fn deliver_fallback(mut self) -> Self {
        self.options.deliver_fallback = true;
        self
    }

    /// Sets where the routes of a new group start. The default is the [beginning](StartAt::Beginning), so that earlier events
    /// aren't lost.
    pub fn first_start(mut self, at: StartAt) -> Self {
        self.options.first_start = at;
        self
    }

    /// Sets where a route starts when it is added to an existing group. The default is [now](StartAt::Now): a new mailing shouldn't
    /// be sent for last week's events.
    pub fn new_routes(mut self, at: StartAt) -> Self {
        self.options.new_routes = at;
        self
    }

    /// Opens the streams and the consumers, creates missing consumers, and starts the worker.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the server doesn't answer, if a stream is missing or doesn't fit, or if an
    ///   existing consumer differs from the settings. The error message names each difference, and the consumer stays unchanged.
    /// - [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the name of the group isn't valid, if the settings of delivery have an
    ///   ordering key, or if a route has [`once_per`](EventRouter::once_per).
    /// - [`ErrorKind::Route`](crate::ErrorKind::Route) if a setting names a route that the router doesn't have.
    ///
    /// # Panics
    ///
    /// Panics if the future isn't polled on tokio, which the client requires.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some streams and consumers may have been created. No worker runs.
    pub async fn start(self, router: EventRouter) -> Result<JetStreamWorker, Error> {
        self.start_layered(router, |router| router).await
    }

    /// Starts the worker as [`start`](Self::start) does, with tower layers around the router.
    ///
    /// The router defines the consumers, and `layer` is called once with the router. Each attempt calls the service for one route,
    /// and the router in the service runs only that route.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use botisimo_webhooks::{Error, EventRouter, JetStreamWorker};
    ///
    /// # async fn work(context: async_nats::jetstream::Context, router: EventRouter) -> Result<(), Error> {
    /// let worker = JetStreamWorker::builder(context, "board")
    ///     .start_layered(router, |router| {
    ///         tower::ServiceBuilder::new().timeout(Duration::from_secs(5)).service(router)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`start`](Self::start).
    pub async fn start_layered<S>(
        self,
        router: EventRouter,
        layer: impl FnOnce(EventRouter) -> S,
    ) -> Result<JetStreamWorker, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        router.validate()?;
        let service = ErasedService::new(layer(router.clone()))?;
        let (inner, consumers) = WorkerInner::open(self, router, service).await?;
        Ok(JetStreamWorker::start(Arc::new(inner), consumers))
    }
}
