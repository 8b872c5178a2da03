use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::{RetryPolicy, Verdict};
use crate::outcome::{Ledger, Outcome, Report};

/// How far an event has come: which attempt is next, and which of its routes need none.
///
/// It is the names of the finished routes that are kept, never those that remain: a retry runs the
/// routes that match then, less the finished ones. So a route that was renamed in between may run
/// twice, and none is lost.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    attempt: NonZeroU32,
    finished: Vec<Arc<str>>,
    /// The routes that failed in the last attempt and will be tried again.
    waiting: Vec<Arc<str>>,
    /// Whether one of the finished routes failed for good.
    dead: bool,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    /// Another one after this time.
    Retry(Duration),
    /// Nothing.
    End(Verdict),
}

impl Progress {
    /// Returns that of an event before its first attempt.
    pub(crate) fn new() -> Self {
        Self {
            attempt: NonZeroU32::MIN,
            finished: Vec::new(),
            waiting: Vec::new(),
            dead: false,
        }
    }

    /// Returns the ledger of the next attempt.
    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::new(Ledger::new(self.attempt, self.finished.clone()))
    }

    /// Takes in what an attempt at the event of this id came to.
    pub(crate) fn advance(&mut self, report: &Report, policy: &RetryPolicy, id: &str) -> Next {
        let last = policy.is_last(self.attempt);
        let mut asked = None;
        let mut failed = std::mem::take(&mut self.waiting);
        // A layer that kept the event from the router has done nothing for the routes that wait.
        failed.retain(|route| report.is_routerless() && report.get(route).is_none());
        for each in report.routes() {
            match retry(each.outcome()) {
                Retry::Done => self.finished.push(each.name()),
                Retry::Wanted(delay) => {
                    failed.push(each.name());
                    asked = asked.max(delay);
                }
                Retry::Futile => {
                    self.finished.push(each.name());
                    self.dead = true;
                }
            }
        }
        if last && !failed.is_empty() {
            self.finished.append(&mut failed);
            self.dead = true;
        }
        self.waiting = failed;
        if self.waiting.is_empty() {
            return Next::End(self.verdict(report));
        }
        let wait = policy.wait(self.attempt, id, asked);
        self.attempt = self.attempt.saturating_add(1);
        Next::Retry(wait)
    }

    /// Returns the verdict if no attempt follows the one of `report`, whatever the policy.
    pub(crate) fn give_up(&self, report: &Report) -> Verdict {
        if report.is_success() {
            self.verdict(report)
        } else {
            Verdict::Dead
        }
    }

    /// Returns the routes that wait for the next attempt.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = Arc<str>> {
        self.waiting.iter().cloned()
    }

    fn verdict(&self, report: &Report) -> Verdict {
        if self.dead {
            Verdict::Dead
        } else if report.is_unhandled() {
            Verdict::Unhandled
        } else {
            Verdict::Handled
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
    Futile,
}

fn retry(outcome: &Outcome) -> Retry {
    match outcome {
        Outcome::Handled => Retry::Done,
        Outcome::Mismatched(_) => Retry::Futile,
        Outcome::Failed(error) if error.is_permanent() => Retry::Futile,
        Outcome::Failed(error) => Retry::Wanted(error.delay()),
        Outcome::Panicked(_) | Outcome::TimedOut | Outcome::Dropped => Retry::Wanted(None),
    }
}
