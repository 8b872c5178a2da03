//! What this crate logs, in one place: never a secret, a payload, a handler's error or a panic's
//! text unless asked.
//!
//! Without the feature `tracing` all of it is nothing.

use std::time::Duration;

#[cfg(feature = "tracing")]
use crate::error::Error;
use crate::event::Event;
#[cfg(feature = "tracing")]
use crate::outcome::Outcome;
use crate::outcome::Report;

/// Where a delivery's span hangs: the span that the event was accepted in.
#[derive(Clone, Debug)]
pub(crate) struct ParentSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[cfg(feature = "tracing")]
mod on {
    use tracing::instrument::{Instrument, Instrumented};
    use tracing::{Span, debug, debug_span, trace, warn};
    #[cfg(feature = "sqlite")]
    use tracing::{error, info};

    use super::{Duration, Error, Event, Outcome, ParentSpan, Report};
    use crate::catch_panic::catch_panic;

    /// One name to filter by, whatever the modules in here are called.
    const TARGET: &str = "botisimo_webhooks";

    impl ParentSpan {
        pub(crate) fn current() -> Self {
            Self {
                span: Span::current(),
            }
        }

        /// Returns that of an event that no request brought.
        pub(crate) fn none() -> Self {
            Self { span: Span::none() }
        }

        /// Returns the span of the event's delivery.
        pub(crate) fn delivery(&self, event: &Event) -> AttemptSpan {
            let (id, event_type) = (event.id(), event.event_type().as_str());
            let span = debug_span!(target: TARGET, parent: &self.span, "delivery", event_type, event_id = id);
            // A filter that drops our span must not cost the handlers that of the request.
            AttemptSpan(if span.is_disabled() {
                self.span.clone()
            } else {
                span
            })
        }
    }

    pub(crate) struct AttemptSpan(Span);

    impl AttemptSpan {
        pub(crate) fn instrument<F: Future>(self, delivery: F) -> Instrumented<F> {
            delivery.instrument(self.0)
        }
    }

    /// Writes to the log. A subscriber of the user's, or an error that panics when it is written, must not cost more than
    /// the line: an event its count, or a request its answer.
    fn contained(write: impl FnOnce()) {
        let _ = catch_panic(write);
    }

    pub(crate) fn suspect_route(pattern: &str) {
        contained(|| {
            warn!(target: TARGET, pattern, "no documented event type matches this route");
        });
    }

    pub(crate) fn unverified() {
        contained(|| {
            warn!(target: TARGET, "webhooks are accepted from anyone who knows the URL: set a secret with `verify`");
        });
    }

    pub(crate) fn accepted(event: &Event) {
        contained(|| {
            trace!(
                target: TARGET,
                event_id = event.id(),
                event_type = event.event_type().as_str(),
                "event accepted"
            );
        });
    }

    pub(crate) fn rejected(status: u16, reason: &str, loud: bool) {
        contained(|| {
            if loud {
                warn!(target: TARGET, status, reason, "webhook rejected");
            } else {
                debug!(target: TARGET, status, reason, "webhook rejected");
            }
        });
    }

    /// `retry_in` is the wait before the next attempt, if there is one.
    pub(crate) fn delivered(
        event: &Event,
        report: &Report,
        retry_in: Option<Duration>,
        errors: bool,
    ) {
        contained(|| {
            let (event_id, event_type) = (event.id(), event.event_type().as_str());
            for each in report.failures() {
                let (route, outcome) = (each.route(), each.outcome());
                // What doesn't fit is our own text, and so free of payload.
                let said = errors
                    || match outcome {
                        Outcome::Mismatched(_) => true,
                        Outcome::Failed(error) => error.get_ref().is::<Error>(),
                        _ => false,
                    };
                let outcome = if said {
                    outcome.to_string()
                } else {
                    outcome.as_str().to_owned()
                };
                let (attempt, last) = (event.attempt(), retry_in.is_none());
                warn!(target: TARGET, event_id, event_type, attempt, last, route, outcome, "a route failed");
            }
            if report.is_unhandled() {
                debug!(target: TARGET, event_id, event_type, "no route matched");
            }
        });
    }

    pub(crate) fn window_shortened() {
        contained(|| {
            warn!(
                target: TARGET,
                "more ids than there is room for: the oldest are forgotten before their window is over"
            );
        });
    }

