//! The problems of an inbox and a worker, for their monitors.

use std::sync::Arc;

use super::connection::unless_drained;
use super::publisher::Publisher;
use super::worker_inner::WorkerInner;
use crate::delivery::{JobExecutor, Stats};
use crate::inbox::{Activity, Findings, HealthSource, InboxControl, Monitor, Monitored};
use crate::runtime::BoxFuture;
use crate::telemetry::{InFlight, Metrics, Sample};

impl HealthSource for Publisher {
    fn find(&self, findings: &mut Findings) {
        self.connection.find(findings);
    }
}

impl Monitored for Publisher {
    fn monitor(&self) -> &Monitor {
        &self.connection.monitor
    }

    fn activity(&self) -> Activity {
        Activity {
            is_active: self.publications() > 0,
            ..Activity::new(self.stats(), None)
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The workers know the events in flight.
    fn sample(&self) -> Sample {
        Sample::default()
    }

    /// Compares the stream with the settings, because an operator may have changed it. A new request to the inbox must not end the
    /// comparison, so it has its own task.
    fn refresh(self: Arc<Self>) -> Option<BoxFuture<()>> {
        let runtime = Arc::clone(&self.connection.runtime);
        runtime.spawn(Box::pin(async move {
            if self.check_stream().await.is_err() {
                Monitor::rouse(&(self as Arc<dyn Monitored>));
            }
        }));
        None
    }
}

impl HealthSource for WorkerInner {
    fn find(&self, findings: &mut Findings) {
        self.connection.find(findings);
    }
}

impl Monitored for WorkerInner {
    fn monitor(&self) -> &Monitor {
        &self.connection.monitor
    }

    /// A worker pulls events until it is drained, so it is active until then.
    fn activity(&self) -> Activity {
        let counts = self.counts();
        Activity {
            stats: Stats {
                accepted: counts.taken,
                dead: counts.dead,
                running: counts.running,
                ..Stats::default()
            },
            oldest: None,
            is_active: counts.running > 0 || !self.connection.is_draining(),
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.executor.metrics
    }

    fn sample(&self) -> Sample {
        Sample {
            in_flight: Some(InFlight {
                running: self.counts().running,
                ..InFlight::default()
            }),
            ..Sample::default()
        }
    }

    fn is_inbox(&self) -> bool {
        false
    }

    fn executor(&self) -> Option<&JobExecutor> {
        Some(&self.executor)
    }

    fn refresh(self: Arc<Self>) -> Option<BoxFuture<()>> {
        Some(Box::pin(async move {
            let mut draining = self.connection.draining.subscribe();
            unless_drained(&mut draining, self.check()).await;
        }))
    }
}
