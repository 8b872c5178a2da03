use std::fmt::Display;
use std::time::Duration;

/// Reports a problem when it begins, and every minute while it lasts. `message` says what to do next.
pub(crate) fn health_problem(
    kind: &'static str,
    route: Option<&str>,
    message: &dyn Display,
    lasted: Duration,
) {
    log!(warn, kind, route, ?lasted, "{message}");
}

/// Reports that a problem has ended.
pub(crate) fn health_problem_ended(kind: &'static str, route: Option<&str>) {
    log!(info, kind, route, "the problem has ended");
}
