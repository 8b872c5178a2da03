use super::log::{Ended, Started};
use crate::delivery::{EventRecord, EventState, Job};
use crate::inbox::EventFilter;

/// An event of the inbox, in any state.
pub(super) enum Entry<'a> {
    Waiting(&'a Job),
    Started(Started<'a>),
    Ended(&'a Ended),
    Dead(&'a EventRecord),
}

impl Entry<'_> {
    pub(super) fn id(&self) -> u64 {
        match self {
            Self::Waiting(job) => job.number,
            Self::Started(started) => started.number,
            Self::Ended(ended) => ended.job.number,
            Self::Dead(letter) => letter.id(),
        }
    }

    /// Returns whether the event may match. The conditions on routes and outcomes need a record.
    pub(super) fn matches(&self, filter: &EventFilter) -> bool {
        let (state, event) = match self {
            Self::Waiting(job) => (EventState::Waiting, &job.event),
            Self::Started(started) => (started.state, started.event),
            Self::Ended(ended) => (ended.state(), &ended.job.event),
            Self::Dead(letter) => return filter.matches(letter),
        };
        filter.matches_head(self.id(), state, event)
    }

    pub(super) fn record(&self) -> EventRecord {
        match self {
            Self::Waiting(job) => EventRecord::waiting(job.number, job.event.clone()),
            Self::Started(started) => started.record(),
            Self::Ended(ended) => ended.record(),
            Self::Dead(letter) => (*letter).clone(),
        }
    }
}
