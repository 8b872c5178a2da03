use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use super::{Deliverer, EventService, Hire, Job, Next};
use crate::contain::{Contained, contain};
use crate::outcome::Ledger;

/// What a worker asks of its inbox.
pub(crate) trait Desk: Send + Sync + 'static {
    type Service: EventService;

    fn deliverer(&self) -> &Deliverer<Self::Service>;

    /// See [`Crew::hire`](super::Crew::hire).
    fn hire(&self) -> Option<Hire>;

    /// See [`Crew::was_dropped`](super::Crew::was_dropped).
    fn was_dropped(&self, hire: Hire) -> bool;

    /// See [`Crew::retire`](super::Crew::retire).
    fn retire(&self, begun: bool);

    /// Gives a worker its next event. If there is none the worker is counted out under the same
    /// lock, so that nothing can be put in line for one that is about to leave.
    fn next(&self) -> Option<Box<Job>>;

    /// See [`Crew::turn`](super::Crew::turn).
    fn turn(&self) -> usize;

    /// Takes an event back after an attempt: `next` follows.
    fn concluded(self: Arc<Self>, job: Box<Job>, next: Next);

    /// Takes an event back whose attempt was dropped by the runtime.
    fn dropped(self: Arc<Self>, job: Box<Job>, ledger: &Arc<Ledger>);
}

/// Spawns the workers that are needed, as long as the runtime can.
pub(crate) fn staff<D: Desk>(desk: &Arc<D>) {
    while let Some(hire) = desk.hire() {
        // A runtime that has shut down drops what it is given, and would do so for ever.
        if !spawn(desk) || desk.was_dropped(hire) {
            return;
        }
    }
}

/// Spawns a worker that was hired; false if the runtime can't.
pub(crate) fn spawn<D: Desk>(desk: &Arc<D>) -> bool {
    let place = Place {
        desk: Arc::clone(desk),
        begun: false,
        retired: false,
    };
    let runtime = &desk.deliverer().runtime;
    contain(|| runtime.spawn(Box::pin(work(place)))).is_ok()
}

/// A worker's place among the N, which the crew has counted. It is given back at the worker's end,
/// and by its drop if the runtime drops it before.
struct Place<D: Desk> {
    desk: Arc<D>,
    /// Whether the worker was ever polled.
    begun: bool,
    /// Whether the place has been given back.
    retired: bool,
}

impl<D: Desk> Place<D> {
    fn next(&mut self) -> Option<Box<Job>> {
        let next = self.desk.next();
        self.retired = next.is_none();
        next
    }
}

impl<D: Desk> Drop for Place<D> {
    fn drop(&mut self) {
        if self.retired {
            return;
        }
        self.desk.retire(self.begun);
        // The runtime may have dropped this one worker only: what it leaves behind is for others. One
        // that never began was dropped by a runtime that would drop the next as well.
        if self.begun {
            staff(&self.desk);
        }
    }
}

/// Delivers the events that wait, one after another, until none does.
async fn work<D: Desk>(mut place: Place<D>) {
    place.begun = true;
    let mut delivered = 0;
    while let Some(job) = place.next() {
        let running = Running::new(Arc::clone(&place.desk), job);
        // What is the user's own is contained where it is called. This is for the rest, drops and
        // subscribers: the next event must not suffer for this one.
        let _ = Contained::new(running.run()).await;
        delivered += 1;
        // A queue that never empties must not keep the thread from the others.
        if delivered >= place.desk.turn() {
            delivered = 0;
            yield_now().await;
        }
    }
}

/// An event in delivery. Whatever happens, it is handed back once: after its attempt, or when it is
/// dropped before that.
struct Running<D: Desk> {
    desk: Arc<D>,
    ledger: Arc<Ledger>,
    /// Taken when the attempt has ended.
    job: Option<Box<Job>>,
}

impl<D: Desk> Running<D> {
    fn new(desk: Arc<D>, job: Box<Job>) -> Self {
        Self {
            desk,
            ledger: job.progress.ledger(),
            job: Some(job),
        }
    }

    async fn run(mut self) {
        let Some(job) = &self.job else { return };
        let (event, span) = (job.event.clone(), job.origin.delivery(&job.event));
        // It borrows `self`: a span that can't be entered is never dropped, and what is in it neither.
        let delivery = async {
            let report = self.desk.deliverer().attempt(event, &self.ledger).await;
            let Some(mut job) = self.job.take() else {
                return;
            };
            let next = self
                .desk
                .deliverer()
                .conclude(&mut job, &self.ledger, report);
            Arc::clone(&self.desk).concluded(job, next);
        };
        span.instrument(delivery).await;
    }
}

impl<D: Desk> Drop for Running<D> {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            Arc::clone(&self.desk).dropped(job, &self.ledger);
        }
    }
}

async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
