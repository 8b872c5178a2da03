use std::time::Duration;

use super::inner::MemoryInner;
use crate::delivery::JobExecutor;
use crate::inbox::{Activity, Findings, HealthProblemKind, HealthSource, Monitor, Monitored};
use crate::telemetry::{Metrics, Sample};

impl HealthSource for MemoryInner {
    fn find(&self, findings: &mut Findings) {
        let now = self.clock.now();
        let lasted = |since: u64| Duration::from_millis(now.saturating_sub(since));
        let queue = self.queue();
        queue.fullness.find(now, queue.is_full(), findings);
        if let Some(since) = queue.draining_since {
            findings.add(HealthProblemKind::Draining, lasted(since));
        }
    }
}

impl Monitored for MemoryInner {
    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn activity(&self) -> Activity {
        let now = self.clock.now();
        let queue = self.queue();
        let age = |since: u64| Duration::from_millis(now.saturating_sub(since));
        Activity::new(queue.stats(), queue.ages.oldest().map(age))
    }

    fn executor(&self) -> Option<&JobExecutor> {
        Some(&self.executor)
    }

    fn metrics(&self) -> &Metrics {
        &self.executor.metrics
    }

    fn sample(&self) -> Sample {
        let now = self.clock.now();
        let queue = self.queue();
        let oldest = queue.ages.oldest().unwrap_or(now);
        let age = Duration::from_millis(now.saturating_sub(oldest));
        queue.stats().sample(age)
    }
}
