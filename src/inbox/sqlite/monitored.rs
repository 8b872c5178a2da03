use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Report;
use super::shared_inbox::SharedInbox;
use super::writer::Writer;
use crate::delivery::JobExecutor;
use crate::error::Error;
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
        if let Some(since) = state.admissions.draining_since {
            findings.add(HealthProblemKind::Draining, lasted(since));
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
        let now = self.state.clock.system_time();
        let state = self.state.lock();
        let oldest = state.probe.oldest_since();
        let age = oldest.and_then(|oldest| now.duration_since(oldest).ok());
        state.stats().sample(age.unwrap_or_default())
    }

    /// Asks the writer for the oldest event. The writer answers after all earlier commands.
    fn refresh(self: Arc<Self>) -> Option<BoxFuture<()>> {
        let now = (self.state.clock.now(), Instant::now());
        let (answered, is_asked) = {
            let mut state = self.state.lock();
            if state.writer_ended.is_some() {
                return None;
            }
            let probe = &mut state.probe;
            let is_asked = probe.sent.is_some();
            probe.sent.get_or_insert(now);
            (probe.answered.wait(), is_asked)
        };
        if !is_asked {
            drop(self.query(answer));
        }
        Some(Box::pin(async move {
            let _ = answered.await;
        }))
    }
}

fn answer(writer: &mut Writer) -> Result<(), Error> {
    // If a page is damaged, the loader reports the damage when it reads the page.
    let oldest = writer.database.store.oldest().unwrap_or_default();
    let answered = {
        let probe = &mut writer.state.lock().probe;
        (probe.sent, probe.oldest) = (None, oldest);
        probe.answered.take()
    };
    answered.wake();
    Ok(())
}
