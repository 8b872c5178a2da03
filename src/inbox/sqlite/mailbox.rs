use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;

use crate::catch_panic::discard;
use crate::delivery::{Fingerprint, Job, Next, OrderKey};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted};
use crate::telemetry::ParentSpan;

/// How many events may wait for the writer: some ten commits' worth.
const MAX_ARRIVALS: usize = 4096;

/// How many bytes their bodies may have.
const MAX_BYTES: usize = 16 << 20;

/// What waits for the writer, which takes all of it at once.
///
/// `W` is who collects the mail, and answers the requests in it.
pub(super) struct Mailbox<W> {
    inner: Mutex<Inner<W>>,
    filled: Condvar,
}

struct Inner<W> {
    mail: Mail<W>,
    /// Bytes of the arrivals' bodies.
    bytes: usize,
    /// Whether the writer is to look round: an attempt is due, or the inbox is drained.
    called: bool,
    closed: bool,
    /// Whether nobody will ever collect the mail.
    abandoned: bool,
    /// Whether the writer waits.
    waiting: bool,
}

/// What was in the mailbox.
pub(super) struct Mail<W> {
    pub(super) arrivals: Vec<Arrival>,
    pub(super) returns: Vec<Return>,
    pub(super) requests: Vec<Request<W>>,
}

/// An event that wants to be accepted.
pub(super) struct Arrival {
    pub(super) event: Event,
    pub(super) id: Fingerprint,
    pub(super) key: Option<OrderKey>,
    pub(super) parent_span: ParentSpan,
    pub(super) answer: oneshot::Sender<Result<Accepted, AcceptError>>,
}

/// An event after an attempt.
pub(super) struct Return {
    pub(super) job: Box<Job>,
    pub(super) next: Next,
    /// When it ended, by the inbox's clock.
    pub(super) at: u64,
}

/// A question to the store, answered on its thread.
pub(super) type Request<W> = Box<dyn FnOnce(&mut W) + Send>;

impl<W> Mailbox<W> {
    fn inner(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, put: impl FnOnce(&mut Inner<W>)) {
        let mut inner = self.inner();
        if inner.abandoned {
            // What isn't put in is dropped, and whoever waits for an answer to it is told by that.
            return;
        }
        put(&mut inner);
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        if waiting {
            self.filled.notify_one();
        }
    }

    /// Puts an event in, unless there are too many.
    pub(super) fn arrive(&self, arrival: Arrival) -> Result<(), AcceptError> {
        let size = arrival.event.body().len();
        // Unless nobody will see it.
        let mut refused = Some(AcceptError::unavailable());
        // What isn't put in is dropped when the lock is free: it ends a span.
        let mut arrival = Some(arrival);
        self.put(|inner| {
            let waiting = inner.mail.arrivals.len();
            let full = waiting > 0 && (waiting >= MAX_ARRIVALS || inner.bytes + size > MAX_BYTES);
            refused = full.then(AcceptError::full);
            if !full {
                inner.bytes += size;
                inner.mail.arrivals.extend(arrival.take());
            }
        });
        refused.map_or(Ok(()), Err)
    }

    /// Puts an event in after an attempt.
    pub(super) fn give_back(&self, returned: Return) {
        self.put(|inner| inner.mail.returns.push(returned));
    }

    pub(super) fn request(&self, request: Request<W>) {
        self.put(|inner| inner.mail.requests.push(request));
    }

    /// Has the writer look round.
    pub(super) fn call(&self) {
        self.put(|inner| inner.called = true);
    }

    /// Has the writer end, once it has taken what is there.
    pub(super) fn close(&self) {
        self.put(|inner| inner.closed = true);
    }

    /// Drops what is there and all that will come.
    pub(super) fn abandon(&self) {
        let mut inner = self.inner();
        inner.abandoned = true;
        let mail = std::mem::take(&mut inner.mail);
        drop(inner);
        discard(mail.arrivals);
        discard(mail.returns);
        discard(mail.requests);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner().closed
    }

    /// Waits until there is something, or for `patience`, and takes it all. Returns `None` once
    /// nothing will come any more.
    pub(super) fn collect(&self, patience: Duration) -> Option<Mail<W>> {
        let mut inner = self.inner();
        if inner.is_empty() && !inner.closed {
            inner.waiting = true;
            let wait = self
                .filled
                .wait_timeout_while(inner, patience, |inner| inner.is_empty() && !inner.closed);
            inner = wait.unwrap_or_else(PoisonError::into_inner).0;
            inner.waiting = false;
        }
        if inner.is_empty() && inner.closed {
            return None;
        }
        inner.called = false;
        inner.bytes = 0;
        Some(std::mem::take(&mut inner.mail))
    }
}

impl<W> Inner<W> {
    fn is_empty(&self) -> bool {
        let mail = &self.mail;
        !self.called
            && mail.arrivals.is_empty()
            && mail.returns.is_empty()
            && mail.requests.is_empty()
    }
}

impl<W> Default for Mailbox<W> {
    fn default() -> Self {
        Self {
            inner: Mutex::new(Inner {
                mail: Mail::default(),
                bytes: 0,
                called: false,
                closed: false,
                abandoned: false,
                waiting: false,
            }),
            filled: Condvar::new(),
        }
    }
}

impl<W> Default for Mail<W> {
    fn default() -> Self {
        Self {
            arrivals: Vec::new(),
            returns: Vec::new(),
            requests: Vec::new(),
        }
    }
}
