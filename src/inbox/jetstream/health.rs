//! The problems of an inbox and a worker, for their monitors.

use super::publisher::Publisher;
use super::worker_inner::WorkerInner;
use crate::inbox::{Activity, Findings, HealthSource, InboxControl, Monitor, Monitored};

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
            in_flight: self.publications() as u64,
            ..Activity::of(&self.stats())
        }
    }
}

impl HealthSource for WorkerInner {
    fn find(&self, findings: &mut Findings) {
        self.connection.find(findings);
        findings.routes(&self.executor);
    }
}

impl Monitored for WorkerInner {
    fn monitor(&self) -> &Monitor {
        &self.connection.monitor
    }

    /// A worker pulls events until it is drained, so it is always active.
    fn activity(&self) -> Activity {
        let counts = self.counts();
        Activity {
            accepted: counts.taken,
            dead: counts.dead,
            in_flight: 1,
        }
    }
}
