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

/// Reports that the key of an event is too long, so the route runs without a key.
pub(crate) fn route_key_too_long(route: &str, event_id: &str, bytes: usize) {
    log!(
        warn,
        route,
        event_id,
        bytes,
        "the key of `once_per` has more than 255 bytes, so the route runs without a key: return a shorter key, for example an id"
    );
}

/// Reports the first key that a route forgets before its window ends, because the route remembers too many keys.
pub(crate) fn route_keys_forgotten_early(route: &str, max_keys: usize) {
    log!(
        warn,
        route,
        max_keys,
        "the route forgets keys of `once_per` before their window ends: choose a shorter window, or keys that more events share"
    );
}
