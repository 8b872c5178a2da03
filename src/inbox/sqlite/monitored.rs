use std::sync::Arc;
use std::time::Duration;

use super::health::Report;
use super::shared_inbox::SharedInbox;
use crate::inbox::{Activity, Findings, HealthProblemKind, HealthSource, Monitor, Monitored};
use crate::runtime::BoxFuture;
use crate::telemetry::{Metrics, Sample};

/// If the writer doesn't answer for this time, the disk hangs.
const DISK_TIMEOUT: Duration = Duration::from_secs(30);

const DISK_HANGS: &str = "the disk hasn't answered for 30 s";

const THREAD_ENDED: &str = "the inbox's thread has ended";

impl HealthSource for SharedInbox {
    fn find(&self, findings: &mut Findings) {
        let clock = &self.state.clock;
        let (now, system_time) = (clock.now(), clock.system_time());
        let lasted = |since: u64| Duration::from_millis(now.saturating_sub(since));
        {
            let state = self.state.lock();
            if let Some(since) = state.writer_ended {
                let problem = findings.add(HealthProblemKind::InboxFailing, lasted(since));
                problem.because(THREAD_ENDED).solved_by_restart();
            } else if let Some(Report { error, since, .. }) = &state.health.failing {
                let problem = findings.add(HealthProblemKind::InboxFailing, lasted(*since));
                problem.because(error.to_string()).logged();
            } else if let Some(sent) = state.probe.sent
                && lasted(sent) >= DISK_TIMEOUT
            {
                let problem = findings.add(HealthProblemKind::InboxFailing, lasted(sent));
                problem.because(DISK_HANGS);
            }
            if let Some(Report { error, since, .. }) = &state.health.damaged {
                let problem = findings.add(HealthProblemKind::InboxDamaged, lasted(*since));
                problem.because(error.to_string()).logged();
            }
            state.fullness.find(now, state.is_full(), findings);
            if let Some(since) = state.admissions.draining_since {
                findings.add(HealthProblemKind::Draining, lasted(since));
            }
            if let Some(oldest) = state.probe.oldest_since()
                && state.in_flight > 0
            {
                let age = system_time.duration_since(oldest).unwrap_or_default();
                findings.oldest_event(age, &self.executor);
            }
        }
        findings.routes(&self.executor);
    }
}

impl Monitored for SharedInbox {
    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn activity(&self) -> Activity {
        Activity::of(&self.state.lock().stats())
    }

    fn metrics(&self) -> &Metrics {
        &self.executor.metrics
    }

    fn sample(&self) -> Sample {
        let state = self.state.lock();
        let oldest = state.probe.oldest_since().filter(|_| state.in_flight > 0);
        let now = self.state.clock.system_time();
        let age = oldest.and_then(|oldest| now.duration_since(oldest).ok());
        state.stats().sample(age.unwrap_or_default())
    }

    /// Asks the writer for the oldest event. The question waits behind all writes.
    fn refresh(self: Arc<Self>) -> Option<BoxFuture<()>> {
        let now = self.state.clock.now();
        {
            let mut state = self.state.lock();
            if state.probe.sent.is_some() || state.writer_ended.is_some() {
                return None;
            }
            state.probe.sent = Some(now);
        }
        let answered = self.query(|writer| {
            // A damaged page is reported when the loader reads it.
            let oldest = writer.database.store.oldest().unwrap_or_default();
            let mut state = writer.state.lock();
            (state.probe.sent, state.probe.oldest) = (None, oldest);
            Ok(())
        });
        Some(Box::pin(async move {
            let _ = answered.await;
        }))
    }
}
