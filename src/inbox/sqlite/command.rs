use futures_channel::oneshot;

use super::park::Park;
use super::store::Kept;
use super::writer::Writer;
use crate::catch_panic::{catch_panic, discard};
use crate::delivery::{
    AttemptRecord, AttemptResult, DeadLetter, EventOutcome, Fingerprint, Job, Next, OrderKey,
    Progress, RouteResult, Wait,
};
use crate::inbox::{AcceptError, Accepted};
use crate::outcome::UsedKey;
use crate::runtime::{Clock, millis};
use crate::telemetry::CountedType;

/// The maximum number of bytes in the reasons of a stored attempt. If the reasons are longer, the attempt has only the names of the
/// outcomes.
const MAX_ATTEMPT_TEXT: usize = 4096;

/// A command to the writer.
pub(super) enum Command {
    Accept(Accept),
    CopyPending(CopyPending),
    Complete(Complete),
    Query(Query),
    /// The limits of a route may let the event with this number run.
    Unpark(u64),
    /// Checks for work, because an attempt is due or the inbox is draining.
    Wake,
}

/// The answer to an event.
pub(super) type Answer = oneshot::Sender<Result<Accepted, AcceptError>>;

/// An admitted event.
pub(super) struct Accept {
    pub(super) job: Box<Job>,
    pub(super) id: Fingerprint,
    pub(super) answer: Answer,
}

/// A copy of an event whose commit is pending. The copy waits for that commit.
pub(super) struct CopyPending {
    pub(super) id: Fingerprint,
    pub(super) counted_type: CountedType,
    pub(super) answer: Answer,
}

/// The answer to an event that waited for a commit.
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) result: Result<Accepted, AcceptError>,
    /// Whether the event is waiting for a worker.
    pub(super) runs: bool,
    /// The job of an event that isn't in memory. Dropping the job's span runs the subscriber's code, so no lock may be
    /// held then.
    pub(super) unused: Option<Box<Job>>,
}

impl Reply {
    /// Sends the answer. Returns whether the task that waits for the answer will spawn a worker.
    pub(super) fn send(self) -> bool {
        discard(self.unused);
        // Sending calls the waker of the waiting task, and the waker may panic.
        let sent = catch_panic(|| self.answer.send(self.result));
        self.runs && sent.is_ok_and(|sent| sent.is_ok())
    }
}

/// The result of an attempt, or of an event that can't run.
pub(super) struct Complete {
    pub(super) number: u64,
    pub(super) key: Option<OrderKey>,
    /// The size of the stored body in bytes.
    pub(super) size: u64,
    pub(super) step: Step,
    /// Present if the event waits for the limits of a route.
    pub(super) park: Option<Park>,
    /// The keys that the attempt used.
    pub(super) used_keys: Vec<UsedKey>,
}

/// The next step of an event.
pub(super) enum Step {
    /// Another attempt follows. `due_at` is a time of the inbox's clock.
    Retry {
        progress: Progress,
        due_at: u64,
        attempt: AttemptRecord,
    },
    /// No route ran, because the routes wait for their limits.
    Wait,
    /// Every route has handled the event, or none matches.
    End(EventOutcome, CountedType, Option<Box<Kept>>),
    /// The event becomes a dead letter. If an attempt ended the event, the record describes this attempt.
    DeadLetter(Box<DeadLetter>, Option<AttemptRecord>),
}

impl Complete {
    /// Returns whether nothing waits for this result. If so, the result may share the commit of a later request.
    pub(super) fn may_wait(&self) -> bool {
        self.key.is_none() && self.used_keys.is_empty() && matches!(self.step, Step::End(..))
    }

    /// Returns the result of an attempt that ends now. `keeps_handled` is true if the inbox keeps handled events.
    pub(super) fn attempt(
        mut job: Job,
        next: Next,
        (attempt_number, attempt): (u32, &AttemptResult),
        keeps_handled: bool,
        clock: &Clock,
    ) -> Self {
        let (number, size) = (job.number, job.size() as u64);
        let record = || {
            let record = attempt.record(attempt_number, clock.system_time());
            record.within(MAX_ATTEMPT_TEXT)
        };
        let used_keys = job.progress.take_used_keys();
        let park = match next {
            Next::Wait(wait) => Some(Park::new(&mut job.progress, wait, clock)),
            Next::Retry(_) | Next::End(_) => None,
        };
        let step = match next {
            Next::Wait(Wait { has_run: false, .. }) => Step::Wait,
            // The next process asks the limits again at once.
            Next::Wait(_) => Step::Retry {
                attempt: record(),
                progress: job.progress,
                due_at: clock.now(),
            },
            Next::Retry(delay) => Step::Retry {
                attempt: record(),
                progress: job.progress,
                due_at: clock.now().saturating_add(millis(delay)),
            },
            Next::End(EventOutcome::Dead) => {
                let at = clock.system_time();
                let letter = DeadLetter::new(number, job.event, &job.progress, at);
                Step::DeadLetter(Box::new(letter), Some(record()))
            }
            Next::End(outcome) => {
                let event_type = job.event.event_type();
                let kept = keeps_handled.then(|| {
                    Box::new(Kept {
                        event: job.event.clone(),
                        routes: match job.progress.results() {
                            // If the first attempt handled the event, only the report has the routes.
                            [] => RouteResult::handled(&attempt.report),
                            results => results.to_vec(),
                        },
                        attempts: job.progress.attempts(),
                        attempt: record(),
                        ended_at: clock.system_time(),
                    })
                });
                Step::End(outcome, CountedType::of(event_type), kept)
            }
        };
        Self {
            number,
            key: job.key,
            size,
            step,
            park,
            used_keys,
        }
    }
}

/// Code that runs on the writer's thread.
pub(super) type Query = Box<dyn FnOnce(&mut Writer) + Send>;
