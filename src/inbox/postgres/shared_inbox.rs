use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use futures_channel::oneshot;
use futures_util::future::select;
use tokio::sync::mpsc::UnboundedSender;

use super::command::{Accept, Answer, Command, Complete};
use super::connection::Connection;
use super::settings::Settings;
use super::state::SharedState;
use super::store::Store;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{
    Attempt, AttemptResult, DeadLetter, Job, JobExecutor, JobSource, Next, Stats, WorkerSlot,
    spawn_workers,
};
use crate::event::Event;
use crate::inbox::{
    AcceptError, AcceptErrorKind, Accepted, DeadLetterStore, Drained, EventStore, InboxControl,
    InboxInfo, Monitor, Monitored,
};
use crate::outcome::{AttemptState, Lease};
use crate::router::EventRouter;
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry::Counted;

/// How long an event waits after the runtime dropped its attempt.
const DROPPED_DELAY: Duration = Duration::from_secs(1);

/// The shortest and the longest time between two queries of [`Handle::wait_idle`](crate::Handle::wait_idle).
const IDLE_POLL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// The part of the inbox that its clones, its handles and its workers share. When this part is dropped, the tasks of the inbox release
/// the worker's events and end.
pub(super) struct SharedInbox {
    pub(super) settings: Settings,
    pub(super) pool: Pool,
    pub(super) store: Store,
    pub(super) commands: UnboundedSender<Command>,
    pub(super) state: SharedState,
    pub(super) executor: JobExecutor,
    pub(super) monitor: Monitor,
}

/// Spawns workers on drop.
///
/// An accepted event gets its worker from the task that waits for the answer, because a runtime spawns faster from its own threads. If
/// that task is dropped, the event still gets its worker.
struct SpawnOnDrop {
    inbox: Arc<SharedInbox>,
}

impl Drop for SpawnOnDrop {
    fn drop(&mut self) {
        spawn_workers(&self.inbox);
        Monitor::wake(&self.inbox);
    }
}

impl SharedInbox {
    pub(super) async fn accept(self: Arc<Self>, event: Event) -> Result<Accepted, AcceptError> {
        let (answer, answered) = oneshot::channel();
        self.submit(event, answer)?;
        let _spawn = SpawnOnDrop { inbox: self };
        // The writer drops the sender only if its task has ended.
        answered
            .await
            .unwrap_or_else(|_| Err(AcceptError::new(AcceptErrorKind::Unavailable)))
    }

    /// Refuses an event immediately, or sends it to the writer.
    fn submit(&self, event: Event, answer: Answer) -> Result<(), AcceptError> {
        let key = self.executor.settings.order.key(&event);
        let parent_span = self.executor.parent_span(&event);
        let metrics = &self.executor.metrics;
        let label = metrics.label(event.event_type());
        let (size, now) = (event.body().len() as u64, self.state.clock.now());
        let refusal = {
            let mut state = self.state.lock();
            if state.failing || !state.may_wait(size) {
                state.stats.refused += 1;
                drop(state);
                metrics.event(label, Counted::Refused);
                return Err(AcceptError::new(AcceptErrorKind::Unavailable));
            }
            // A copy takes no space and ends no drain, so the writer looks for the message id before it refuses the event.
            let kind = if state.draining_since.is_some() {
                Some(AcceptErrorKind::Draining)
            } else if !state.has_space(size) {
                let accepted = state.stats.accepted;
                state.fullness.refused(now, accepted);
                Some(AcceptErrorKind::Full)
            } else {
                None
            };
            state.pending.add(size);
            kind.map(AcceptError::new)
        };
        let accept = Accept {
            event,
            key,
            parent_span,
            refusal,
            may_be_stored: false,
            answer,
        };
        // If the writer's task has ended, the error contains the command, so this drops the answer's sender.
        drop(self.commands.send(Command::Accept(accept)));
        Ok(())
    }

    /// Sends the result of the attempt with this number to the writer.
    fn complete(&self, job: Box<Job>, next: Next, attempt: &AttemptResult, number: u32) {
        let now = self.executor.now();
        let may_be_complete = self.state.lock().finish(job.number);
        let complete = Complete::attempt(
            job,
            next,
            (number, attempt),
            may_be_complete,
            self.settings.keeps_handled(),
            (&self.state.clock, now),
        );
        drop(self.commands.send(Command::Complete(complete)));
    }

    /// Sets how the limits of routes wake events.
    fn wake_waiting_events(self: &Arc<Self>) {
        if let Some(limits) = self.executor.limits() {
            limits.wake_through(self, |inbox, number| {
                drop(inbox.commands.send(Command::Unpark(number)));
            });
        }
    }

