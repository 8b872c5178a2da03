use std::sync::Arc;

use super::route_stats::RouteStats;
#[cfg(feature = "jetstream")]
use crate::inbox::JetStreamWorker;
use crate::inbox::{EventLog, Handle, Health, InboxInfo, Monitored, evaluate};
use crate::router::EventRouter;
use crate::runtime::Runtime;
use crate::telemetry::Stopwatch;

/// The inbox or the worker that an inspector shows.
pub(super) struct Source {
    pub(super) info: InboxInfo,
    pub(super) events: EventLog,
    pub(super) router: Option<EventRouter>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) routes: Arc<RouteStats>,
    monitored: Arc<dyn Monitored>,
    counts: Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>,
}

impl Source {
    pub(super) fn of_handle(handle: &Handle) -> Self {
        let counted = handle.clone();
        Self {
            info: handle.info(),
            events: handle.events(),
            router: handle.router(),
            runtime: handle.runtime(),
            routes: Arc::default(),
            monitored: handle.monitored(),
            counts: Box::new(move || counted.stats().iter().collect()),
        }
        .counting_routes()
    }

    #[cfg(feature = "jetstream")]
    pub(super) fn of_worker(worker: &JetStreamWorker) -> Self {
        let counted = worker.clone();
        Self {
            info: worker.info(),
            events: worker.events(),
            router: Some(worker.router()),
            runtime: worker.runtime(),
            routes: Arc::default(),
            monitored: worker.monitored(),
            counts: Box::new(move || counted.stats().iter().collect()),
        }
        .counting_routes()
    }

    /// Counts the runs of each route from now on.
    fn counting_routes(self) -> Self {
        if let Some(executor) = self.monitored.executor() {
            Stopwatch::run_always();
            let routes = Arc::clone(&self.routes);
            executor
                .settings
                .on_attempt
                .add(Arc::new(move |attempt| routes.record(attempt)));
        }
        self
    }

    /// Returns whether this process runs handlers.
    pub(super) fn runs_routes(&self) -> bool {
        self.monitored.executor().is_some()
    }

    /// Returns the names of the router's routes, or of the routes that have run if the router is hidden.
    pub(super) fn route_names(&self) -> Vec<Arc<str>> {
        match &self.router {
            Some(router) => router
                .routes()
                .map(|route| Arc::from(route.name()))
                .collect(),
            None => self.routes.names(),
        }
    }

    pub(super) fn health(&self) -> Health {
        evaluate(&*self.monitored)
    }

    /// Returns the name and the value of each count.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        (self.counts)()
    }

    pub(super) fn monitored(&self) -> &dyn Monitored {
        &*self.monitored
    }
}
