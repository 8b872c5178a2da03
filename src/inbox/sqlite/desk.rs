use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::mailbox::{Arrival, Mailbox, Return};
use super::window::Shared;
use super::writer::{Office, Writer};
use crate::contain::{Contained, contain};
use crate::delivery::{
    DeadLetter, Deliverer, Delivery, Desk, EventService, Fingerprints, Hire, Job, Next, Stats,
    staff,
};
use crate::event::Event;
use crate::inbox::{Accepted, Control, DeadLetterStore, Drained, Refused};
use crate::outcome::{End, Ledger, Outcome};
use crate::runtime::{BoxFuture, Clock};
use crate::telemetry::Origin;

/// How long an event waits that the runtime dropped while it ran.
const DROPPED: Duration = Duration::from_secs(1);

/// What the inbox, its workers and its writer share.
pub(super) struct SqliteDesk<S> {
    pub(super) mailbox: Arc<Mailbox<Writer>>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Arc<Clock>,
    pub(super) fingerprints: Arc<Fingerprints>,
    pub(super) deliverer: Deliverer<S>,
}

impl<S> SqliteDesk<S> {
    /// Hands an event to the writer.
    pub(super) fn arrive(
        &self,
        event: Event,
        answer: oneshot::Sender<Result<Accepted, Refused>>,
    ) -> Result<(), Refused> {
        let arrival = Arrival {
            id: self.fingerprints.of(event.id()),
            key: self.deliverer.settings.order.key(&event),
            origin: Origin::current(),
            event,
            answer,
        };
        let arrived = self.mailbox.arrive(arrival);
        if arrived.is_err() {
            self.shared.change(|window| window.stats.refused += 1);
        }
        arrived
    }

    fn give_back(&self, job: Box<Job>, next: Next) {
        let at = self.clock.now();
        self.shared.change(super::window::Window::hand_back);
        self.mailbox.give_back(Return { job, next, at });
    }
}

/// Nobody has the inbox any more: its writer ends, and another process can have the file.
impl<S> Drop for SqliteDesk<S> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl<S: EventService> Desk for SqliteDesk<S> {
    type Service = S;

    fn deliverer(&self) -> &Deliverer<S> {
        &self.deliverer
    }

    fn hire(&self) -> Option<Hire> {
        self.shared.lock().hire()
    }

    fn was_dropped(&self, hire: Hire) -> bool {
        self.shared.lock().crew.was_dropped(hire)
    }

    fn retire(&self, begun: bool) {
        self.shared.lock().crew.retire(begun);
    }

    fn next(&self) -> Option<Box<Job>> {
        self.shared.lock().next()
    }

    fn turn(&self) -> usize {
        let window = self.shared.lock();
        window.crew.turn(window.ready())
    }

    fn concluded(self: Arc<Self>, job: Box<Job>, next: Next) {
        self.give_back(job, next);
    }

    fn dropped(self: Arc<Self>, mut job: Box<Job>, ledger: &Arc<Ledger>) {
        job.progress
            .interrupt(&ledger.close(&End::Lost(Outcome::Dropped)));
        // It wasn't the event's fault, and the event is safe: the same attempt is made again, by this
        // process or the next one.
        self.give_back(job, Next::Retry(DROPPED));
    }
}

impl<S: EventService> Office for SqliteDesk<S> {
    fn staff(self: Arc<Self>) {
        staff(&self);
    }

    fn died(&self, letter: &DeadLetter) {
        self.deliverer.settings.on_dead_letter.tell(letter);
    }

    fn alarm(&self, after: Duration) -> oneshot::Sender<()> {
        let (cancel, canceled) = oneshot::channel();
        let mailbox = Arc::clone(&self.mailbox);
        let runtime = &self.deliverer.runtime;
        // A runtime without a timer, or one that is gone: the writer looks round by itself in the end.
        let _ = contain(|| {
            let sleep = Contained::new(runtime.sleep(after));
            runtime.spawn(Box::pin(async move {
                // What says that this is still to ring is dropped before it does.
                let rings = matches!(select(sleep, canceled).await, Either::Left((Ok(()), _)));
                if rings {
                    mailbox.call();
                }
            }));
        });
        cancel
    }
}

impl<S: EventService> Control for SqliteDesk<S> {
    fn stats(&self) -> Stats {
        self.shared.lock().stats()
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            let rest = {
                let mut window = self.shared.lock();
                window.drain();
                window.rest()
            };
            self.mailbox.call();
            let resting = Arc::clone(&self);
            let at_rest = Box::pin(async move {
                if let Some(rest) = rest {
                    let _ = rest.await;
                }
                // Answered once the writer has put away what wasn't started.
                let _ = resting.ask(|_| Ok(())).await;
            });
            // A runtime without a timer: what can't be bounded isn't waited for.
            if let Ok(sleep) = contain(|| self.deliverer.runtime.sleep(within)) {
                drop(select(at_rest, Contained::new(sleep)).await);
            }
            Drained::new(self.shared.lock().in_flight())
        })
    }

    fn settled(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            let idle = self.shared.lock().idle();
            if let Some(idle) = idle {
                staff(&self);
                // The sender lives in the window, which this future holds.
                let _ = idle.await;
            }
        })
    }

    fn on_delivery(&self, hook: Arc<dyn Fn(&Delivery) + Send + Sync>) {
        self.deliverer.settings.on_delivery.add(hook);
    }

    fn on_dead_letter(&self, hook: Arc<dyn Fn(&DeadLetter) + Send + Sync>) {
        self.deliverer.settings.on_dead_letter.add(hook);
    }

    fn dead_letters(self: Arc<Self>) -> Option<Arc<dyn DeadLetterStore>> {
        Some(self)
    }
}
