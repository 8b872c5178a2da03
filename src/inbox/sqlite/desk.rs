use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::mailbox::{Arrival, Mailbox, Return};
use super::window::Shared;
use super::writer::{Office, Writer};
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{
    Attempt, DeadLetter, Fingerprints, Job, JobExecutor, JobSource, Next, Stats, WorkerSlot,
    spawn_workers,
};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, DeadLetterStore, Drained, InboxControl};
use crate::outcome::{AttemptEnd, AttemptState, Outcome};
use crate::runtime::{BoxFuture, Clock};
use crate::telemetry::ParentSpan;

/// How long an event waits that the runtime dropped while it ran.
const DROPPED: Duration = Duration::from_secs(1);

/// What the inbox, its workers and its writer share.
pub(super) struct SqliteDesk {
    pub(super) mailbox: Arc<Mailbox<Writer>>,
    pub(super) shared: Arc<Shared>,
    pub(super) clock: Arc<Clock>,
    pub(super) fingerprints: Arc<Fingerprints>,
    pub(super) executor: JobExecutor,
}

impl SqliteDesk {
    /// Hands an event to the writer.
    pub(super) fn arrive(
        &self,
        event: Event,
        answer: oneshot::Sender<Result<Accepted, AcceptError>>,
    ) -> Result<(), AcceptError> {
        let arrival = Arrival {
            id: self.fingerprints.of(event.id()),
            key: self.executor.settings.order.key(&event),
            parent_span: ParentSpan::current(),
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
impl Drop for SqliteDesk {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

impl JobSource for SqliteDesk {
    fn executor(&self) -> &JobExecutor {
        &self.executor
    }

    fn reserve_slot(&self) -> Option<WorkerSlot> {
        self.shared.lock().reserve_slot()
    }

    fn was_dropped(&self, reserve_slot: WorkerSlot) -> bool {
        self.shared.lock().worker_pool.was_dropped(reserve_slot)
    }

    fn retire(&self, begun: bool) {
        self.shared.lock().worker_pool.retire(begun);
    }

    fn next(&self) -> Option<Box<Job>> {
        self.shared.lock().next()
    }

    fn batch_len(&self) -> usize {
        let window = self.shared.lock();
        window.worker_pool.batch_len(window.ready())
    }

    fn attempt_finished(self: Arc<Self>, job: Box<Job>, next: Next) {
        self.give_back(job, next);
    }

    fn dropped(self: Arc<Self>, mut job: Box<Job>, attempt_state: &Arc<AttemptState>) {
        job.progress
            .interrupt(&attempt_state.close(&AttemptEnd::Lost(Outcome::Dropped)));
        // It wasn't the event's fault, and the event is safe: the same attempt is made again, by this
        // process or the next one.
        self.give_back(job, Next::Retry(DROPPED));
    }
}

impl Office for SqliteDesk {
    fn spawn_workers(self: Arc<Self>) {
        spawn_workers(&self);
    }

    fn died(&self, letter: &DeadLetter) {
        self.executor.dead_lettered(letter);
    }

    fn alarm(&self, after: Duration) -> oneshot::Sender<()> {
        let (cancel, canceled) = oneshot::channel();
        let mailbox = Arc::clone(&self.mailbox);
        let runtime = &self.executor.runtime;
        // A runtime without a timer, or one that is gone: the writer looks round by itself in the end.
        let _ = catch_panic(|| {
            let sleep = CatchPanic::new(runtime.sleep(after));
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

impl InboxControl for SqliteDesk {
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
            if let Ok(sleep) = catch_panic(|| self.executor.runtime.sleep(within)) {
                drop(select(at_rest, CatchPanic::new(sleep)).await);
            }
            Drained::new(self.shared.lock().in_flight())
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            let idle = self.shared.lock().idle();
            if let Some(idle) = idle {
                spawn_workers(&self);
                // The sender lives in the window, which this future holds.
                let _ = idle.await;
            }
        })
    }

    fn on_attempt(&self, hook: Arc<dyn Fn(&Attempt) + Send + Sync>) {
        self.executor.settings.on_attempt.add(hook);
    }

    fn on_dead_letter(&self, hook: Arc<dyn Fn(&DeadLetter) + Send + Sync>) {
        self.executor.settings.on_dead_letter.add(hook);
    }

    fn dead_letters(self: Arc<Self>) -> Option<Arc<dyn DeadLetterStore>> {
        Some(self)
    }
}
