use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tower_service::Service;

use super::queue::Queue;
use crate::delivery::{Delivery, Fingerprints, Hooks, RetryPolicy};
use crate::error::BoxError;
use crate::event::Event;
use crate::outcome::Report;
use crate::runtime::Runtime;

/// What an inbox delivers to. A name for the bounds, which the public functions write out.
pub(super) trait EventService:
    Service<Event, Response = Report, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static
{
}

impl<S> EventService for S where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// What the inbox and its workers share.
pub(super) struct Shared<S> {
    pub(super) queue: Mutex<Queue>,
    pub(super) fingerprints: Fingerprints,
    /// Locked to be cloned: a service needn't be `Sync`.
    pub(super) service: Mutex<S>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) attempt_timeout: Duration,
    pub(super) retry: RetryPolicy,
    pub(super) hooks: Hooks<Delivery>,
    pub(super) log_errors: bool,
}

impl<S> Shared<S> {
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // No user code runs under the lock, so a poisoned one is as it should be.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the queue, and tells those who wait until nothing is in flight.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        let mut queue = self.queue();
        let changed = change(&mut queue);
        let idle = queue.settle();
        drop(queue);
        if let Some(idle) = idle {
            idle.wake();
        }
        changed
    }
}
