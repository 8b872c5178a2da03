use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};

use super::inner::MemoryInner;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{Attempt, DeadLetter, Stats, spawn_workers};
use crate::inbox::{
    DeadLetterStore, Drained, EventStore, InboxControl, InboxInfo, Monitor, Monitored,
};
use crate::router::EventRouter;
use crate::runtime::{BoxFuture, Runtime};

impl InboxControl for MemoryInner {
    fn info(&self) -> InboxInfo {
        let limits = self.queue().limits;
        InboxInfo {
            kind: "memory",
            location: None,
            recovered: None,
            is_durable: false,
            limits: Some((limits.events as u64, limits.bytes as u64)),
        }
    }

    fn stats(&self) -> Stats {
        Stats {
            skipped: self.executor.skipped(),
            ..self.queue().stats()
        }
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.executor.runtime)
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            let now = self.clock.now();
            let retrying = self.queue().drain(now);
            retrying.wake();
            Monitor::rouse(&(Arc::clone(&self) as Arc<dyn Monitored>));
            if let Some(idle) = self.idle()
                // If the runtime has no timer, the drain has no time limit and doesn't wait.
                && let Ok(sleep) = catch_panic(|| self.executor.runtime.sleep(within))
                && let Either::Left(_) = select(idle, CatchPanic::new(sleep)).await
            {
                return Drained::new(0);
            }
            Drained::new(self.queue().in_flight() as u64)
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            if let Some(idle) = self.idle() {
                // The queue owns the sender, and this future keeps the queue alive.
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

    fn router(&self) -> Option<EventRouter> {
        self.executor.router().cloned()
    }

    fn monitored(self: Arc<Self>) -> Arc<dyn Monitored> {
        self
    }
}

impl MemoryInner {
    /// Returns a receiver that resolves once no job is in flight, or `None` if the inbox is idle. Spawns workers for jobs
    /// that a runtime may have left behind.
    fn idle(self: &Arc<Self>) -> Option<oneshot::Receiver<()>> {
        let idle = self.queue().idle()?;
        spawn_workers(self);
        Some(idle)
    }
}
