/// Reports that a router without routes starts to receive events.
pub(crate) fn router_without_routes() {
    log!(
        warn,
        "the router has no routes, so no handler runs: add a route with `on`"
    );
}

/// Reports that a route's pattern matches no documented event type.
///
/// `did_you_mean` is a similar pattern that matches a documented event type.
pub(crate) fn undocumented_pattern(pattern: &str, did_you_mean: Option<&str>) {
    log!(
        warn,
        pattern,
        did_you_mean,
        "no documented event type matches this route"
    );
}
