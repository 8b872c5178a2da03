use crate::telemetry::PathMiss;

/// Returns how the path of a request differs from the layer's path, if a proxy or a typo probably changed it.
pub(super) fn path_miss(own: &str, request: &str) -> Option<PathMiss> {
    // Every path starts with `/`, and many paths end with `/`. So a match with the path `/` doesn't indicate a mistake.
    if own == "/" || request == "/" {
        return None;
    }
    let trimmed = |path: &str| path.strip_suffix('/').unwrap_or(path).len();
    let (own_name, request_name) = (&own[..trimmed(own)], &request[..trimmed(request)]);
    if own_name == request_name {
        Some(PathMiss::TrailingSlash)
    } else if own_name.eq_ignore_ascii_case(request_name) {
        Some(PathMiss::Case)
    } else if own.ends_with(request) {
        Some(PathMiss::PrefixRemoved)
    } else if request.ends_with(own) {
        Some(PathMiss::PrefixAdded)
    } else {
        None
    }
}
