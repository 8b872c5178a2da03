use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::command::{Accept, Answer, Command, Complete, CopyPending};
use super::command_queue::CommandSender;
use super::error;
use super::state::SharedState;
use super::volume::Volume;
use super::writer::Writer;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{
    Admission, Attempt, AttemptResult, DeadLetter, Job, JobExecutor, JobSource, Next, Progress,
    Stats, WorkerSlot, spawn, spawn_workers,
};
use crate::error::Error;
use crate::event::Event;
use crate::inbox::{
    AcceptError, AcceptErrorKind, Accepted, DeadLetterStore, Drained, EventStore, InboxControl,
    InboxInfo, Monitor, Monitored,
};
use crate::outcome::AttemptState;
use crate::router::EventRouter;
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry::{self, Counted, CountedType};

/// How long an event waits after the runtime dropped its attempt.
pub(super) const DROPPED_DELAY: Duration = Duration::from_secs(1);

/// The part of the inbox that its clones, its handles and its workers share. When this part is dropped, the writer ends
/// and unlocks the file.
pub(super) struct SharedInbox {
    /// The absolute path of the file.
    pub(super) path: PathBuf,
    pub(super) max_events: Volume,
    pub(super) keeps_handled: bool,
    pub(super) commands: CommandSender,
    pub(super) state: Arc<SharedState>,
    pub(super) executor: JobExecutor,
    pub(super) monitor: Monitor,
}

/// Spawns a worker on drop, if events wait for one.
///
/// An accepted event gets its worker from the task that waits for the answer, because a runtime spawns faster from its
/// own threads. If that task is dropped, the event still gets its worker.
pub(super) struct SpawnOnDrop {
    inbox: Arc<SharedInbox>,
}

impl Drop for SpawnOnDrop {
    fn drop(&mut self) {
        if self.inbox.reserve_slot().is_some() {
            spawn(&self.inbox);
        }
        Monitor::wake(&self.inbox);
    }
}

impl SharedInbox {
    pub(super) async fn accept(self: Arc<Self>, event: Event) -> Result<Accepted, AcceptError> {
        let (answer, answered) = oneshot::channel();
        if let Some(accepted) = self.submit(event, answer)? {
            return Ok(accepted);
        }
        let _spawn = SpawnOnDrop { inbox: self };
        // The writer drops the sender only if its thread has ended.
        answered
            .await
            .unwrap_or_else(|_| Err(AcceptError::new(AcceptErrorKind::Unavailable)))
    }

    /// Answers an event immediately, or sends it to the writer and returns `None`.
    fn submit(&self, event: Event, answer: Answer) -> Result<Option<Accepted>, AcceptError> {
        let id = self.state.fingerprints.of(event.id());
        let key = self.executor.settings.order.key(&event);
        let (parent_span, now) = (self.executor.parent_span(&event), self.state.clock.now());
        let mut forgot = false;
        let metrics = &self.executor.metrics;
        let label = metrics.label(event.event_type());
        let mut state = self.state.lock();
        let command = match state.admit(id, event.body().len() as u64, now) {
            Err(refused) => {
                drop(state);
                metrics.event(label, Counted::Refused);
                return Err(refused);
            }
            Ok(Admission::Duplicate) if state.admissions.is_pending(id) => {
                let counted_type = CountedType::of(event.event_type());
                Command::CopyPending(CopyPending {
                    id,
                    counted_type,
                    answer,
                })
            }
            Ok(Admission::Duplicate) => {
                state.stats.duplicates += 1;
                drop(state);
                metrics.event(label, Counted::Duplicate);
                return Ok(Some(Accepted::Duplicate));
            }
            Ok(Admission::New {
                number,
                forgot_early,
            }) => {
                forgot = forgot_early;
                let job = Box::new(Job {
                    number,
                    event,
                    parent_span,
                    progress: Progress::new(),
                    key,
                });
                Command::Accept(Accept { job, id, answer })
            }
        };
        // Sends under the lock, so that the writer gets events in the order of their numbers, and each copy after its
        // event.
        let sent = self.commands.send(command);
        drop(state);
        if forgot {
            telemetry::ids_forgotten_early();
        }
        // If the writer's thread has ended, the error contains the command, so this drops the answer's sender.
        drop(sent);
        Ok(None)
    }

    /// Sends the result of the attempt with this number to the writer.
    fn complete(&self, job: Job, next: Next, attempt: &AttemptResult, number: u32) {
        let (clock, keeps_handled) = (&self.state.clock, self.keeps_handled);
        let complete = Complete::attempt(job, next, (number, attempt), keeps_handled, clock);
        self.state.finished.fetch_add(1, Ordering::Release);
        let _ = self.commands.send(Command::Complete(complete));
    }

