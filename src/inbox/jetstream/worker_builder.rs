use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::Context;
use tokio::sync::watch;
use tower_service::Service;

use super::checkpoints::Checkpoints;
use super::consumers::{ConsumerOptions, Consumers};
use super::dead_letter_stream::DeadLetterStream;
use super::plan::{Plan, plans};
use super::route_consumer::RouteConsumer;
use super::stalls::Stalls;
use super::subjects::is_plain;
use super::worker_inner::WorkerInner;
use super::{JetStreamWorker, StreamSettings, stream};
use crate::delivery::{DeliverySettings, ErasedService, JobExecutor};
use crate::error::{BoxError, Error, ErrorKind};
use crate::event::Event;
use crate::outcome::Report;
use crate::router::EventRouter;
use crate::runtime::{Runtime, TokioRuntime};
use crate::telemetry;

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
    context: Context,
    group: String,
    stream: StreamSettings,
    delivery: DeliverySettings,
    max_ack_pending: u32,
    consumers: ConsumerOptions,
    fallback: bool,
    /// `concurrency` and `max_ack_pending` of single routes.
    concurrency: HashMap<String, usize>,
    route_max_ack_pending: HashMap<String, u32>,
}

impl JetStreamWorkerBuilder {
    pub(super) fn new(context: Context, group: String) -> Self {
        Self {
            context,
            group,
            stream: StreamSettings::new(),
            delivery: DeliverySettings::new(),
            max_ack_pending: 10_000,
            consumers: ConsumerOptions {
                ack_wait: Duration::from_secs(30),
                first_start: StartAt::Beginning,
                new_routes: StartAt::Now,
            },
            fallback: false,
            concurrency: HashMap::new(),
            route_max_ack_pending: HashMap::new(),
        }
    }

    /// Sets the stream of events. The default is [`StreamSettings::new`].
    pub fn stream(mut self, settings: StreamSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Sets how the worker runs the handlers. The default is [`DeliverySettings::new`]. A second call replaces the first.
    ///
    /// The worker runs [`concurrency`](DeliverySettings::concurrency) events of each route at once, by default 16. The worker
    /// pulls no more events than it can run. Further events wait in the stream, for any worker.
    ///
    /// Ordering keys aren't supported: [`start`](Self::start) returns an error if the settings have one.
    pub fn delivery(mut self, settings: DeliverySettings) -> Self {
        self.delivery = settings;
        self
    }

    /// Sets [`concurrency`](DeliverySettings::concurrency) for the route of this name. 0 counts as 1.
    pub fn route_concurrency(mut self, route: impl Into<String>, events: usize) -> Self {
        self.concurrency.insert(route.into(), events.max(1));
        self
    }

    /// Sets how many unacknowledged events of a route the server delivers to the whole group, unless
    /// [`route_max_ack_pending`](Self::route_max_ack_pending) is set for the route. The default is 10,000. 0 counts as 1.
    ///
    /// Events that wait for a retry also count. If `max_ack_pending` events wait, the route stalls until one of them is due. So set
    /// a number above the total concurrency of all workers, plus the events that may fail within the longest delay of the
    /// [`RetryPolicy`](crate::RetryPolicy).
    pub fn max_ack_pending(mut self, events: u32) -> Self {
        self.max_ack_pending = events.max(1);
        self
    }

    /// Sets [`max_ack_pending`](Self::max_ack_pending) for the route of this name.
    pub fn route_max_ack_pending(mut self, route: impl Into<String>, events: u32) -> Self {
        self.route_max_ack_pending
            .insert(route.into(), events.max(1));
        self
    }

    /// Sets how long the server waits for a progress signal before it delivers the event to another worker. The default is 30 s. A
    /// worker sends three signals in that time while its handler runs. Less than 100 ms counts as 100 ms.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.consumers.ack_wait = ack_wait.max(Duration::from_millis(100));
        self
    }

    /// Delivers events to the router's fallback. By default, the fallback gets no events: the server doesn't know which events
    /// match no other route, so it would deliver every event to the worker.
    pub fn deliver_fallback(mut self) -> Self {
        self.fallback = true;
        self
    }

    /// Sets where the routes of a new group start. The default is the [beginning](StartAt::Beginning), so that earlier events
    /// aren't lost.
    pub fn first_start(mut self, at: StartAt) -> Self {
        self.consumers.first_start = at;
        self
    }

