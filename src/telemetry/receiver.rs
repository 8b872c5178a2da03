/// Reports that a layer or an endpoint without a [`Verify`](crate::Verify) starts receiving requests.
pub(crate) fn verify_missing() {
    log!(
        warn,
        "webhooks are accepted from any client that knows the URL: set a secret with `verify`"
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
