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
use crate::delivery::{
    Attempt, DeadLetter, ErasedService, ExecutorSettings, JobExecutor, RetryPolicy,
};
use crate::error::{BoxError, Error, ErrorKind};
use crate::event::Event;
use crate::outcome::Report;
use crate::router::EventRouter;
use crate::runtime::{Runtime, TokioRuntime};
use crate::telemetry;

/// Where in the stream a route begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartAt {
    /// With the oldest event that the stream has.
    Beginning,
    /// With the next one that comes.
    Now,
}

/// Sets up a [`JetStreamWorker`].
#[derive(Clone, Debug)]
#[must_use]
pub struct JetStreamWorkerBuilder {
    context: Context,
    group: String,
    stream: StreamSettings,
    delivery: ExecutorSettings,
    max_ack_pending: u32,
    consumers: ConsumerOptions,
    fallback: bool,
    /// The settings of single routes: the limits of running and of pending events.
    running: HashMap<String, usize>,
    pending: HashMap<String, u32>,
}

impl JetStreamWorkerBuilder {
    pub(super) fn new(context: Context, group: String) -> Self {
        Self {
            context,
            group,
            stream: StreamSettings::new(),
            delivery: ExecutorSettings {
                concurrency: 16,
                ..ExecutorSettings::default()
            },
            max_ack_pending: 10_000,
            consumers: ConsumerOptions {
                ack_wait: Duration::from_secs(30),
                first_start: StartAt::Beginning,
                new_routes: StartAt::Now,
            },
            fallback: false,
            running: HashMap::new(),
            pending: HashMap::new(),
        }
    }

    /// Sets which stream events are in. The default is [`StreamSettings::new`].
    pub fn stream(mut self, settings: StreamSettings) -> Self {
        self.stream = settings;
        self
    }

    /// Sets how many events of each route this worker runs at once, unless the route has a number
    /// [of its own](Self::route_concurrency). The default is 16. 0 counts as 1.
    ///
    /// No more than these are taken from the server: what waits, waits there, for any worker.
    pub fn concurrency(mut self, events: usize) -> Self {
        self.delivery.concurrency = events.max(1);
        self
    }

    /// Sets [`concurrency`](Self::concurrency) for the route of this name.
    pub fn route_concurrency(mut self, route: impl Into<String>, events: usize) -> Self {
        self.running.insert(route.into(), events.max(1));
        self
    }

    /// Sets how many events of each route the server has delivered to the whole group, and not seen
    /// acknowledged, at the most; unless the route has a number [of its own](Self::route_max_ack_pending). The
    /// default is 10,000. 0 counts as 1.
    ///
    /// Those that wait for their next attempt count, wherever they failed: when this many do, the route
    /// stands still until one is due. So it has to be more than all workers run at once, by as many as may
    /// fail within the longest wait of the [`RetryPolicy`].
    pub fn max_ack_pending(mut self, events: u32) -> Self {
        self.max_ack_pending = events.max(1);
        self
    }

    /// Sets [`max_ack_pending`](Self::max_ack_pending) for the route of this name.
    pub fn route_max_ack_pending(mut self, route: impl Into<String>, events: u32) -> Self {
        self.pending.insert(route.into(), events.max(1));
        self
    }

    /// Sets after which time without a sign of life an event is delivered to another worker. The default is
    /// 30 s. A worker gives such a sign three times as often, for as long as its handler runs. Less than
    /// 100 ms counts as 100 ms.
    pub fn ack_wait(mut self, ack_wait: Duration) -> Self {
        self.consumers.ack_wait = ack_wait.max(Duration::from_millis(100));
        self
    }

