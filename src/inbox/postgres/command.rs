use std::time::{Duration, Instant};

use futures_channel::oneshot;

use crate::catch_panic::{catch_panic, discard};
use crate::delivery::{
    AttemptRecord, AttemptResult, DeadLetter, EventOutcome, Job, Next, OrderKey, RouteResult,
};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted};
use crate::runtime::Clock;
use crate::telemetry::ParentSpan;

/// The maximum number of bytes in the reasons of a stored attempt. If the reasons are longer, the attempt has only the names of the
/// outcomes.
const MAX_ATTEMPT_TEXT: usize = 4096;

/// A command to the writer.
pub(super) enum Command {
    Accept(Accept),
    Complete(Complete),
    /// Lets an event run that waits for the limits of a route.
    Unpark(u64),
    /// Checks for work: events without an owner, due attempts, or a drain.
    Wake,
}

/// The answer to an event.
pub(super) type Answer = oneshot::Sender<Result<Accepted, AcceptError>>;

/// An event to store.
pub(super) struct Accept {
    pub(super) event: Event,
    pub(super) key: Option<OrderKey>,
    pub(super) parent_span: ParentSpan,
    /// The answer if the event isn't a copy. If present, the writer stores nothing.
    pub(super) refusal: Option<AcceptError>,
    /// Whether an earlier statement may have stored the event.
    pub(super) may_be_stored: bool,
    pub(super) answer: Answer,
}

impl Accept {
    pub(super) fn size(&self) -> u64 {
        self.event.body().len() as u64
    }
}

/// The answer to an event, to be sent without a lock.
pub(super) struct Reply {
    answer: Answer,
    result: Result<Accepted, AcceptError>,
    /// Dropping the span runs the subscriber's code, so no lock may be held then.
    unused: Option<ParentSpan>,
}

impl Reply {
    pub(super) fn new(
        answer: Answer,
        result: Result<Accepted, AcceptError>,
        unused: Option<ParentSpan>,
    ) -> Self {
        Self {
            answer,
            result,
            unused,
        }
    }

    pub(super) fn send(self) {
        discard(self.unused);
        // Sending calls the waker of the waiting task, and the waker may panic.
        let _ = catch_panic(|| self.answer.send(self.result));
    }
}

/// The result of an attempt, or of an event that can't run.
pub(super) struct Complete {
    pub(super) number: u64,
    pub(super) has_key: bool,
    pub(super) step: Step,
}

/// The next step of an event.
pub(super) enum Step {
    /// Another attempt follows.
    Retry {
        job: Box<Job>,
        due: Instant,
        attempt: AttemptRecord,
        /// Whether the worker releases the event until then.
        releases: bool,
        /// Present if the event also waits for the limits of a route.
        park: Option<Park>,
    },
    /// The event waits for the limits of a route, and the attempt doesn't count.
    Wait(Box<Job>, Park),
    /// Every route has handled the event, or none matches.
    End(EventOutcome, Option<Box<Kept>>),
    /// The event becomes a dead letter. If an attempt ended the event, the record describes this attempt.
    DeadLetter(Box<DeadLetter>, Option<AttemptRecord>),
}

/// How an event waits for the limits of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Park {
    /// When the wait began.
    pub(super) since: Instant,
    /// When another route of the event is retried, if one is.
    pub(super) due: Option<Instant>,
}

/// A handled or unhandled event that the inbox keeps.
pub(super) struct Kept {
    pub(super) routes: Vec<RouteResult>,
    pub(super) attempts: u32,
    pub(super) attempt: AttemptRecord,
}

impl Complete {
    /// Returns the result of an attempt that ended at `now`. `may_be_complete` is true if a handler may have called `complete`. `keeps_handled` is true if the inbox keeps handled events.
    pub(super) fn attempt(
        job: Box<Job>,
        next: Next,
        (attempt_number, attempt): (u32, &AttemptResult),
        may_be_complete: bool,
        keeps_handled: bool,
        (clock, now): (&Clock, Instant),
    ) -> Self {
        let number = job.number;
        let has_key = job.key.is_some();
        let record = || {
            let record = attempt.record(attempt_number, clock.system_time());
            record.within(MAX_ATTEMPT_TEXT)
        };
        let after = |delay| now.checked_add(delay).unwrap_or(now + FAR);
        let step = match next {
            Next::Wait(wait) => {
                let park = Park {
                    since: now,
                    due: wait.retry.map(after),
                };
                match wait.has_run {
                    false => Step::Wait(job, park),
                    true => Step::Retry {
                        attempt: record(),
                        job,
                        releases: may_be_complete,
                        due: park.due.unwrap_or_else(|| after(WAIT)),
                        park: Some(park),
                    },
                }
            }
            Next::Retry(delay) => Step::Retry {
                attempt: record(),
                job,
                // If the event is claimed again, the routes that have called `complete` don't run.
                releases: may_be_complete,
                due: after(delay),
                park: None,
            },
            Next::End(EventOutcome::Dead) => {
                let at = clock.system_time();
                let letter = DeadLetter::new(number, job.event, &job.progress, at);
                Step::DeadLetter(Box::new(letter), Some(record()))
            }
            Next::End(outcome) => {
                let kept = keeps_handled.then(|| {
                    Box::new(Kept {
                        routes: match job.progress.results() {
                            // If the first attempt handled the event, only the report has the routes.
                            [] => RouteResult::handled(&attempt.report),
                            results => results.to_vec(),
                        },
                        attempts: job.progress.attempts(),
                        attempt: record(),
                    })
                });
                Step::End(outcome, kept)
            }
        };
        Self {
            number,
            has_key,
            step,
        }
    }
}

/// How long a released event waits for the limits of a route.
pub(super) const WAIT: Duration = Duration::from_secs(1);

/// A delay for times that the platform can't represent.
const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
