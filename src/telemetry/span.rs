use std::fmt;

#[cfg(feature = "tracing")]
use tracing::instrument::Instrument;

#[cfg(feature = "tracing")]
use super::log::TARGET;
#[cfg(feature = "tracing")]
use crate::catch_panic::catch_panic;

/// The span in which an event was accepted. The spans of the event's attempts are its children.
pub(crate) struct ParentSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

/// The span of one attempt.
pub(crate) struct AttemptSpan {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl ParentSpan {
    /// Returns the current span.
    pub(crate) fn current() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: or_none(tracing::Span::current),
        }
    }

    /// Returns an empty span, for an event that didn't arrive in a request to this process.
    pub(crate) fn none() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::Span::none(),
        }
    }

    /// Opens the span of an attempt at the event.
    pub(crate) fn attempt(&self, event_id: &str, event_type: &str) -> AttemptSpan {
        AttemptSpan {
            #[cfg(feature = "tracing")]
            span: or_none(|| {
                let span = tracing::debug_span!(target: TARGET, parent: &self.span, "attempt", event_type, event_id);
                // If a filter disables the attempt's span, handlers still log in the request's span.
                if span.is_disabled() {
                    self.span.clone()
                } else {
                    span
                }
            }),
        }
    }
}

/// Catches a panic of the user's subscriber when the span closes.
impl Drop for ParentSpan {
    fn drop(&mut self) {
        #[cfg(feature = "tracing")]
        {
            let span = std::mem::replace(&mut self.span, tracing::Span::none());
            let _ = catch_panic(|| drop(span));
        }
    }
}

impl AttemptSpan {
    /// Enters the span whenever `attempt` is polled or dropped.
    pub(crate) fn instrument<F: Future>(self, attempt: F) -> impl Future<Output = F::Output> {
        #[cfg(feature = "tracing")]
        let attempt = attempt.instrument(self.span);
        attempt
    }
}

/// Calls `open` and returns its span, or an empty span if the user's subscriber panics.
#[cfg(feature = "tracing")]
fn or_none(open: impl FnOnce() -> tracing::Span) -> tracing::Span {
    catch_panic(open).unwrap_or_else(|_| tracing::Span::none())
}

impl fmt::Debug for ParentSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParentSpan").finish_non_exhaustive()
    }
}
