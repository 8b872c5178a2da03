use std::sync::Arc;
use std::time::Duration;

use super::shared_inbox::SharedInbox;
use crate::delivery::JobExecutor;
use crate::inbox::{Activity, Findings, HealthProblemKind, HealthSource, Monitor, Monitored};
use crate::runtime::BoxFuture;
use crate::telemetry::{Metrics, Sample};

impl HealthSource for SharedInbox {
    fn find(&self, findings: &mut Findings) {
        let now = self.state.clock.now();
        let state = self.state.lock();
        state.health.find(now, findings);
        state.fullness.find(now, !state.has_space(1), findings);
        if let Some(since) = state.draining_since {
            let lasted = Duration::from_millis(now.saturating_sub(since));
            findings.add(HealthProblemKind::Draining, lasted);
        }
    }
}

impl Monitored for SharedInbox {
    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn activity(&self) -> Activity {
        let stats = self.state.lock().stats();
        Activity::new(stats, self.oldest_age())
    }

    fn executor(&self) -> Option<&JobExecutor> {
        Some(&self.executor)
    }

    fn metrics(&self) -> &Metrics {
        &self.executor.metrics
    }

    fn sample(&self) -> Sample {
        let stats = self.state.lock().stats();
        stats.sample(self.oldest_age().unwrap_or_default())
    }

    /// Reads the time at which the oldest event in the database was received.
    fn refresh(self: Arc<Self>) -> Option<BoxFuture<()>> {
        Some(Box::pin(async move {
            let mut connection = self.connection();
            if let Ok(oldest) = self.store.oldest(&mut connection).await {
                self.state.lock().oldest = oldest;
            }
        }))
    }
}

impl SharedInbox {
    fn oldest_age(&self) -> Option<Duration> {
        let now = self.state.clock.system_time();
        let oldest = self.state.lock().oldest?;
        Some(now.duration_since(oldest).unwrap_or_default())
    }
}
