use super::error::Fault;
use crate::error::Error;
use crate::telemetry;

/// The time between two reports of a lasting fault: a minute.
const REPORT_PERIOD: u64 = 60 * 1000;

/// The faults of the database that were reported and haven't passed. Times are by the inbox's clock.
#[derive(Clone, Default)]
pub(super) struct Health {
    /// Why the inbox can't store events.
    pub(super) failing: Option<Report>,
    /// Why the inbox can't read some events. This fault is permanent.
    pub(super) damaged: Option<Report>,
}

#[derive(Clone)]
pub(super) struct Report {
    fault: Fault,
    pub(super) error: Error,
    /// When the faults began.
    pub(super) since: u64,
    reported_at: u64,
}

impl Health {
    /// Reports a fault immediately, and then every minute while it lasts.
    pub(super) fn report(&mut self, fault: Fault, error: Error, now: u64) {
        let (last, log): (_, fn(&_)) = if fault == Fault::CORRUPT {
            (&mut self.damaged, telemetry::inbox_corrupt)
        } else {
            (&mut self.failing, telemetry::inbox_failing)
        };
        let mut since = now;
        if let Some(last) = last {
            if last.fault == fault && now.saturating_sub(last.reported_at) < REPORT_PERIOD {
                return;
            }
            since = last.since;
        }
        log(&error);
        *last = Some(Report {
            fault,
            error,
            since,
            reported_at: now,
        });
    }

    /// Repeats the reports of lasting faults.
    pub(super) fn repeat(&mut self, now: u64) {
        let Self { failing, damaged } = self.clone();
        for Report { fault, error, .. } in failing.into_iter().chain(damaged) {
            self.report(fault, error, now);
        }
    }

    /// Returns the temporary fault, if there is one.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.failing.as_ref().map(|report| report.fault)
    }

    /// Reports that the temporary fault has passed.
    pub(super) fn recovered(&mut self) {
        if self.failing.take().is_some() {
            telemetry::inbox_recovered();
        }
    }

    /// Returns whether the faults are the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.fault() == other.fault() && self.damaged.is_some() == other.damaged.is_some()
    }
}
