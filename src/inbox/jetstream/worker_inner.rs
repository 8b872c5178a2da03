use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;

use super::checkpoints::Checkpoints;
use super::connection::Connection;
use super::dead_letter_stream::DeadLetterStream;
use super::event_stream::LogState;
use super::route_consumer::{RouteConsumer, routes};
use super::worker_options::WorkerOptions;
use super::{JetStreamWorkerBuilder, WorkerStats, stream};
use crate::delivery::{ErasedService, JobExecutor};
use crate::error::Error;
use crate::router::EventRouter;
use crate::telemetry;

/// The state that a worker's clones and tasks share.
pub(super) struct WorkerInner {
    pub(super) connection: Arc<Connection>,
    pub(super) executor: JobExecutor,
    /// Decides which events the fallback gets.
    pub(super) router: EventRouter,
    pub(super) options: WorkerOptions,
    pub(super) routes: Vec<Arc<RouteConsumer>>,
    pub(super) checkpoints: Checkpoints,
    pub(super) dead_letters: Arc<DeadLetterStream>,
    pub(super) log: Arc<LogState>,
    /// How long an event may wait before the worker warns.
    pub(super) max_delay: Duration,
    stats: Mutex<WorkerStats>,
}

impl WorkerInner {
    /// Opens the streams and the consumers.
    pub(super) async fn open(
        builder: JetStreamWorkerBuilder,
        router: EventRouter,
        service: ErasedService,
    ) -> Result<(Self, Vec<PullConsumer>), Error> {
        let JetStreamWorkerBuilder {
            context,
            stream,
            delivery,
            options,
        } = builder;
        options.check(&router, &delivery)?;
        if !options.deliver_fallback && router.routes().any(|route| route.is_fallback()) {
            telemetry::fallback_without_events();
        }
        let connection = Arc::new(Connection::new(context, stream));
        let events = stream::open_events(&connection).await?;
        let subjects = connection.settings.subjects();
        let routes = routes(&router, &subjects, &options, delivery.route_concurrency());
        let dead_letters =
            DeadLetterStream::new(Arc::clone(&connection), routes.clone(), &options.group);
        stream::check_dead_letters(&dead_letters.stream().await?, &connection.settings)?;
        connection.read_clock().await;
        let mut executor = JobExecutor::new(service, Arc::clone(&connection.runtime), delivery);
        // Layers may hide the router from the executor.
        executor.metrics = router.metrics();
        let inner = Self {
            executor,
            checkpoints: Checkpoints::new(Arc::clone(&connection), &options.group),
            connection,
            router,
            options,
            routes,
            dead_letters: Arc::new(dead_letters),
            log: Arc::default(),
            max_delay: events.cached_info().config.max_age / 2,
            stats: Mutex::default(),
        };
        let consumers = inner.open_consumers().await?;
        Ok((inner, consumers))
    }

    /// Returns the counts of this worker's events.
    pub(super) fn counts(&self) -> MutexGuard<'_, WorkerStats> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> WorkerStats {
        let counts = *self.counts();
        WorkerStats {
            skipped: self.executor.skipped(),
            replayed: self.dead_letters.replayed() + self.log.replayed(),
            ..counts
        }
    }
}