    /// `error` is about files and their system: it holds nothing that was sent.
    #[cfg(feature = "sqlite")]
    pub(crate) fn inbox_failing(error: &Error) {
        contained(|| {
            let source = std::error::Error::source(error).map(tracing::field::display);
            error!(target: TARGET, %error, source, "the inbox doesn't work: events are answered 503");
        });
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn inbox_corrupt(error: &Error) {
        contained(|| {
            let source = std::error::Error::source(error).map(tracing::field::display);
            error!(target: TARGET, %error, source, "the inbox is damaged: events that can't be read aren't delivered, those that can't be written are answered 503");
        });
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn inbox_recovered() {
        contained(|| {
            info!(target: TARGET, "the inbox works again");
        });
    }

    /// `error` is about the server and the way to it: it holds nothing that was sent.
    #[cfg(feature = "jetstream")]
    pub(crate) fn pull_failed(route: &str, error: &async_nats::Error) {
        contained(|| {
            warn!(target: TARGET, route, %error, "a route's events can't be pulled: trying again");
        });
    }

    /// See [`pull_failed`].
    #[cfg(feature = "jetstream")]
    pub(crate) fn burial_failed(route: &str, error: &Error) {
        contained(|| {
            let source = std::error::Error::source(error).map(tracing::field::display);
            warn!(target: TARGET, route, %error, source, "trying again");
        });
    }

    #[cfg(feature = "jetstream")]
    pub(crate) fn lagging(route: &str, waited: Duration) {
        contained(|| {
            warn!(
                target: TARGET,
                route,
                ?waited,
                "events wait for longer than half of the time that the stream keeps them: add workers, or they are lost"
            );
        });
    }

    #[cfg(feature = "jetstream")]
    pub(crate) fn fallback_is_off() {
        contained(|| {
            warn!(target: TARGET, "the router has a fallback that gets no events: see `deliver_fallback`");
        });
    }

    pub(crate) fn hook_panicked(hook: &'static str) {
        contained(|| {
            warn!(target: TARGET, hook, "a hook panicked");
        });
    }
}

#[cfg(not(feature = "tracing"))]
#[allow(clippy::unused_self)] // the same methods as those that log
mod on {
    use super::{Duration, Event, ParentSpan, Report};

    impl ParentSpan {
        pub(crate) fn current() -> Self {
            Self {}
        }

        pub(crate) fn none() -> Self {
            Self {}
        }

        pub(crate) fn delivery(&self, _: &Event) -> AttemptSpan {
            AttemptSpan
        }
    }

    pub(crate) struct AttemptSpan;

    impl AttemptSpan {
        pub(crate) fn instrument<F: Future>(self, delivery: F) -> F {
            delivery
        }
    }

    pub(crate) fn suspect_route(_: &str) {}
    pub(crate) fn unverified() {}
    pub(crate) fn accepted(_: &Event) {}
    pub(crate) fn rejected(_: u16, _: &str, _: bool) {}
    pub(crate) fn delivered(_: &Event, _: &Report, _: Option<Duration>, _: bool) {}
    pub(crate) fn window_shortened() {}
    pub(crate) fn hook_panicked(_: &'static str) {}
    #[cfg(feature = "jetstream")]
    pub(crate) fn pull_failed(_: &str, _: &async_nats::Error) {}
    #[cfg(feature = "jetstream")]
    pub(crate) fn burial_failed(_: &str, _: &crate::error::Error) {}
    #[cfg(feature = "jetstream")]
    pub(crate) fn lagging(_: &str, _: Duration) {}
    #[cfg(feature = "jetstream")]
    pub(crate) fn fallback_is_off() {}
    #[cfg(feature = "sqlite")]
    pub(crate) fn inbox_failing(_: &crate::error::Error) {}
    #[cfg(feature = "sqlite")]
    pub(crate) fn inbox_corrupt(_: &crate::error::Error) {}
    #[cfg(feature = "sqlite")]
    pub(crate) fn inbox_recovered() {}
}

pub(crate) use self::on::{
    accepted, delivered, hook_panicked, rejected, suspect_route, unverified, window_shortened,
};
#[cfg(feature = "jetstream")]
pub(crate) use self::on::{burial_failed, fallback_is_off, lagging, pull_failed};
#[cfg(feature = "sqlite")]
pub(crate) use self::on::{inbox_corrupt, inbox_failing, inbox_recovered};
