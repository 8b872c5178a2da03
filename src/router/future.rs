use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::run_options::RunOptions;
use crate::catch_panic::{CatchPanic, PanicMessage};
use crate::outcome::{AttemptState, Outcome, Report, RouterRun};
use crate::runtime::BoxFuture;
use crate::telemetry::RouteSpan;

/// The future of [`EventRouter`](crate::EventRouter). Completes when all handlers of the event have
/// finished.
///
/// # Cancel safety
///
/// Dropping the future drops the handlers that are still running. An inbox retries their routes, but
/// not the routes that have finished.
#[must_use = "futures do nothing unless polled"]
pub struct RouterFuture {
    attempt_state: Arc<AttemptState>,
    run: RouterRun,
    runs: Runs,
    /// Signals the timeout of the attempt. Created when a handler first returns `Pending`.
    deadline: Option<oneshot::Receiver<()>>,
    /// Whether the attempt has timed out.
    expired: bool,
}

/// The handlers that are still running.
pub(super) enum Runs {
    None,
    One(Run),
    Many(FuturesUnordered<Run>),
}

/// The run of one handler. Completes with the handler's index in the router run and its outcome.
pub(super) struct Run {
    index: usize,
    span: RouteSpan,
    future: CatchPanic<BoxFuture<Outcome>>,
    /// Absent if no option of the route affects a run.
    options: Option<Box<RunOptions>>,
}

impl RouterFuture {
    pub(super) fn new(attempt_state: Arc<AttemptState>, run: RouterRun, runs: Runs) -> Self {
        Self {
            attempt_state,
            run,
            runs,
            deadline: None,
            expired: false,
        }
    }

    /// Polls the handlers and records their outcomes. Returns `Ready` when every handler has
    /// finished.
    fn poll_runs(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let next = match &mut self.runs {
                Runs::None => return Poll::Ready(()),
                Runs::One(run) => Pin::new(run).poll(cx).map(Some),
                Runs::Many(runs) => runs.poll_next_unpin(cx),
            };
            match next {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some((index, outcome))) => {
                    self.attempt_state.record(self.run, index, outcome);
                    if let Runs::One(_) = self.runs {
                        self.runs = Runs::None;
                    }
                }
                Poll::Ready(None) => self.runs = Runs::None,
            }
        }
    }

    /// Returns whether the attempt has timed out.
    fn is_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let deadline = match self
            .deadline
            .take()
            .or_else(|| self.attempt_state.deadline())
        {
            Some(deadline) => self.deadline.insert(deadline),
            None => return true,
        };
        // This future holds the attempt state, so the signal's sender is still alive.
        Pin::new(deadline).poll(cx).is_ready()
    }

    /// Drops the handlers that are still running and have no timeout of their own.
    fn time_out(&mut self) {
        self.runs = match std::mem::replace(&mut self.runs, Runs::None) {
            Runs::None => Runs::None,
            Runs::One(run) => Runs::start(self.keep(run).into_iter()),
            Runs::Many(runs) => Runs::start(runs.into_iter().filter_map(|run| self.keep(run))),
        };
    }

    /// Returns a run with its own timeout. Cancels any other run.
    fn keep(&self, mut run: Run) -> Option<Run> {
        if run
            .options
            .as_ref()
            .is_some_and(|options| options.has_timeout())
        {
            return Some(run);
        }
        let outcome = run.time_out();
        self.attempt_state.record(self.run, run.index, outcome);
        None
    }
}

impl Future for RouterFuture {
    type Output = Result<Report, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while self.poll_runs(cx).is_pending() {
            if self.expired || !self.is_expired(cx) {
                return Poll::Pending;
            }
            self.expired = true;
            self.time_out();
        }
        Poll::Ready(Ok(self.attempt_state.report(self.run)))
    }
}

impl Runs {
    /// Collects the runs of an event. A single run needs no `FuturesUnordered`.
    pub(super) fn start(mut runs: impl Iterator<Item = Run>) -> Self {
        match (runs.next(), runs.next()) {
            (None, _) => Self::None,
            (Some(only), None) => Self::One(only),
            (first, second) => Self::Many(first.into_iter().chain(second).chain(runs).collect()),
        }
    }
}

impl Run {
    pub(super) fn new(
        index: usize,
        span: RouteSpan,
        future: BoxFuture<Outcome>,
        options: Option<Box<RunOptions>>,
    ) -> Self {
        Self {
            index,
            span,
            future: CatchPanic::new(future),
            options,
        }
    }

    /// Drops the handler's future because of a timeout, and returns the outcome.
    fn time_out(&mut self) -> Outcome {
        match self.cancel() {
            Ok(()) => Outcome::TimedOut,
            Err(panic) => Outcome::Panicked(panic),
        }
    }

    /// Drops the handler's future now, in the route's span.
    fn cancel(&mut self) -> Result<(), PanicMessage> {
        self.span.in_scope(|| Pin::new(&mut self.future).cancel())
    }
}

impl Future for Run {
    type Output = (usize, Outcome);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let run = &mut *self;
        let end = run.span.in_scope(|| Pin::new(&mut run.future).poll(cx));
        let outcome = match (end, &mut run.options) {
            (Poll::Ready(end), None) => end.unwrap_or_else(Outcome::Panicked),
            (Poll::Ready(end), Some(options)) => {
                let outcome = end.unwrap_or_else(Outcome::Panicked);
                if outcome.is_handled() {
                    options.succeed();
                }
                outcome
            }
            (Poll::Pending, None) => return Poll::Pending,
            (Poll::Pending, Some(options)) => match ready!(options.poll_timeout(cx)) {
                Ok(()) => run.time_out(),
                Err(panic) => Outcome::Panicked(panic),
            },
        };
        Poll::Ready((run.index, outcome))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.cancel();
    }
}

impl fmt::Debug for RouterFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterFuture").finish_non_exhaustive()
    }
}
