use super::error::query_failed;
use super::store::{Cursor, Select, Store};
use crate::delivery::{EventRecord, EventState};
use crate::error::Error;
use crate::inbox::EventFilter;

/// Reads up to `limit` events. Returns the events that match the filter, except events that ended after `until`. Also returns
/// the id of the last event that was read, or `None` if there are no further events.
///
/// `now` is the time by the inbox's clock, and `is_running` tells whether an event is running.
pub(super) fn read_matching(
    store: &Store,
    filter: &EventFilter,
    cursor: Cursor,
    limit: usize,
    until: u64,
    (now, is_running): (u64, impl Fn(u64) -> bool),
) -> Result<(Vec<EventRecord>, Option<u64>), Error> {
    let selects = |states: &[EventState]| states.iter().any(|state| filter.may_match(*state));
    let select = Select {
        in_flight: selects(&[
            EventState::Waiting,
            EventState::Running,
            EventState::Retrying,
        ]),
        dead: selects(&[EventState::Dead]),
        handled: selects(&[EventState::Handled, EventState::Unhandled]),
    };
    let mut records = Vec::new();
    let read = store.log(select, cursor, limit, now, is_running, |logged| {
        if logged.kept_since <= until && filter.matches(&logged.record) {
            records.push(logged.record);
        }
    });
    Ok((records, read.map_err(query_failed)?))
}

/// Returns the ids of the dead letters, and of the handled and unhandled events. Skips events in flight.
pub(super) fn ended_ids(records: &[EventRecord]) -> (Vec<u64>, Vec<u64>) {
    let ended = records
        .iter()
        .filter(|record| !record.state().is_in_flight());
    let (dead, handled): (Vec<_>, Vec<_>) =
        ended.partition(|record| record.state() == EventState::Dead);
    let ids = |records: Vec<&EventRecord>| records.into_iter().map(EventRecord::id).collect();
    (ids(dead), ids(handled))
}
