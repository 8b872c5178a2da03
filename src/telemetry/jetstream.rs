use std::time::Duration;

/// Reports that a worker starts to pull events.
pub(crate) fn worker_started(group: &str, stream: &str, routes: usize) {
    log!(info, group, stream, routes, "worker started");
}

/// Reports that a worker is stalled or late, in one route or in all routes. `cause` concerns the server or the connection.
pub(crate) fn worker_stalled(route: Option<&str>, cause: &str, lasted: Duration) {
    log!(warn, route, cause, ?lasted, "the worker is stalled");
}

/// Reports that the worker is no longer stalled by this cause.
pub(crate) fn worker_recovered(route: Option<&str>, cause: &str, lasted: Duration) {
    log!(info, route, cause, ?lasted, "the worker has recovered");
}

/// Reports that a worker recreated a route's consumer. The consumer starts at this stream sequence.
pub(crate) fn consumer_recreated(route: &str, consumer: &str, sequence: u64, reason: &str) {
    log!(
        warn,
        route,
        consumer,
        sequence,
        reason,
        "the worker recreated a consumer, which starts after the last event that its group finished"
    );
}

/// Reports that a router has a fallback, but its worker delivers no events to the fallback.
pub(crate) fn fallback_without_events() {
    log!(
        warn,
        "the router's fallback gets no events: see `deliver_fallback`"
    );
}
