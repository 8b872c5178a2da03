use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::command::Reply;
use super::shared_inbox::SharedInbox;
use crate::catch_panic::catch_panic;
use crate::delivery::spawn_workers;

/// The minimum number of answers for which the outbox spawns a task.
const MIN_BATCH: usize = 4;

/// The maximum time that answers wait for the task.
const TASK_TIMEOUT: Duration = Duration::from_millis(10);

/// Sends the answers of a turn.
///
/// Each answer wakes a task, and a runtime wakes its tasks faster from its own threads. So a task of the runtime sends many answers.
/// If the runtime drops this task, the drop sends the answers. If the runtime doesn't run this task, the writer sends the answers.
pub(super) struct Outbox {
    waiting: Arc<Waiting>,
    /// When the last task was spawned.
    spawned_at: Instant,
}

/// The answers that wait for the task.
struct Waiting {
    replies: Mutex<Vec<Reply>>,
    inbox: Weak<SharedInbox>,
}

/// Sends the waiting answers on drop.
struct SendOnDrop(Arc<Waiting>);

impl Outbox {
    pub(super) fn new(inbox: Weak<SharedInbox>) -> Self {
        let replies = Mutex::default();
        Self {
            waiting: Arc::new(Waiting { replies, inbox }),
            spawned_at: Instant::now(),
        }
    }

    /// Sends answers, or spawns a task that sends them.
    pub(super) fn send(&mut self, mut replies: Vec<Reply>) {
        if replies.len() < MIN_BATCH {
            return self.waiting.send(replies);
        }
        let is_spawned = {
            let mut waiting = self.waiting.lock();
            let is_spawned = !waiting.is_empty();
            waiting.append(&mut replies);
            is_spawned
        };
        if !is_spawned {
            self.spawn();
        }
    }

    fn spawn(&mut self) {
        self.spawned_at = Instant::now();
        let task = SendOnDrop(Arc::clone(&self.waiting));
        if let Some(inbox) = self.waiting.inbox.upgrade() {
            let task = Box::pin(async move { drop(task) });
            // If the runtime panics, the drop of the task sends the answers.
            let _ = catch_panic(|| inbox.executor.runtime.spawn(task));
        }
    }

    /// Sends the answers that have waited for too long. If other answers wait, returns how much longer they may wait.
    pub(super) fn check(&self) -> Option<Duration> {
        if self.waiting.lock().is_empty() {
            return None;
        }
        let rest = TASK_TIMEOUT.checked_sub(self.spawned_at.elapsed());
        if rest.is_none() {
            self.waiting.flush();
        }
        rest
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.waiting.flush();
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Vec<Reply>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self) {
        let replies = take(&mut *self.lock());
        self.send(replies);
    }

    /// Sends answers. The task that gets an answer spawns a worker. If tasks are gone, spawns the workers of their events.
    fn send(&self, replies: Vec<Reply>) {
        let running = replies.iter().filter(|reply| reply.runs).count();
        let attended = replies.into_iter().map(Reply::send);
        let attended = attended.filter(|attended| *attended).count();
        if running > attended
            && let Some(inbox) = self.inbox.upgrade()
        {
            spawn_workers(&inbox);
        }
    }
}

impl Drop for SendOnDrop {
    fn drop(&mut self) {
        self.0.flush();
    }
}
