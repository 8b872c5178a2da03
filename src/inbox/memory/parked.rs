use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::delivery::Job;

/// The jobs that wait for the limits of a route.
#[derive(Default)]
pub(super) struct Parked {
    jobs: HashMap<u64, ParkedJob>,
    /// The number of jobs that also wait for a retry of another route.
    retrying: usize,
}

struct ParkedJob {
    job: Box<Job>,
    since: Instant,
    is_retrying: bool,
}

impl Parked {
    pub(super) fn push(&mut self, job: Box<Job>, since: Instant, is_retrying: bool) {
        self.retrying += usize::from(is_retrying);
        let parked = ParkedJob {
            job,
            since,
            is_retrying,
        };
        self.jobs.insert(parked.job.number, parked);
    }

    /// Removes a job, and counts the time that it has waited. If `is_due` is true, the job has waited long enough.
    pub(super) fn take(&mut self, number: u64, now: Instant, is_due: bool) -> Option<Box<Job>> {
        let mut parked = self.jobs.remove(&number)?;
        self.retrying -= usize::from(parked.is_retrying);
        let waited = match is_due {
            true => Duration::MAX,
            false => now.saturating_duration_since(parked.since),
        };
        parked.job.progress.elapse(waited);
        Some(parked.job)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values().map(|parked| &*parked.job)
    }

    /// Returns the number of jobs that wait only for the limits of a route.
    pub(super) fn waiting(&self) -> usize {
        self.jobs.len() - self.retrying
    }

    /// Returns the number of jobs that also wait for a retry.
    pub(super) fn retrying(&self) -> usize {
        self.retrying
    }
}
