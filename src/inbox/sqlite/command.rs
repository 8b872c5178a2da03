use futures_channel::oneshot;

use super::writer::Writer;
use crate::catch_panic::{catch_panic, discard};
use crate::delivery::{Fingerprint, Job, Next, OrderKey};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted};
use crate::runtime::millis;
use crate::telemetry::ParentSpan;

/// A command to the writer.
pub(super) enum Command {
    Accept(Accept),
    CopyPending(CopyPending),
    Complete(Complete),
    Query(Query),
    /// Checks for work, because an attempt is due or the inbox is draining.
    Wake,
}

/// The answer to an event.
pub(super) type Answer = oneshot::Sender<Result<Accepted, AcceptError>>;

/// An admitted event.
pub(super) struct Accept {
    pub(super) number: u64,
    pub(super) event: Event,
    pub(super) id: Fingerprint,
    pub(super) key: Option<OrderKey>,
    pub(super) parent_span: ParentSpan,
    /// The inbox has forgotten the message ids of all events up to this number.
    pub(super) forgotten: u64,
    pub(super) answer: Answer,
}

/// A copy of an event whose commit is pending. The copy waits for that commit.
pub(super) struct CopyPending {
    pub(super) id: Fingerprint,
    pub(super) answer: Answer,
}

/// The answer to an event that waited for a commit.
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) result: Result<Accepted, AcceptError>,
    /// Whether the event is waiting for a worker.
    pub(super) runs: bool,
    /// The span of an event that isn't running yet. Ending the span runs the subscriber's code, so no lock may be held
    /// then.
    pub(super) parent_span: Option<ParentSpan>,
}

impl Reply {
    /// Sends the answer. Returns `Some` if the task that waits for the answer will spawn a worker.
    pub(super) fn send(self) -> Option<()> {
        discard(self.parent_span);
        // Sending calls the waker of the waiting task, and the waker may panic.
        let sent = catch_panic(|| self.answer.send(self.result));
        (self.runs && sent.is_ok_and(|sent| sent.is_ok())).then_some(())
    }
}

/// An event whose attempt has ended.
pub(super) struct Complete {
    pub(super) job: Box<Job>,
    pub(super) next: Next,
    /// When the attempt ended, by the inbox's clock.
    pub(super) at: u64,
}

impl Complete {
    /// Returns when the next attempt is due.
    pub(super) fn due_at(&self) -> u64 {
        match self.next {
            Next::Retry(delay) => self.at.saturating_add(millis(delay)),
            Next::End(_) => self.at,
        }
    }
}

/// Code that runs on the writer's thread.
pub(super) type Query = Box<dyn FnOnce(&mut Writer) + Send>;
