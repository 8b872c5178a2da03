use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use tower_service::Service;

use super::MemoryInboxBuilder;
use super::inner::Inner;
use super::queue::Admission;
use crate::catch_panic::{CatchPanic, catch_panic};
use crate::delivery::{Attempt, DeadLetter, Job, Progress, Stats, spawn, spawn_workers};
use crate::error::BoxError;
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, DeadLetterStore, Drained, Handle, Inbox, InboxControl};
use crate::outcome::Report;
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry::{self, ParentSpan};

/// The inbox that keeps accepted events in memory. It is the default.
///
/// It answers at once and costs least, and what it holds is lost with the process: a crash loses
/// the events that were accepted and not yet delivered. [`drain`](Handle::drain) it before the
/// process ends.
///
/// It is bounded by count and by bytes, and refuses at once when it is full; the sender then tries
/// again. Its clones are the same inbox.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{Event, EventRouter, MemoryInbox, WebhookLayer};
///
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let inbox = MemoryInbox::builder()
///     .concurrency(8)
///     .attempt_timeout(Duration::from_secs(5))
///     .on_attempt(|delivery| println!("{delivery}"))
///     .build(router);
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox);
/// ```
///
/// Any `Service<Event, Response = Report>` can stand in for the router, such as a router with
/// layers of tower around it:
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{Event, EventRouter, MemoryInbox};
///
/// let service = tower::ServiceBuilder::new()
///     .timeout(Duration::from_secs(2))
///     .service(EventRouter::new().on_any(|_: Event| async {}));
/// let inbox = MemoryInbox::new(service);
/// ```
#[derive(Clone)]
pub struct MemoryInbox {
    inner: Arc<Inner>,
}

impl MemoryInbox {
    /// Returns an inbox with the defaults of [`MemoryInboxBuilder`], on tokio.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    #[must_use]
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self::builder().build(service)
    }

    /// Returns an inbox with the defaults of [`MemoryInboxBuilder`], on another runtime.
    #[must_use]
    pub fn with_runtime<S>(runtime: impl Runtime, service: S) -> Self
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self::builder().build_with(runtime, service)
    }

    /// Returns a builder, to set what isn't as the defaults are.
    pub fn builder() -> MemoryInboxBuilder {
        MemoryInboxBuilder::new()
    }

    pub(super) fn start(shared: Inner) -> Self {
        Self {
            inner: Arc::new(shared),
        }
    }
}

impl Inbox for MemoryInbox {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        let inner = Arc::clone(&self.inner);
        async move { inner.accept(event) }
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.inner.executor.runtime)
    }

    fn handle(&self) -> Handle {
        Handle::shared(Arc::clone(&self.inner) as Arc<dyn InboxControl>)
    }
}

impl Inner {
    fn accept(self: Arc<Self>, event: Event) -> Result<Accepted, AcceptError> {
        let (id, parent_span, now) = (
            self.fingerprints.of(event.id()),
            ParentSpan::current(),
            self.clock.now(),
        );
        let key = self.executor.settings.order.key(&event);
        let mut queue = self.queue();
        let (number, forgot) = match queue.admit(event.body().len(), id, now)? {
            Admission::New { number, forgot } => (number, forgot),
            Admission::Copy => return Ok(Accepted::Duplicate),
        };
        let job = Box::new(Job {
            number,
            event,
            parent_span,
            progress: Progress::new(),
            key,
        });
        let reserve_slot = queue.push(job, id);
        drop(queue);
        // Where there is a worker already, it will come to this event.
        if let Some(reserve_slot) = reserve_slot {
            let spawned = spawn(&self);
            let withdrawn = self.change(|queue| queue.confirm(id, number, reserve_slot, spawned));
            if withdrawn.is_some() {
                // What came behind it in the meantime was promised the worker that it didn't get.
                spawn_workers(&self);
                return Err(AcceptError::unavailable());
            }
            spawn_workers(&self);
        }
        if forgot {
            telemetry::ids_forgotten_early();
        }
        Ok(Accepted::New)
    }
}

impl InboxControl for Inner {
    fn stats(&self) -> Stats {
        self.queue().stats()
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            let hurry = self.queue().drain();
            hurry.wake();
            if let Some(idle) = idle(&self) {
                // A runtime without a timer, or one that shuts down: what can't be bounded isn't waited for.
                if let Ok(sleep) = catch_panic(|| self.executor.runtime.sleep(within))
                    && let Either::Left(_) = select(idle, CatchPanic::new(sleep)).await
                {
                    return Drained::new(0);
                }
            }
            Drained::new(self.queue().in_flight() as u64)
        })
    }

    fn wait_idle(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            if let Some(idle) = idle(&self) {
                // The sender lives in the queue, which this future holds.
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

/// Returns what is received once nothing is in flight, or `None` if nothing is. Whoever waits for that puts workers to the
/// events that a runtime may have left behind.
fn idle(shared: &Arc<Inner>) -> Option<oneshot::Receiver<()>> {
    let idle = shared.queue().idle()?;
    spawn_workers(shared);
    Some(idle)
}

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox")
            .field("stats", &self.inner.stats())
            .finish()
    }
}
