use super::one_line;

/// How the path of a request differs from the layer's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathMiss {
    TrailingSlash,
    Case,
    /// The request's path is the end of the layer's path.
    PrefixRemoved,
    /// The layer's path is the end of the request's path.
    PrefixAdded,
}

/// Reports that a layer or an endpoint starts to receive requests. An endpoint has no path, and `routes` is known unless
/// layers hide the router. `location` is a file or a stream, and `recovered` counts the stored events of an earlier process.
pub(crate) fn receiver_started(
    path: Option<&str>,
    inbox: &'static str,
    location: Option<&str>,
    routes: Option<usize>,
    recovered: Option<u64>,
) {
    log!(
        info,
        path,
        inbox,
        location,
        routes,
        recovered,
        "receiving webhooks"
    );
}

/// Reports the first request that passes through although its path is almost the layer's path.
pub(crate) fn path_missed(miss: PathMiss, path: &str, request_path: &str) {
    let (difference, cure) = match miss {
        PathMiss::TrailingSlash => (
            "a trailing slash",
            "use the same path for the layer and the sender",
        ),
        PathMiss::Case => (
            "upper or lower case",
            "use the same path for the layer and the sender",
        ),
        PathMiss::PrefixRemoved => (
            "a missing prefix",
            "if a proxy removes the prefix, remove it from the layer's path",
        ),
        PathMiss::PrefixAdded => (
            "an additional prefix",
            "add the prefix to the layer's path, or remove it in the proxy",
        ),
    };
    log!(
        warn,
        path,
        request_path = one_line::path(request_path),
        difference,
        cure,
        "a request passed through, because its path differs from the layer's path"
    );
}

/// Reports that a layer or an endpoint without a [`Verify`](crate::Verify) starts receiving requests.
pub(crate) fn verify_missing() {
    log!(
        warn,
        "webhooks are accepted from any client that knows the URL: set a secret with `verify`"
    );
}

/// Reports that the environment has no secret, so the receiver verifies no request.
pub(crate) fn secret_missing(variable: &str) {
    log!(
        warn,
        variable,
        "webhooks are accepted from any client that knows the URL: set a secret in the environment variable"
    );
}

/// Reports that the receiver rejects a webhook. `reason` is one of a fixed set of messages, and `detail` names the
/// fault in the body.
pub(crate) fn webhook_rejected(
    status: u16,
    reason: &'static str,
    detail: Option<&'static str>,
    should_warn: bool,
) {
    if should_warn {
        log!(warn, status, reason, detail, "webhook rejected");
    } else {
        log!(debug, status, reason, detail, "webhook rejected");
    }
}
