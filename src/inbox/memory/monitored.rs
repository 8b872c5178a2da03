use std::time::Duration;

use super::inner::MemoryInner;
use crate::inbox::{Activity, Findings, HealthProblemKind, HealthSource, Monitor, Monitored};

impl HealthSource for MemoryInner {
    fn find(&self, findings: &mut Findings) {
        let now = self.clock.now();
        let lasted = |since: u64| Duration::from_millis(now.saturating_sub(since));
        {
            let queue = self.queue();
            queue.fullness.find(now, queue.is_full(), findings);
            if let Some(since) = queue.draining_since {
                findings.add(HealthProblemKind::Draining, lasted(since));
            }
            if let Some(oldest) = queue.ages.oldest() {
                findings.oldest_event(lasted(oldest), &self.executor);
            }
        }
        findings.routes(&self.executor);
    }
}

impl Monitored for MemoryInner {
    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn activity(&self) -> Activity {
        Activity::of(&self.queue().stats())
    }
}
