use std::error::Error as StdError;

/// Reports that the inbox has stored an event.
pub(crate) fn event_accepted(event_id: &str, event_type: &str) {
    log!(debug, event_id, event_type, "event accepted");
}

/// Reports that the inbox has already accepted a copy of this event.
pub(crate) fn event_duplicate(event_id: &str, event_type: &str) {
    log!(debug, event_id, event_type, "duplicate event");
}

/// Reports that a drain begins. `in_flight` events haven't ended.
pub(crate) fn draining(in_flight: u64) {
    log!(info, in_flight, "draining");
}

/// Reports that a drain has ended, or has reached its time limit. `remaining` events haven't ended.
pub(crate) fn drained(remaining: u64) {
    log!(info, remaining, "drained");
}

/// Reports the first id that the inbox forgets before the id's window ends, because the inbox remembers too many ids.
pub(crate) fn ids_forgotten_early() {
    log!(
        warn,
        "the inbox has reached `max_remembered_ids` and forgets message ids before their window ends"
    );
}

/// Reports that the inbox can't store events. `error` concerns files, the file system or a server.
pub(crate) fn inbox_failing(error: &(dyn StdError + 'static)) {
    log!(
        error,
        %error,
        source = error.source().map(tracing::field::display),
        "the inbox is failing: the receiver answers 503"
    );
}

/// Reports that the inbox's data is damaged. `error` concerns files or the file system.
pub(crate) fn inbox_corrupt(error: &(dyn StdError + 'static)) {
    log!(
        error,
        %error,
        source = error.source().map(tracing::field::display),
        "the inbox is damaged: events that can't be read aren't handled, and events that can't be stored get a 503"
    );
}

/// Reports that the inbox stores events again.
pub(crate) fn inbox_recovered() {
    log!(info, "the inbox has recovered");
}

/// Reports that the inbox's file wasn't closed and that its write-ahead log is missing.
pub(crate) fn inbox_wal_missing(path: &std::path::Path) {
    log!(
        warn,
        path = %path.display(),
        "the inbox wasn't closed and has no write-ahead log: if the file was copied or moved without its log, the \
         last accepted events are missing"
    );
}
