/// A route is registered under a pattern that matches no documented event type.
pub(crate) fn undocumented_pattern(pattern: &str) {
    log!(warn, pattern, "no documented event type matches this route");
}
