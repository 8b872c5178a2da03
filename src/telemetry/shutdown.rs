use std::time::Duration;

/// Reports that the process must stop, or that its server has ended.
pub(crate) fn shutdown_started(server_ended: bool) {
    if server_ended {
        log!(warn, "shutting down, because the server has ended");
    } else {
        log!(info, "shutting down: the server closes after the drain");
    }
}

/// Reports that the server still has open connections after its time to close.
pub(crate) fn server_not_closed(timeout: Duration) {
    log!(
        warn,
        ?timeout,
        "the server hasn't closed in time: clients hold connections open"
    );
}

/// Reports that a second signal ended the shutdown.
pub(crate) fn shutdown_interrupted() {
    log!(warn, "a second signal ends the shutdown");
}

/// Reports that the shutdown has ended. If `is_durable`, the remaining events run after a restart.
pub(crate) fn shutdown_finished(remaining: u64, is_durable: bool) {
    if remaining == 0 {
        log!(info, "shut down; all events have ended");
    } else if is_durable {
        log!(
            info,
            remaining,
            "shut down; the remaining events run after a restart"
        );
    } else {
        log!(warn, remaining, "shut down; some events haven't ended");
    }
}
