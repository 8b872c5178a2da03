use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Report;
use super::shared_inbox::SharedInbox;
use crate::delivery::JobExecutor;
use crate::inbox::{Activity, Findings, HealthProblemKind, HealthSource, Monitor, Monitored};
use crate::runtime::BoxFuture;
use crate::telemetry::{Metrics, Sample};

const DISK_HANGS: &str = "the disk hasn't answered for 30 s";

const THREAD_ENDED: &str = "the inbox's thread has ended";

impl HealthSource for SharedInbox {
    fn find(&self, findings: &mut Findings) {
        let now = self.state.clock.now();
        let lasted = |since: u64| Duration::from_millis(now.saturating_sub(since));
        let state = self.state.lock();
        if let Some(since) = state.writer_ended {
            let problem = findings.add(HealthProblemKind::InboxFailing, lasted(since));
            problem.because(THREAD_ENDED).solved_by_restart();
        } else if let Some(Report { error, since, .. }) = &state.health.failing {
            let problem = findings.add(HealthProblemKind::InboxFailing, lasted(*since));
            problem.because(error.to_string()).logged();
        } else if let Some(since) = state.probe.hangs_since(now) {
            let problem = findings.add(HealthProblemKind::InboxFailing, lasted(since));
            problem.because(DISK_HANGS);
        }
        if let Some(Report { error, since, .. }) = &state.health.damaged {
            let problem = findings.add(HealthProblemKind::InboxDamaged, lasted(*since));
            problem.because(error.to_string()).logged();
        }
        state.fullness.find(now, state.is_full(), findings);
        let admissions = &state.admissions;
        if admissions.draining {
            let lasted = lasted(admissions.draining_since);
            findings.add(HealthProblemKind::Draining, lasted);
        }
    }
}

impl Monitored for SharedInbox {
    fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    fn activity(&self) -> Activity {
        let now = self.state.clock.system_time();
        let state = self.state.lock();
        let age = |since| now.duration_since(since).unwrap_or_default();
        let oldest = state.probe.oldest_since();
        Activity::new(state.stats(), oldest.map(age))
    }

    fn executor(&self) -> Option<&JobExecutor> {
        Some(&self.executor)
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
        {
            let mut state = self.state.lock();
            if state.probe.sent.is_some() || state.writer_ended.is_some() {
                return None;
            }
            state.probe.sent = Some((self.state.clock.now(), Instant::now()));
        }
        let answered = self.query(|writer| {
            // A damaged page is reported when the loader reads it.
            let oldest = writer.database.store.oldest().unwrap_or_default();
            let probe = &mut writer.state.lock().probe;
            (probe.sent, probe.oldest) = (None, oldest);
            Ok(())
        });
        Some(Box::pin(async move {
            let _ = answered.await;
        }))
    }
}
