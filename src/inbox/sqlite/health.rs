use super::error::Fault;
use crate::error::Error;
use crate::telemetry;

/// The time between two reports of a lasting fault: a minute.
const REPORT_PERIOD: u64 = 60 * 1000;

/// The faults of the database that were reported and haven't passed. Times are by the inbox's clock.
#[derive(Default)]
pub(super) struct Health {
    fault: Option<Report>,
    /// A fault of the data. This fault is permanent.
    damage: Option<Report>,
}

struct Report {
    fault: Fault,
    error: Error,
    /// When the fault was last reported.
    at: u64,
    /// When the faults began.
    since: u64,
}

/// The lasting faults, each with its start by the inbox's clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Why the inbox can't store events.
    pub(super) failing: Option<(Error, u64)>,
    /// Why the inbox can't read some events.
    pub(super) damaged: Option<(Error, u64)>,
}

impl Faults {
    /// Returns whether the messages differ.
    pub(super) fn differ(&self, other: &Self) -> bool {
        let messages = |faults: &Self| {
            let faults = [&faults.failing, &faults.damaged];
            faults.map(|fault| fault.as_ref().map(|(error, _)| error.to_string()))
        };
        messages(self) != messages(other)
    }
}

impl Health {
    /// Reports a fault immediately, and then every minute while it lasts.
    pub(super) fn report(&mut self, fault: Fault, error: Error, now: u64) {
        let (reported, log): (_, fn(&_)) = if fault == Fault::CORRUPT {
            (&mut self.damage, telemetry::inbox_corrupt)
        } else {
            (&mut self.fault, telemetry::inbox_failing)
        };
        if let Some(last) = reported
            && last.fault == fault
            && now.saturating_sub(last.at) < REPORT_PERIOD
        {
            return;
        }
        log(&error);
        let since = reported.as_ref().map_or(now, |report| report.since);
        *reported = Some(Report {
            fault,
            error,
            at: now,
            since,
        });
    }

    /// Repeats the reports of lasting faults.
    pub(super) fn repeat(&mut self, now: u64) {
        let lasting = [&self.fault, &self.damage].map(|report| {
            let report = report.as_ref()?;
            Some((report.fault, report.error.clone()))
        });
        for (fault, error) in lasting.into_iter().flatten() {
            self.report(fault, error, now);
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

    /// Returns the lasting faults.
    pub(super) fn faults(&self) -> Faults {
        let fault = |report: &Option<Report>| {
            let report = report.as_ref()?;
            Some((report.error.clone(), report.since))
        };
        Faults {
            failing: fault(&self.fault),
            damaged: fault(&self.damage),
        }
    }

    /// Returns why the inbox can't store or read events now.
    pub(super) fn problem(&self) -> Option<&Error> {
        let report = self.fault.as_ref().or(self.damage.as_ref());
        report.map(|report| &report.error)
    }
}
