use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::command::Command;

/// The maximum time that a request waits for other requests, so that one commit stores the events of all.
const GATHER_TIME: Duration = Duration::from_micros(300);

/// The maximum time that the end of an event waits for a request, so that both share a commit. No answer depends on the end. A server
/// that sends hundreds of answers needs a few milliseconds until it reads the next requests.
const END_TIME: Duration = Duration::from_millis(5);

/// Returns both ends of a new queue.
pub(super) fn command_queue() -> (CommandSender, CommandReceiver) {
    let shared = Arc::new(Shared::default());
    let sender = CommandSender {
        shared: Arc::clone(&shared),
    };
    (sender, CommandReceiver { shared })
}

/// The end of the queue for the inbox. If the sender is dropped, the writer ends.
pub(super) struct CommandSender {
    shared: Arc<Shared>,
}

/// The end of the queue for the writer.
pub(super) struct CommandReceiver {
    shared: Arc<Shared>,
}

/// The commands for which the writer waits before it begins a turn.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    /// The number of requests that are expected within [`GATHER_TIME`], at least 1.
    pub(super) requests: usize,
    /// The number of ends that may wait for [`END_TIME`].
    pub(super) ends: usize,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Default)]
struct Queue {
    batch: Batch,
    /// The commands that wake the writer, if the writer is waiting.
    wakes: Option<Wakes>,
    is_closed: bool,
    writer_ended: bool,
}

/// The commands that wake the writer.
#[derive(Clone, Copy)]
enum Wakes {
    Any,
    Due(Pace),
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CommandSender {
    /// Sends a command. Wakes the writer only if the writer needs no more commands for its next turn.
    ///
    /// # Errors
    ///
    /// Returns the command if the writer's thread has ended.
    pub(super) fn send(&self, command: Command) -> Result<(), Box<Command>> {
        let mut queue = self.shared.lock();
        if queue.writer_ended {
            return Err(Box::new(command));
        }
        queue.batch.push(command);
        let wakes = match queue.wakes {
            Some(Wakes::Due(pace)) => queue.batch.is_due(pace),
            Some(Wakes::Any) => true,
            None => false,
        };
        if wakes {
            queue.wakes = None;
            drop(queue);
            self.shared.arrived.notify_one();
        }
        Ok(())
    }
}

impl Drop for CommandSender {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.arrived.notify_one();
    }
}

impl CommandReceiver {
    /// Waits for commands and takes all of them. The batch is empty if no command arrives within `timeout`. If `timeout` is zero,
    /// takes the commands that are already in the queue. After an idle time, expects only one request. Returns `None` once the
    /// sender is dropped and the queue is empty.
    pub(super) fn receive(&self, timeout: Duration, pace: &mut Pace) -> Option<Batch> {
        let mut queue = self.shared.lock();
        let (mut since, mut first_request) = (Instant::now(), None);
        while !timeout.is_zero() && !queue.is_closed && !queue.batch.is_due(*pace) {
            let now = Instant::now();
            let (wakes, until) = if queue.batch.requests() > 0 {
                let first_request = *first_request.get_or_insert(now);
                (Wakes::Due(*pace), first_request + GATHER_TIME)
            } else if !queue.batch.is_empty() {
                let first = Pace {
                    requests: 1,
                    ..*pace
                };
                (Wakes::Due(first), since + END_TIME)
            } else {
                (Wakes::Any, since + timeout)
            };
            if now >= until {
                break;
            }
            queue.wakes = Some(wakes);
            let waited = self.shared.arrived.wait_timeout(queue, until - now);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.wakes = None;
            if matches!(wakes, Wakes::Any) && !queue.batch.is_empty() {
                if since.elapsed() > END_TIME {
                    pace.requests = 1;
                }
                since = Instant::now();
            }
        }
        let batch = std::mem::take(&mut queue.batch);
        (!queue.is_closed || !batch.is_empty()).then_some(batch)
    }

    /// Returns the number of requests in the queue.
    pub(super) fn requests(&self) -> usize {
        self.shared.lock().batch.requests()
    }
}

impl Drop for CommandReceiver {
    fn drop(&mut self) {
        let batch = {
            let mut queue = self.shared.lock();
            queue.writer_ended = true;
            std::mem::take(&mut queue.batch)
        };
        batch.discard();
    }
}
