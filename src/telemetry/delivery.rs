use std::fmt;
use std::time::Duration;

/// A finished attempt at an event.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptInfo<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) event_type: &'a str,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The wait before the next attempt, or `None` if this attempt was the last one.
    pub(crate) retry_in: Option<Duration>,
}

/// An attempt has ended, and its routes have been reported.
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

/// A route has run. `outcome` is one of a fixed set of names; `failure` is the text for the log if the route failed.
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
        // A string, so that the subscriber escapes line breaks.
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

/// An event has ended, with its last attempt. `outcome` is one of a fixed set of names.
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

/// An event has become a dead letter, and its inbox has stored it.
pub(crate) fn event_dead_lettered(event_id: &str, event_type: Option<&str>, attempts: u32) {
    log!(error, event_id, event_type, attempts, "event dead-lettered");
}

/// A hook of the user's has panicked.
pub(crate) fn hook_panicked(hook: &'static str) {
    log!(warn, hook, "a hook panicked");
}
