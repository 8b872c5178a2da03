/// Reports that the worker has lost its leased events to other workers, because it couldn't extend its lease in time.
pub(crate) fn lease_lost(events: u64) {
    log!(
        warn,
        events,
        "the worker has lost its events to other workers: its lease ended"
    );
}

/// Reports that the worker released the events of other workers that died.
pub(crate) fn events_released(events: u64) {
    log!(info, events, "released the events of workers that died");
}