    /// Sets where a route starts when it is added to an existing group. The default is [now](StartAt::Now): a new mailing shouldn't
    /// be sent for last week's events.
    pub fn new_routes(mut self, at: StartAt) -> Self {
        self.consumers.new_routes = at;
        self
    }

    /// Opens the streams and the consumers, creates missing consumers, and starts the worker.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::Inbox`] if the server doesn't answer, if a stream is missing or doesn't fit, or if an existing consumer
    ///   differs from the settings. The error message names each difference, and the consumer stays unchanged.
    /// - [`ErrorKind::Inbox`] if the settings of delivery have an ordering key.
    /// - [`ErrorKind::Route`] if a setting names a route that the router doesn't have.
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
        self.open(router, service).await
    }

    async fn open(
        self,
        router: EventRouter,
        service: ErasedService,
    ) -> Result<JetStreamWorker, Error> {
        self.check(&router)?;
        if !self.fallback && router.routes().any(|route| route.is_fallback()) {
            telemetry::fallback_without_events();
        }
        let (context, settings) = (&self.context, &self.stream);
        let pending = |route: &str| {
            let pending = self.route_max_ack_pending.get(route).copied();
            pending.unwrap_or(self.max_ack_pending)
        };
        let subjects = settings.subjects();
        let plans = plans(&router, &self.group, &subjects, self.fallback, pending);
        let names: Vec<_> = plans.iter().map(|plan| plan.consumer.clone()).collect();
        let runtime: Arc<dyn Runtime> = Arc::new(TokioRuntime::new());
        let stalls = Arc::new(Stalls::new(Arc::clone(&runtime)));
        let checkpoints = Arc::new(Checkpoints::new(context, settings, &self.group));
        let consumers = Consumers {
            context: context.clone(),
            settings: settings.clone(),
            options: self.consumers,
            checkpoints: Arc::clone(&checkpoints),
            stalls: Arc::clone(&stalls),
            runtime: Arc::clone(&runtime),
            loaded: Mutex::default(),
            names: names.clone(),
        };
        let stream = stream::open(context, settings).await?;
        let opened = consumers.open(&stream, &plans).await?;
        let dead_letters = DeadLetterStream::open(context, settings, &self.group, names).await?;
        let route = |plan: Plan| {
            let permits = self.concurrency.get(&*plan.name).copied();
            let permits = permits.unwrap_or(self.delivery.route_concurrency());
            Arc::new(RouteConsumer::new(plan, permits, self.consumers.ack_wait))
        };
        let inner = WorkerInner {
            routes: plans.into_iter().map(route).collect(),
            executor: JobExecutor::new(service, runtime, self.delivery.clone()),
            router,
            consumers,
            checkpoints,
            dead_letters: Arc::new(dead_letters),
            stalls,
            ack_wait: self.consumers.ack_wait,
            max_delay: stream.cached_info().config.max_age / 2,
            server_clock: Mutex::default(),
            counters: Mutex::default(),
            draining: watch::Sender::new(false),
        };
        let (routes, inner) = (inner.routes.len(), Arc::new(inner));
        let worker = JetStreamWorker::start(inner, opened).await;
        telemetry::worker_started(&self.group, settings.stream_name(), routes);
        Ok(worker)
    }

    /// Returns an error if a consumer's name could clash with another group's, if there is an ordering key, or if a setting names
    /// an unknown route.
    fn check(&self, router: &EventRouter) -> Result<(), Error> {
        let group = &self.group;
        // A hyphen separates the group from the route.
        if !is_plain(group) || group.contains('-') {
            let text = format!("a group is 1 to 64 characters from `A-Z a-z 0-9 _`, not {group:?}");
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        if self.delivery.order.is_set() {
            let text = "a JetStream worker doesn't support an ordering key: remove `ordering_key`, or use `SqliteInbox`";
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        for name in self
            .concurrency
            .keys()
            .chain(self.route_max_ack_pending.keys())
        {
            if !router.routes().any(|route| route.name() == name) {
                let text =
                    format!("a setting names the route {name:?}, which the router doesn't have");
                return Err(Error::new(ErrorKind::Route, text));
            }
        }
        Ok(())
    }
}
