use std::error::Error as StdError;

/// The inbox has stored an event.
pub(crate) fn event_accepted(event_id: &str, event_type: &str) {
    log!(debug, event_id, event_type, "event accepted");
}

/// The inbox has accepted a copy of this event before.
pub(crate) fn event_duplicate(event_id: &str, event_type: &str) {
    log!(debug, event_id, event_type, "duplicate event");
}

/// For the first time, the inbox forgets a message id before its window is over, because it remembers too many.
pub(crate) fn ids_forgotten_early() {
    log!(
        warn,
        "the inbox has reached `max_remembered_ids` and forgets message ids before their window is over"
    );
}

/// The inbox can't store events. `error` is about files, their system or a server.
pub(crate) fn inbox_failing(error: &(dyn StdError + 'static)) {
    log!(
        error,
        %error,
        source = error.source().map(tracing::field::display),
        "the inbox is failing: events are answered 503"
    );
}

/// The inbox's data is damaged. `error` is about files and their system.
pub(crate) fn inbox_corrupt(error: &(dyn StdError + 'static)) {
    log!(
        error,
        %error,
        source = error.source().map(tracing::field::display),
        "the inbox is damaged: events that can't be read aren't handled, and events that can't be stored are answered 503"
    );
}

/// The inbox stores events again.
pub(crate) fn inbox_recovered() {
    log!(info, "the inbox has recovered");
}

/// The inbox's file wasn't closed, and its write-ahead log is missing.
pub(crate) fn inbox_wal_missing(path: &std::path::Path) {
    log!(
        warn,
        path = %path.display(),
        "the inbox wasn't closed and has no write-ahead log: if the file was copied or moved without it, the events that \
         were accepted last are missing"
    );
}
