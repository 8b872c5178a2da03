use std::fmt;
use std::time::Duration;

/// A finished attempt at an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptInfo<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) event_type: &'a str,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The delay before the next attempt, or `None` if this attempt was the last one.
    pub(crate) retry_in: Option<Duration>,
}

/// Reports that an attempt has ended. The caller has already reported the attempt's routes.
pub(crate) fn attempt_finished(attempt: &AttemptInfo<'_>) {
    if let Some(retry_in) = attempt.retry_in {
        let AttemptInfo {
            event_id,
            event_type,
            attempt,
            ..
        } = *attempt;
        log!(
            debug,
            event_id,
            event_type,
            attempt,
            ?retry_in,
            "event will be retried"
        );
    }
}

/// Reports that a route has run. `outcome` is one of a fixed set of names. If the route failed, `failure` is the
/// message for the log.
pub(crate) fn route_finished(
    attempt: &AttemptInfo<'_>,
    route: &str,
    outcome: &'static str,
    failure: Option<&dyn fmt::Display>,
) {
    let AttemptInfo {
        event_id,
        event_type,
        attempt,
        retry_in,
    } = *attempt;
    let last = retry_in.is_none();
    if let Some(failure) = failure {
        // Log a string, so that the subscriber escapes line breaks.
        log!(
            warn,
            event_id,
            event_type,
            attempt,
            last,
            route,
            outcome = failure.to_string(),
            "route failed"
        );
    } else {
        log!(
            trace,
            event_id,
            event_type,
            attempt,
            last,
            route,
            outcome,
            "route finished"
        );
    }
}

/// Reports that an event has ended with its last attempt. `outcome` is one of a fixed set of names.
pub(crate) fn event_finished(attempt: &AttemptInfo<'_>, outcome: &'static str) {
    let AttemptInfo {
        event_id,
        event_type,
        attempt,
        ..
    } = *attempt;
    log!(
        debug,
        event_id,
        event_type,
        attempt,
        outcome,
        "event finished"
    );
}

/// Reports that the inbox has stored a dead letter.
pub(crate) fn event_dead_lettered(event_id: &str, event_type: Option<&str>, attempts: u32) {
    log!(error, event_id, event_type, attempts, "event dead-lettered");
}

/// Reports that a user's hook has panicked.
pub(crate) fn hook_panicked(hook: &'static str) {
    log!(warn, hook, "a hook panicked");
}
