use std::fmt;

#[cfg(feature = "tracing")]
use futures_util::future::Either;
#[cfg(feature = "tracing")]
use tracing::Span;
#[cfg(feature = "tracing")]
use tracing::instrument::Instrument;
#[cfg(feature = "tracing")]
use tracing::level_filters::LevelFilter;

use super::adopt::AdoptTraceparent;
#[cfg(feature = "tracing")]
use super::log::TARGET;
#[cfg(feature = "tracing")]
use crate::catch_panic::catch_panic;

/// The event and the number of an attempt, for the attempt's span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptId<'a> {
    pub(crate) event_id: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) traceparent: Option<&'a str>,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
}

/// The span in which an event was accepted. The spans of the event's attempts are its children.
pub(crate) struct ParentSpan(SafeSpan);

/// The span of one attempt. Each log line of an attempt shows the event's id and type from this span.
pub(crate) struct AttemptSpan(SafeSpan);

/// The span of one route in one attempt.
pub(crate) struct RouteSpan(SafeSpan);

impl ParentSpan {
    /// Returns the current span. If `adopt` adds the attempts to the event's stored trace, returns an empty span.
    ///
    /// A span ends with its last child. Otherwise, the request's span would last until the event's last attempt.
    pub(crate) fn current(adopt: &AdoptTraceparent, traceparent: Option<&str>) -> Self {
        if adopt.is_set() && traceparent.is_some() {
            return Self::none();
        }
        #[cfg(feature = "tracing")]
        return Self(SafeSpan::open(Span::current));
        #[cfg(not(feature = "tracing"))]
        Self::none()
    }

    /// Returns an empty span, for an event that didn't arrive in a request to this process.
    pub(crate) fn none() -> Self {
        Self(SafeSpan::none())
    }

    /// Opens the span of an attempt at the event.
    ///
    /// The span has the level `error`. So a filter that lets any line of this crate pass also lets the span pass, and no
    /// line lacks its event.
    pub(crate) fn attempt(&self, id: &AttemptId<'_>, adopt: &AdoptTraceparent) -> AttemptSpan {
        #[cfg(feature = "tracing")]
        return AttemptSpan(SafeSpan::open(|| {
            let AttemptId {
                event_id,
                event_type,
                traceparent,
                attempt,
            } = *id;
            let parent = self.0.span.as_ref();
            let span = tracing::error_span!(
                target: TARGET,
                parent: parent.and_then(Span::id),
                "attempt",
                event_id,
                event_type,
                attempt
            );
            if span.is_disabled() {
                // Handlers still log in the request's span.
                return parent.cloned().unwrap_or_else(Span::none);
            }
            if parent.is_none()
                && let Some(traceparent) = traceparent
            {
                adopt.call(&span, traceparent);
            }
            span
        }));
        #[cfg(not(feature = "tracing"))]
        AttemptSpan(SafeSpan::none())
    }
}

impl AttemptSpan {
    /// Enters the span whenever `attempt` is polled or dropped.
    pub(crate) fn instrument<F: Future>(self, attempt: F) -> impl Future<Output = F::Output> {
        #[cfg(feature = "tracing")]
        let attempt = {
            let mut span = self.0;
            match span.span.take() {
                Some(span) => Either::Left(attempt.instrument(span)),
                None => Either::Right(attempt),
            }
        };
        attempt
    }

    /// Runs `code` in the span. `code` must not panic.
    pub(crate) fn in_scope<T>(&self, code: impl FnOnce() -> T) -> T {
        self.0.in_scope(code)
    }
}

impl RouteSpan {
    /// Opens the span of a route in the current span.
    pub(crate) fn open(route: &str) -> Self {
        #[cfg(feature = "tracing")]
        return Self(SafeSpan::open(
            || tracing::error_span!(target: TARGET, "route", route),
        ));
        #[cfg(not(feature = "tracing"))]
        Self(SafeSpan::none())
    }

    /// Runs `code` in the span. `code` must not panic.
    pub(crate) fn in_scope<T>(&self, code: impl FnOnce() -> T) -> T {
        self.0.in_scope(code)
    }
}

/// A span whose subscriber may panic in any callback.
struct SafeSpan {
    /// Absent if the span is empty.
    #[cfg(feature = "tracing")]
    span: Option<Span>,
}

impl SafeSpan {
    fn none() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: None,
        }
    }

    /// Calls `open` and keeps its span. If the process has no subscriber, doesn't call `open`.
    #[cfg(feature = "tracing")]
    fn open(open: impl FnOnce() -> Span) -> Self {
        if LevelFilter::current() == LevelFilter::OFF {
            return Self::none();
        }
        let span = catch_panic(open).ok();
        Self {
            span: span.filter(|span| !span.is_disabled()),
        }
    }

    fn in_scope<T>(&self, code: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        if let Some(span) = &self.span {
            let entered = catch_panic(|| span.enter());
            let value = code();
            let _ = catch_panic(|| drop(entered));
            return value;
        }
        code()
    }
}

impl Drop for SafeSpan {
    fn drop(&mut self) {
        #[cfg(feature = "tracing")]
        if let Some(span) = self.span.take() {
            let _ = catch_panic(|| drop(span));
        }
    }
}

impl fmt::Debug for ParentSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParentSpan").finish_non_exhaustive()
    }
}
