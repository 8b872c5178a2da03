use std::error::Error as StdError;
use std::time::Duration;

/// A worker can't pull a route's events. `error` is about the server or the connection to it.
pub(crate) fn pull_failed(route: &str, error: &(dyn StdError + 'static)) {
    log!(warn, route, %error, "a route's events can't be pulled: the worker tries again");
}

/// A worker can't store a dead letter. `error` is about the server or the connection to it.
pub(crate) fn dead_letter_not_stored(route: &str, error: &(dyn StdError + 'static)) {
    log!(
        warn,
        route,
        %error,
        source = error.source().map(tracing::field::display),
        "a dead letter can't be stored: the worker tries again"
    );
}

/// A route's events wait for more than half of the time for which the stream keeps them.
pub(crate) fn events_delayed(route: &str, waited: Duration) {
    log!(
        warn,
        route,
        ?waited,
        "events wait for longer than half of the stream's `max_age`: add workers, or the stream deletes them"
    );
}

/// A router with a fallback runs on a worker that gives the fallback no events.
pub(crate) fn fallback_without_events() {
    log!(
        warn,
        "the router's fallback gets no events: see `deliver_fallback`"
    );
}
