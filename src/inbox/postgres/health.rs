use std::time::Duration;

use crate::error::Error;
use crate::inbox::{Findings, HealthProblemKind};
use crate::telemetry;

/// The time between two reports of a lasting fault: a minute.
const REPORT_PERIOD: u64 = 60 * 1000;

/// The faults of the server that haven't passed. Times are by the inbox's clock.
#[derive(Default)]
pub(super) struct Health {
    /// Why the inbox can't store events.
    failing: Option<Report>,
    /// Why the worker can't extend its lease.
    lease: Option<Report>,
}

struct Report {
    error: Error,
    since: u64,
    reported_at: u64,
}

impl Health {
    /// Reports why the inbox can't store events: immediately, and then every minute while the fault lasts.
    pub(super) fn failing(&mut self, error: &Error, now: u64) {
        report(&mut self.failing, error, now);
    }

    /// Reports that the inbox stores events again.
    pub(super) fn recovered(&mut self) {
        if self.failing.take().is_some() {
            telemetry::inbox_recovered();
        }
    }

    /// Reports why the worker can't extend its lease, unless the same fault keeps the inbox from storing events.
    pub(super) fn lease_failing(&mut self, error: &Error, now: u64) {
        if self.failing.is_none() {
            report(&mut self.lease, error, now);
        }
    }

    /// Reports that the worker extends its lease again.
    pub(super) fn lease_recovered(&mut self) {
        if self.lease.take().is_some() && self.failing.is_none() {
            telemetry::inbox_recovered();
        }
    }

    pub(super) fn find(&self, now: u64, findings: &mut Findings) {
        if let Some(Report { error, since, .. }) = self.failing.as_ref().or(self.lease.as_ref()) {
            let lasted = Duration::from_millis(now.saturating_sub(*since));
            let problem = findings.add(HealthProblemKind::InboxFailing, lasted);
            problem.because(error.to_string()).logged();
        }
    }
}

fn report(last: &mut Option<Report>, error: &Error, now: u64) {
    let mut since = now;
    if let Some(last) = last {
        let is_same = last.error.to_string() == error.to_string();
        if is_same && now.saturating_sub(last.reported_at) < REPORT_PERIOD {
            return;
        }
        since = last.since;
    }
    telemetry::inbox_failing(error);
    *last = Some(Report {
        error: error.clone(),
        since,
        reported_at: now,
    });
}