    /// Sets how long a route may take in one attempt. The default is 30 s. One that still runs then is
    /// dropped as [timed out](crate::Outcome::TimedOut).
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.delivery.attempt_timeout = timeout;
        self
    }

    /// Sets when a route that failed is tried again. The default is [`RetryPolicy::new`]: an event is dead
    /// after its fifth delivery.
    ///
    /// Attempts count deliveries. One that a worker died of counts, and so does one that was handed back by
    /// a drain; but an event is always tried before it is dead, unless five more deliveries than that came
    /// to no end.
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.delivery.retry = policy;
        self
    }

    /// Delivers events to the router's fallback, which by default isn't done: the server can't tell which
    /// events no other route takes, so all of them come to this worker only to be looked at.
    pub fn deliver_fallback(mut self) -> Self {
        self.fallback = true;
        self
    }

    /// Sets where the routes of a group begin that is started for the first time. The default is the
    /// [beginning](StartAt::Beginning), so that nothing is lost that came before it.
    pub fn first_start(mut self, at: StartAt) -> Self {
        self.consumers.first_start = at;
        self
    }

    /// Sets where a route begins that is added to a group later on. The default is [now](StartAt::Now): a
    /// new mailing shouldn't go out for the events of last week.
    pub fn new_routes(mut self, at: StartAt) -> Self {
        self.consumers.new_routes = at;
        self
    }

    /// Adds a hook that is called with every finished attempt, before the attempt is counted.
    ///
    /// It runs in the event's task, so it must not block. If it panics, that is logged and hurts nothing.
    pub fn on_attempt(self, hook: impl Fn(&Attempt) + Send + Sync + 'static) -> Self {
        self.delivery.on_attempt.add(Arc::new(hook));
        self
    }

    /// Adds a hook that is called with every dead letter of this worker, once it is stored.
    ///
    /// It runs in the event's task, so it must not block. If it panics, that is logged and hurts nothing.
    pub fn on_dead_letter(self, hook: impl Fn(&DeadLetter) + Send + Sync + 'static) -> Self {
        self.delivery.on_dead_letter.add(Arc::new(hook));
        self
    }

    /// Writes the texts of handlers' errors and panics to the log. By default only the route and the kind
    /// of failure are logged: the texts are the user's own and may hold what doesn't belong into a log.
    pub fn log_handler_errors(mut self) -> Self {
        self.delivery.log_errors = true;
        self
    }

    /// Opens the streams and the consumers, creates what isn't there, and begins to work.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Inbox`] if the server can't be asked, if a stream isn't there or doesn't fit, or if a
    /// consumer that exists isn't as this worker would have it: it is left as it is then, and the text says
    /// where it differs.
    ///
    /// # Panics
    ///
    /// If it isn't polled on tokio, which the client needs.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, some of the streams and consumers may have been created; nothing runs.
    pub async fn start(self, router: EventRouter) -> Result<JetStreamWorker, Error> {
        self.start_layered(router, |router| router).await
    }

    /// Does as [`start`](Self::start), with layers of tower around the router.
    ///
    /// The router says which consumers there are, and `layer` is called once with it. An attempt calls the
    /// service with one route in mind: the router in it runs that route alone.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use botisimo_webhooks::{Error, EventRouter, JetStreamWorker};
    ///
    /// # async fn work(context: async_nats::jetstream::Context, router: EventRouter) -> Result<(), Error> {
    /// let worker = JetStreamWorker::builder(context, "worker")
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
    /// As [`start`](Self::start).
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
            let pending = self.pending.get(route).copied();
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
            names: names.clone(),
        };
        let stream = stream::open(context, settings).await?;
        let opened = consumers.open(&stream, &plans).await?;
        let dead_letters = DeadLetterStream::open(context, settings, &self.group, names).await?;
        let route = |plan: Plan| {
            let permits = self.running.get(&*plan.name).copied();
            let permits = permits.unwrap_or(self.delivery.concurrency);
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
        Ok(JetStreamWorker::start(Arc::new(inner), opened).await)
    }

    /// Refuses what would be a consumer's name of another group, and settings of routes that there are not.
    fn check(&self, router: &EventRouter) -> Result<(), Error> {
        let group = &self.group;
        // The hyphen stands between the group and the route.
        if !is_plain(group) || group.contains('-') {
            let text = format!("a group is 1 to 64 of `A-Z a-z 0-9 _`, and {group:?} isn't");
            return Err(Error::new(ErrorKind::Inbox, text));
        }
        for name in self.running.keys().chain(self.pending.keys()) {
            if !router.routes().any(|route| route.name() == name) {
                let text = format!("there is no route named {name:?} to set something for");
                return Err(Error::new(ErrorKind::Route, text));
            }
        }
        Ok(())
    }
}
