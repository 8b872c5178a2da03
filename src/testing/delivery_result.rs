use bytes::Bytes;
use http::Response;

use crate::delivery::{Attempt, EventOutcome};
use crate::outcome::{Outcome, SkipReason};

/// The result of a mock request: the answer, and the attempts at its event.
///
/// The assertions panic at the caller's line. The panic message describes the actual result.
#[derive(Debug)]
pub struct DeliveryResult {
    answer: Response<Bytes>,
    attempts: Vec<Attempt>,
}

impl DeliveryResult {
    pub(super) fn new(answer: Response<Bytes>, attempts: Vec<Attempt>) -> Self {
        Self { answer, attempts }
    }

    /// Returns the answer.
    #[must_use]
    pub fn answer(&self) -> &Response<Bytes> {
        &self.answer
    }

    /// Returns the attempts at the request's event. A rejected event and a duplicate have no
    /// attempts.
    #[must_use]
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// Returns the outcome of a route in the last attempt that ran it, or `None` if the route didn't
    /// run.
    #[must_use]
    pub fn outcome(&self, route: &str) -> Option<&Outcome> {
        let attempts = self.attempts.iter().rev();
        attempts
            .filter_map(|attempt| attempt.report().get(route))
            .next()
    }

    /// Asserts the status of the answer.
    #[track_caller]
    pub fn assert_status(&self, status: u16) {
        assert!(
            self.answer.status().as_u16() == status,
            "expected the answer {status}, but {}",
            self.actual()
        );
    }

    /// Asserts that this route handled the event.
    #[track_caller]
    pub fn assert_handled(&self, route: &str) {
        let handled = self.outcome(route).is_some_and(Outcome::is_handled);
        assert!(
            handled,
            "expected `{route}` to handle the event, but {}",
            self.actual()
        );
    }

    /// Asserts that this route failed in its last attempt, and that the text of its outcome contains
    /// `reason`.
    ///
    /// The text starts with `failed`, `panicked`, `mismatched`, `timed out` or `dropped`, and contains the handler's
    /// error message.
    #[track_caller]
    pub fn assert_failed(&self, route: &str, reason: &str) {
        let failed = self.outcome(route).filter(|outcome| outcome.is_failure());
        let fits = failed.is_some_and(|outcome| outcome.to_string().contains(reason));
        assert!(
            fits,
            "expected `{route}` to fail with {reason:?}, but {}",
            self.actual()
        );
    }

    /// Asserts that this route [skipped](Outcome::Skipped) the event in its last attempt.
    #[track_caller]
    pub fn assert_skipped(&self, route: &str, reason: &SkipReason) {
        let outcome = self.outcome(route);
        assert!(
            matches!(outcome, Some(Outcome::Skipped(actual)) if actual == reason),
            "expected `{route}` to skip the event as {reason}, but {}",
            self.actual()
        );
    }

    /// Asserts that the event was accepted and that no route other than `on_any` matched.
    #[track_caller]
    pub fn assert_unhandled(&self) {
        let event_outcome = self.attempts.last().and_then(Attempt::event_outcome);
        assert!(
            event_outcome == Some(EventOutcome::Unhandled),
            "expected no route to match, but {}",
            self.actual()
        );
    }

    /// Returns the actual result, as the second half of a panic message.
    fn actual(&self) -> String {
        let status = self.answer.status();
        let said = String::from_utf8_lossy(self.answer.body());
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(" ({said})")
        };
        match self.attempts.as_slice() {
            [] if status.is_success() => {
                format!(
                    "the answer was {status}{said} and no route ran, as for a duplicate messageId"
                )
            }
            [] => format!("the answer was {status}{said} and no route ran"),
            [.., last] => format!(
                "the answer was {status}{said} and this ran: {}",
                last.report()
            ),
        }
    }
}
