use std::error::Error as StdError;
use std::time::Duration;

use super::one_line;

/// An attempt in which a route failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FailedAttempt<'a> {
    pub(crate) route: &'a str,
    /// One of a fixed set of names.
    pub(crate) outcome: &'static str,
    /// The message for the log, or `None` if the user redacts handlers' errors.
    pub(crate) error: Option<FailureText<'a>>,
    pub(crate) max_attempts: u32,
    /// The delay before the route's next attempt, or `None` if the route isn't retried.
    pub(crate) retry_in: Option<Duration>,
}

/// The message of a failed route.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FailureText<'a> {
    Error(&'a (dyn StdError + 'static)),
    Panic(&'a str),
}

impl FailureText<'_> {
    /// Returns the message on one line. The user's code formats an error, and may panic.
    fn on_one_line(self) -> String {
        match self {
            Self::Error(error) => one_line::chain(error),
            Self::Panic(message) => one_line::message(message),
        }
    }
}

/// A stored dead letter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadLetterInfo<'a> {
    pub(crate) event_id: &'a str,
    /// Absent if the inbox can't decode the event.
    pub(crate) event_type: Option<&'a str>,
    pub(crate) attempts: u32,
    /// The number of the letter in its inbox.
    pub(crate) dead_letter: u64,
    /// The names of the failed routes.
    pub(crate) routes: &'a str,
    /// One of this crate's messages, if no route failed.
    pub(crate) cause: Option<&'a str>,
}

// An attempt's span has the id and the type of the event, so the lines of an attempt don't repeat them.

/// Reports that a route has handled an event.
pub(crate) fn route_handled(route: &str) {
    log!(trace, route, "route handled the event");
}

/// Reports that a route has skipped an event. `reason` is one of a fixed set of names.
pub(crate) fn route_skipped(route: &str, reason: &'static str) {
    log!(info, route, reason, "route skipped the event");
}

/// Reports that a route has failed in an attempt.
pub(crate) fn attempt_failed(failed: &FailedAttempt<'_>) {
    let FailedAttempt {
        route,
        outcome,
        error,
        max_attempts,
        retry_in,
    } = *failed;
    log!(
        warn,
        route,
        outcome,
        max_attempts,
        retry_in = retry_in.map(rounded).map(tracing::field::display),
        error = error.map(text).map(tracing::field::display),
        "attempt failed"
    );
}

/// Reports that every route has handled an event.
pub(crate) fn event_handled(at_info: bool) {
    if at_info {
        log!(info, "event handled");
    } else {
        log!(debug, "event handled");
    }
}

/// Reports that an event has ended without a matching route.
pub(crate) fn event_unhandled() {
    log!(debug, "event unhandled");
}

/// Reports that the last `events` events matched no route. `patterns` is known unless layers hide the router.
pub(crate) fn routes_never_match(events: u32, patterns: Option<&str>, last_type: &str) {
    log!(
        warn,
        events,
        patterns,
        last_type,
        "no route matches the last events: compare the patterns with the event types"
    );
}

/// Reports that the inbox has stored a dead letter.
pub(crate) fn event_dead_lettered(letter: &DeadLetterInfo<'_>) {
    let DeadLetterInfo {
        event_id,
        event_type,
        attempts,
        dead_letter,
        routes,
        cause,
    } = *letter;
    // The writer of an inbox on disk stores the letter outside the attempt's span.
    log!(
        error,
        parent: None,
        event_id,
        event_type,
        attempts,
        dead_letter,
        routes,
        cause,
        "event dead-lettered"
    );
}

/// Reports that a user's hook has panicked.
pub(crate) fn hook_panicked(hook: &'static str) {
    log!(warn, hook, "a hook panicked");
}

fn rounded(delay: Duration) -> String {
    format!("{delay:.1?}")
}

fn text(error: FailureText<'_>) -> String {
    let text = crate::catch_panic::catch_panic(|| error.on_one_line());
    text.unwrap_or_else(|_| "the error's message panicked".to_owned())
}
