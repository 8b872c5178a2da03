use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use crate::delivery::{Attempt, EventOutcome};
use crate::outcome::{Outcome, Report};

/// What came of a mock request: the answer, and the deliveries of its event.
///
/// The assertions panic at the caller's line, and say what happened instead.
#[derive(Debug)]
pub struct DeliveryResult {
    answer: Response<Bytes>,
    deliveries: Vec<Attempt>,
}

impl DeliveryResult {
    pub(super) fn new(answer: Response<Bytes>, deliveries: Vec<Attempt>) -> Self {
        Self { answer, deliveries }
    }

    /// Returns the status of the answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.answer.status()
    }

    /// Returns the headers of the answer.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.answer.headers()
    }

    /// Returns the body of the answer.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        self.answer.body()
    }

    /// Returns the attempts at the request's event: none if it wasn't accepted, or was a copy.
    #[must_use]
    pub fn deliveries(&self) -> &[Attempt] {
        &self.deliveries
    }

    /// Returns what the routes did in the last attempt, if there was one.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        self.deliveries.last().map(Attempt::report)
    }

    /// Returns what became of a route in the last attempt that ran it, or `None` if none did.
    #[must_use]
    pub fn outcome(&self, route: &str) -> Option<&Outcome> {
        let attempts = self.deliveries.iter().rev();
        attempts
            .filter_map(|attempt| attempt.report().get(route))
            .next()
    }

    /// Asserts that the request was answered 200.
    #[track_caller]
    pub fn assert_accepted(&self) {
        self.assert_status(200);
    }

    /// Asserts the status of the answer.
    #[track_caller]
    pub fn assert_status(&self, status: u16) {
        assert!(
            self.status().as_u16() == status,
            "expected the answer {status}, but {}",
            self.story()
        );
    }

    /// Asserts that the request was accepted, and that this route ran and did its work.
    #[track_caller]
    pub fn assert_handled(&self, route: &str) {
        let handled = self.outcome(route).is_some_and(Outcome::is_handled);
        assert!(
            handled,
            "expected `{route}` to handle the event, but {}",
            self.story()
        );
    }

    /// Asserts that this route ran and didn't do its work in its last attempt, for a reason whose
    /// text contains `reason`: that of the handler's error, or `panicked`, `timed out`,
    /// `mismatched`.
    #[track_caller]
    pub fn assert_failed(&self, route: &str, reason: &str) {
        let failed = self.outcome(route).filter(|outcome| !outcome.is_handled());
        let fits = failed.is_some_and(|outcome| outcome.to_string().contains(reason));
        assert!(
            fits,
            "expected `{route}` to fail with {reason:?}, but {}",
            self.story()
        );
    }

    /// Asserts that this route didn't run.
    #[track_caller]
    pub fn assert_not_run(&self, route: &str) {
        assert!(
            self.outcome(route).is_none(),
            "expected `{route}` not to run, but {}",
            self.story()
        );
    }

    /// Asserts that the event was accepted and that no route took it, those of `on_any` aside.
    #[track_caller]
    pub fn assert_unhandled(&self) {
        let event_outcome = self.deliveries.last().and_then(Attempt::event_outcome);
        assert!(
            event_outcome == Some(EventOutcome::Unhandled),
            "expected no route to match, but {}",
            self.story()
        );
    }

    /// Returns what happened, in one sentence.
    fn story(&self) -> String {
        let status = self.status();
        let said = String::from_utf8_lossy(self.body());
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(" ({said})")
        };
        match self.deliveries.as_slice() {
            [] if status.is_success() => {
                format!(
                    "the answer was {status}{said} and nothing ran, as for a copy of a messageId"
                )
            }
            [] => format!("the answer was {status}{said} and nothing ran"),
            [.., last] => format!(
                "the answer was {status}{said} and this ran: {}",
                last.report()
            ),
        }
    }
}
