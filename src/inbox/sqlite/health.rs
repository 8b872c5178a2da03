use std::sync::Arc;

use super::error::Fault;
use crate::error::Error;
use crate::runtime::Clock;
use crate::telemetry;

/// The time between two reports of a lasting fault: a minute.
const REPORT_PERIOD: u64 = 60 * 1000;

/// The faults of the database that were reported and haven't passed.
pub(super) struct Health {
    clock: Arc<Clock>,
    fault: Option<Report>,
    /// A fault of the data. This fault is permanent.
    damage: Option<Report>,
}

struct Report {
    fault: Fault,
    error: Error,
    /// By the inbox's clock.
    at: u64,
}

impl Health {
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        Self {
            clock,
            fault: None,
            damage: None,
        }
    }

    /// Reports a fault immediately, and then every minute while it lasts.
    pub(super) fn report(&mut self, error: Error, fault: Fault) {
        let at = self.clock.now();
        let reported = if fault == Fault::CORRUPT {
            &mut self.damage
        } else {
            &mut self.fault
        };
        if let Some(last) = reported
            && last.fault == fault
            && at.saturating_sub(last.at) < REPORT_PERIOD
        {
            return;
        }
        if fault == Fault::CORRUPT {
            telemetry::inbox_corrupt(&error);
        } else {
            telemetry::inbox_failing(&error);
        }
        *reported = Some(Report { fault, error, at });
    }

    /// Repeats the reports of lasting faults.
    pub(super) fn repeat(&mut self) {
        let reports = [&self.fault, &self.damage].map(|report| {
            let report = report.as_ref()?;
            Some((report.error.clone(), report.fault))
        });
        for (error, fault) in reports.into_iter().flatten() {
            self.report(error, fault);
        }
    }

    /// Returns the temporary fault, if there is one.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.as_ref().map(|report| report.fault)
    }

    /// Reports that the fault has passed.
    pub(super) fn recovered(&mut self) {
        if self.fault.take().is_some() {
            telemetry::inbox_recovered();
        }
    }

    /// Returns why the inbox can't store or read events now.
    pub(super) fn problem(&self) -> Option<&Error> {
        let report = self.fault.as_ref().or(self.damage.as_ref());
        report.map(|report| &report.error)
    }
}
