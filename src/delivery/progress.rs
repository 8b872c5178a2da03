use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{EventOutcome, RetryPolicy, RouteResult};
#[cfg(feature = "sqlite")]
use crate::outcome::SERVICE;
use crate::outcome::{AttemptState, Outcome, Report, RouteReport};

/// How far an event has come: which attempt is next, and which of its routes need none.
///
/// It is the names of the finished routes that are kept, never those that remain: a retry runs the
/// routes that match then, less the finished ones. So a route that was renamed in between may run
/// twice, and none is lost.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    attempt: NonZeroU32,
    /// Absent while there is nothing to remember: most events end with their first attempt, and those
    /// that wait for it may be many.
    routes: Option<Box<Routes>>,
}

/// What is known of an event's routes.
#[derive(Clone, Debug, Default)]
struct Routes {
    /// The finished ones.
    ends: Vec<RouteResult>,
    /// Those that failed in the last attempt and will be tried again.
    waiting: Vec<Arc<str>>,
}

/// What stands for routes that wait and whose names weren't kept. They are those that match when the
/// event runs again.
const OTHERS: &str = "the routes that were left";

/// What follows an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Another one after this time.
    Retry(Duration),
    /// Nothing.
    End(EventOutcome),
}

impl Progress {
    /// Returns that of an event before its first attempt.
    pub(crate) fn new() -> Self {
        Self {
            attempt: NonZeroU32::MIN,
            routes: None,
        }
    }

    /// Returns that of an event whose next attempt is `attempt`, and of whose routes those of `ends`
    /// need none. `routed` says that others wait, whose names weren't kept.
    pub(crate) fn restored(attempt: NonZeroU32, ends: Vec<RouteResult>, routed: bool) -> Self {
        let others = routed.then(|| Arc::from(OTHERS));
        let waiting: Vec<_> = others.into_iter().collect();
        let nothing = ends.is_empty() && waiting.is_empty();
        Self {
            attempt,
            routes: (!nothing).then(|| Box::new(Routes { ends, waiting })),
        }
    }

    /// Returns that of a dead letter that is sent round again: what did its work needs no run.
    pub(crate) fn replayed(ends: &[RouteResult]) -> Self {
        let done = ends.iter().filter(|end| end.reason.is_none());
        Self::restored(NonZeroU32::MIN, done.cloned().collect(), false)
    }

    /// Returns the attempt_state of the next attempt.
    pub(crate) fn attempt_state(&self) -> Arc<AttemptState> {
        let finished = self.ends().iter().map(|end| Arc::clone(&end.route));
        Arc::new(AttemptState::new(self.attempt, finished.collect()))
    }

    /// Takes in what an attempt at the event of this id came to.
    pub(crate) fn advance(&mut self, report: &Report, policy: &RetryPolicy, id: &str) -> Next {
        if self.routes.is_none() && report.is_success() {
            return Next::End(self.event_outcome(report));
        }
        let last = policy.is_last(self.attempt);
        let mut asked = None;
        let routes = self.routes.get_or_insert_default();
        let mut waiting = std::mem::take(&mut routes.waiting);
        // A layer that kept the event from the router has done nothing for the routes that wait.
        waiting.retain(|route| report.is_routerless() && report.get(route).is_none());
        for each in report.routes() {
            match retry(each.outcome()) {
                Retry::Wanted(delay) if !last => {
                    waiting.push(each.name());
                    asked = asked.max(delay);
                }
                Retry::Done | Retry::Wanted(_) | Retry::Permanent => routes.finish(each, report),
            }
        }
        if last {
            // None of their own: what kept the event from them is the reason.
            let outcome = report.failures().next().map(|each| each.outcome().clone());
            let outcome = outcome.unwrap_or(Outcome::Dropped);
            let waiting = waiting.drain(..);
            let ends = waiting.map(|route| RouteResult::failed(route, &outcome));
            routes.ends.extend(ends);
        }
        routes.waiting = waiting;
        if routes.waiting.is_empty() {
            return Next::End(self.event_outcome(report));
        }
        let wait = policy.wait(self.attempt, id, asked);
        self.attempt = self.attempt.saturating_add(1);
        Next::Retry(wait)
    }

    /// Takes in what an attempt came to after which there is none, whatever the policy.
    pub(crate) fn fail(&mut self, report: &Report) -> EventOutcome {
        let routes = self.routes.get_or_insert_default();
        routes.waiting.clear();
        for each in report.routes() {
            routes.finish(each, report);
        }
        self.event_outcome(report)
    }

    /// Takes in what had done its work in an attempt that is made again.
    #[cfg(feature = "sqlite")]
    pub(crate) fn interrupt(&mut self, report: &Report) {
        let done = report.routes().iter();
        let done = done.filter(|each| each.outcome().is_handled());
        let routes = self.routes.get_or_insert_default();
        routes
            .ends
            .extend(done.map(|each| RouteResult::done(each.name())));
    }

    /// Gives up the routes that wait for the next attempt.
    pub(crate) fn abandon(&mut self) -> Report {
        let routes = self.routes.get_or_insert_default();
        let report = Report::dropped(std::mem::take(&mut routes.waiting).into_iter());
        self.fail(&report);
        // The attempt that it had been counted up for never began.
        self.attempt = NonZeroU32::new(self.attempt.get() - 1).unwrap_or(NonZeroU32::MIN);
        report
    }

    /// Returns the number of the next attempt, or of the last one if none follows.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempt.get()
    }

    /// Returns whether routes of a router wait for the next attempt.
    #[cfg(feature = "sqlite")]
    pub(crate) fn is_routed(&self) -> bool {
        let mut waiting = self.routes.iter().flat_map(|routes| &routes.waiting);
        waiting.any(|route| **route != *SERVICE)
    }

    /// Returns the finished routes.
    pub(crate) fn ends(&self) -> &[RouteResult] {
        self.routes.as_ref().map_or(&[], |routes| &routes.ends)
    }

    fn event_outcome(&self, report: &Report) -> EventOutcome {
        if self.ends().iter().any(|end| end.reason.is_some()) {
            EventOutcome::Dead
        } else if report.is_unhandled() {
            EventOutcome::Unhandled
        } else {
            EventOutcome::Handled
        }
    }
}

impl Routes {
    /// Writes how a route of a report ended.
    fn finish(&mut self, route: &RouteReport, report: &Report) {
        let end = match route.outcome() {
            Outcome::Handled => RouteResult::done(route.name()),
            outcome => RouteResult::failed(route.name(), outcome),
        };
        // A service without a router is no route of its own: where a layer keeps the event from the
        // routes that wait, each attempt has it again.
        let mut known = self.ends.iter_mut().filter(|_| report.is_routerless());
        match known.find(|known| known.route == end.route) {
            None => self.ends.push(end),
            Some(known) if end.reason.is_some() => *known = end,
            Some(_) => {}
        }
    }
}

/// What an outcome says about another attempt at its route.
enum Retry {
    /// There is nothing left to do.
    Done,
    /// It may help, if it isn't made sooner than this.
    Wanted(Option<Duration>),
    /// It can't help.
    Permanent,
}

fn retry(outcome: &Outcome) -> Retry {
    match outcome {
        Outcome::Handled => Retry::Done,
        Outcome::Mismatched(_) => Retry::Permanent,
        Outcome::Failed(error) if error.is_permanent() => Retry::Permanent,
        Outcome::Failed(error) => Retry::Wanted(error.delay()),
        Outcome::Panicked(_) | Outcome::TimedOut | Outcome::Dropped => Retry::Wanted(None),
    }
}