    /// Wakes the writer.
    pub(super) fn wake(&self) {
        drop(self.commands.send(Command::Wake));
    }

    /// Returns a connection for a query, separate from the connections that the tasks of the inbox keep.
    pub(super) fn connection(&self) -> Connection {
        Connection::new(self.pool.clone(), Arc::clone(&self.executor.runtime))
    }
}

impl JobSource for SharedInbox {
    fn executor(&self) -> &JobExecutor {
        &self.executor
    }

    fn reserve_slot(&self) -> Option<WorkerSlot> {
        let now = self.executor.now();
        self.state.lock().reserve_slot(now)
    }

    fn was_dropped(&self, slot: WorkerSlot) -> bool {
        self.state.lock().worker_pool.was_dropped(slot)
    }

    fn retire(&self, begun: bool) {
        self.state.lock().worker_pool.retire(begun);
    }

    fn next(&self) -> Option<Box<Job>> {
        let now = self.executor.now();
        let mut state = self.state.lock();
        let job = state.may_start(now).then(|| state.start()).flatten();
        state.worker_pool.took(job.is_some());
        job
    }

    fn lease(&self, job: &Job) -> Option<Lease> {
        let schema = Arc::clone(&self.store.schema);
        Some(self.state.lock().lease(job.number, schema))
    }

    fn batch_len(&self) -> usize {
        let state = self.state.lock();
        state.worker_pool.batch_len(state.ready.len())
    }

    fn attempt_ended(self: Arc<Self>, job: Box<Job>, next: Next, attempt: AttemptResult) {
        if matches!(next, Next::Wait(_)) {
            self.wake_waiting_events();
        }
        let number = job.progress.last_attempt(next);
        self.complete(job, next, &attempt, number);
    }

    fn attempt_dropped(
        self: Arc<Self>,
        mut job: Box<Job>,
        attempt_state: &Arc<AttemptState>,
        duration: Duration,
    ) {
        let report = job.progress.interrupt(attempt_state);
        // The event didn't cause the drop, so this process or another one repeats the attempt.
        let attempt = AttemptResult { report, duration };
        let number = job.progress.attempts();
        self.complete(job, Next::Retry(DROPPED_DELAY), &attempt, number);
    }
}

impl InboxControl for SharedInbox {
    fn info(&self) -> InboxInfo {
        let limits = self.settings.max_events;
        InboxInfo {
            kind: "postgres",
            location: Some(format!("schema {}", self.settings.schema)),
            recovered: None,
            is_durable: true,
            limits: Some((limits.events, limits.bytes)),
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            skipped: self.executor.skipped(),
            ..self.state.lock().stats()
        }
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.executor.runtime)
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            let now = self.state.clock.now();
            let at_rest = {
                let mut state = self.state.lock();
                state.draining_since.get_or_insert(now);
                state.at_rest()
            };
            Monitor::rouse(&(Arc::clone(&self) as Arc<dyn Monitored>));
            drop(self.commands.send(Command::Wake));
            let inbox = Arc::clone(&self);
            let drained = Box::pin(async move {
                if let Some(at_rest) = at_rest {
                    let _ = at_rest.await;
                }
                // The writer releases the events that haven't started.
                let idle = inbox.state.lock().idle();
                if let Some(idle) = idle {
                    let _ = idle.await;
                }
            });
            // If the runtime has no timer, the wait would have no limit, so `drain` doesn't wait.
            if let Ok(sleep) = catch_panic(|| self.executor.runtime.sleep(within)) {
                drop(select(drained, CatchPanic::new(sleep)).await);
            }
            let state = self.state.lock();
            Drained::new(state.in_flight() + state.returned)
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            let (mut period, longest) = IDLE_POLL;
            loop {
                let idle = self.state.lock().idle();
                if let Some(idle) = idle {
                    // If the runtime dropped workers, events may be left without a worker.
                    spawn_workers(&self);
                    let _ = idle.await;
                    continue;
                }
                // Other processes may have events too.
                let busy = self.store.is_busy(&mut self.connection()).await;
                if matches!(busy, Ok(false)) && self.state.lock().idle().is_none() {
                    return;
                }
                self.executor.runtime.sleep(period).await;
                period = (period * 2).min(longest);
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

    fn events(self: Arc<Self>) -> Arc<dyn EventStore> {
        self
    }

    fn monitored(self: Arc<Self>) -> Arc<dyn Monitored> {
        self
    }

    fn router(&self) -> Option<EventRouter> {
        self.executor.router().cloned()
    }
}
