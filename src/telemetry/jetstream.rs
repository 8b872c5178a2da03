use std::time::Duration;

/// An operation of a worker fails, for one route or for all. `cause` is about the server or the connection to it.
pub(crate) fn worker_stalled(route: Option<&str>, cause: &str, lasted: Duration) {
    log!(
        warn,
        route,
        cause,
        ?lasted,
        "the worker is stalled and tries again"
    );
}

/// The operation works again.
pub(crate) fn worker_recovered(route: Option<&str>, lasted: Duration) {
    log!(info, route, ?lasted, "the worker has recovered");
}

/// A worker has created the consumer of a route again, which begins with the event of this stream sequence.
pub(crate) fn consumer_recreated(route: &str, consumer: &str, sequence: u64, reason: &str) {
    log!(
        warn,
        route,
        consumer,
        sequence,
        reason,
        "the worker has created a consumer again, behind the last event that its group finished"
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