    /// Sets how the limits of routes wake events.
    fn wake_waiting_events(self: &Arc<Self>) {
        if let Some(limits) = self.executor.limits() {
            limits.wake_through(self, |inbox, number| {
                let _ = inbox.commands.send(Command::Unpark(number));
            });
        }
    }

    /// Runs a query on the writer's thread, and returns its result.
    pub(super) fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Writer) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<Result<T, Error>> {
        let (answer, answered) = oneshot::channel();
        let query = move |writer: &mut Writer| drop(answer.send(query(writer)));
        let sent = self.commands.send(Command::Query(Box::new(query)));
        Box::pin(async move {
            drop(sent);
            answered
                .await
                .unwrap_or_else(|_| Err(error::thread_ended()))
        })
    }

    /// Wakes the writer after a delay, unless the returned sender is dropped first.
    pub(super) fn wake_after(self: &Arc<Self>, delay: Duration) -> oneshot::Sender<()> {
        let (cancel, canceled) = oneshot::channel();
        let inbox: Weak<Self> = Arc::downgrade(self);
        let runtime = &self.executor.runtime;
        // If the runtime has no timer or has shut down, the writer still checks for work every minute.
        let _ = catch_panic(|| {
            let sleep = CatchPanic::new(runtime.sleep(delay));
            runtime.spawn(Box::pin(async move {
                let slept = matches!(select(sleep, canceled).await, Either::Left((Ok(()), _)));
                if slept && let Some(inbox) = inbox.upgrade() {
                    let _ = inbox.commands.send(Command::Wake);
                }
            }));
        });
        cancel
    }
}

impl JobSource for SharedInbox {
    fn executor(&self) -> &JobExecutor {
        &self.executor
    }

    fn reserve_slot(&self) -> Option<WorkerSlot> {
        self.state.lock().reserve_slot()
    }

    fn was_dropped(&self, slot: WorkerSlot) -> bool {
        self.state.lock().window.worker_pool.was_dropped(slot)
    }

    fn retire(&self, begun: bool) {
        self.state.lock().window.worker_pool.retire(begun);
    }

    fn next(&self) -> Option<Box<Job>> {
        let mut state = self.state.lock();
        let may_start = state.may_start();
        let window = &mut state.window;
        let job = may_start.then(|| window.start()).flatten();
        window.worker_pool.took(job.is_some());
        if job.is_some() {
            let batch_len = window.worker_pool.batch_len(window.ready.len());
            self.state.batch_len.store(batch_len, Ordering::Relaxed);
        }
        job
    }

    fn batch_len(&self) -> usize {
        self.state.batch_len.load(Ordering::Relaxed)
    }

    fn attempt_ended(self: Arc<Self>, job: Box<Job>, next: Next, attempt: AttemptResult) {
        if matches!(next, Next::Wait(_)) {
            self.wake_waiting_events();
        }
        let number = job.progress.last_attempt(next);
        self.complete(*job, next, &attempt, number);
    }

    fn attempt_dropped(
        self: Arc<Self>,
        mut job: Box<Job>,
        attempt_state: &Arc<AttemptState>,
        duration: Duration,
    ) {
        let report = job.progress.interrupt(attempt_state);
        // The event didn't cause the drop, so this process or the next one repeats the attempt.
        let attempt = AttemptResult { report, duration };
        let number = job.progress.attempts();
        self.complete(*job, Next::Retry(DROPPED_DELAY), &attempt, number);
    }
}

impl InboxControl for SharedInbox {
    fn info(&self) -> InboxInfo {
        InboxInfo {
            kind: "sqlite",
            location: Some(self.path.display().to_string()),
            recovered: Some(self.stats().recovered),
            is_durable: true,
            limits: Some((self.max_events.events, self.max_events.bytes)),
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
                state.admissions.draining_since.get_or_insert(now);
                state.at_rest()
            };
            Monitor::rouse(&(Arc::clone(&self) as Arc<dyn Monitored>));
            let _ = self.commands.send(Command::Wake);
            let inbox = Arc::clone(&self);
            let drained = Box::pin(async move {
                if let Some(at_rest) = at_rest {
                    let _ = at_rest.await;
                }
                // The writer answers once it has unloaded the events that didn't start.
                let _ = inbox.query(|_| Ok(())).await;
            });
            // If the runtime has no timer, the wait would have no limit, so `drain` doesn't wait.
            if let Ok(sleep) = catch_panic(|| self.executor.runtime.sleep(within)) {
                drop(select(drained, CatchPanic::new(sleep)).await);
            }
            Drained::new(self.state.lock().in_flight)
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            let idle = self.state.lock().idle();
            if let Some(idle) = idle {
                // If the runtime dropped workers, events may be left without a worker.
                spawn_workers(&self);
                // The ends that wait for other commands are written now.
                let _ = self.commands.send(Command::Wake);
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
