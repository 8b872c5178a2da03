use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use tower_service::Service;

use super::MemoryInboxBuilder;
use super::queue::Queue;
use super::worker::{Place, work};
use crate::contain::contain;
use crate::delivery::{Delivery, Hooks, Stats};
use crate::error::BoxError;
use crate::event::Event;
use crate::inbox::{Accepted, Control, Drained, Handle, Inbox, Refused};
use crate::outcome::Report;
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry::Origin;

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
///     .max_running(8)
///     .attempt_timeout(Duration::from_secs(5))
///     .on_delivery(|delivery| println!("{delivery}"))
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
    core: Arc<dyn Core>,
}

/// An inbox without the type of its service.
trait Core: Control {
    fn take(self: Arc<Self>, event: Event) -> Result<Accepted, Refused>;

    fn runtime(&self) -> Arc<dyn Runtime>;
}

/// What the inbox and its workers share.
pub(super) struct Shared<S> {
    queue: Mutex<Queue>,
    /// Locked to be cloned: a service needn't be `Sync`.
    pub(super) service: Mutex<S>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) attempt_timeout: Duration,
    pub(super) hooks: Hooks<Delivery>,
    pub(super) log_errors: bool,
}

impl MemoryInbox {
    /// Returns an inbox with the defaults of [`MemoryInboxBuilder`], on tokio.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
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
    pub fn on<S>(runtime: impl Runtime, service: S) -> Self
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self::builder().build_on(runtime, service)
    }

    /// Returns a builder, to set what isn't as the defaults are.
    pub fn builder() -> MemoryInboxBuilder {
        MemoryInboxBuilder::new()
    }

    pub(super) fn start<S>(shared: Shared<S>) -> Self
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self {
            core: Arc::new(shared),
        }
    }
}

impl Inbox for MemoryInbox {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, Refused>> + Send + 'static {
        let core = Arc::clone(&self.core);
        async move { core.take(event) }
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.core.runtime()
    }

    fn handle(&self) -> Handle {
        Handle::shared(Arc::clone(&self.core) as Arc<dyn Control>)
    }
}

impl<S> Shared<S> {
    pub(super) fn new(
        queue: Queue,
        service: S,
        runtime: Arc<dyn Runtime>,
        builder: MemoryInboxBuilder,
    ) -> Self {
        let MemoryInboxBuilder {
            attempt_timeout,
            hooks,
            log_errors,
            ..
        } = builder;
        Self {
            queue: Mutex::new(queue),
            service: Mutex::new(service),
            runtime,
            attempt_timeout,
            hooks,
            log_errors,
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // No user code runs under the lock, so a poisoned one is as it should be.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Shared<S>
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    /// Spawns the workers that are needed; false if the runtime can't.
    fn staff(self: &Arc<Self>) -> bool {
        let stillborn = self.queue().stillborn();
        loop {
            if !self.queue().hire() {
                return true;
            }
            let worker = work(Place::new(Arc::clone(self)));
            let spawned = contain(|| self.runtime.spawn(Box::pin(worker)));
            // A runtime that has shut down drops what it is given, and would do so for ever.
            if spawned.is_err() || self.queue().stillborn() > stillborn {
                return false;
            }
        }
    }
}

impl<S> Core for Shared<S>
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    fn take(self: Arc<Self>, event: Event) -> Result<Accepted, Refused> {
        let number = self.queue().admit(event, Origin::current())?;
        // Where there is a worker already, it will come to this event.
        if !self.staff() && self.queue().withdraw(number) {
            return Err(Refused::unavailable());
        }
        Ok(Accepted::New)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.runtime)
    }
}

impl<S> Control for Shared<S>
where
    S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
        + Clone
        + Send
        + 'static,
{
    fn stats(&self) -> Stats {
        self.queue().stats()
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            self.queue().drain();
            let idle = self.queue().idle();
            if let Some(idle) = idle {
                // A runtime that dropped its workers may have left events behind.
                self.staff();
                if let Either::Left(_) = select(idle, self.runtime.sleep(within)).await {
                    return Drained::new(0);
                }
            }
            Drained::new(self.queue().in_flight() as u64)
        })
    }

    fn settled(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            let idle = self.queue().idle();
            if let Some(idle) = idle {
                // The sender lives in the queue, which this future holds.
                let _ = idle.await;
            }
        })
    }

    fn on_delivery(&self, hook: Arc<dyn Fn(&Delivery) + Send + Sync>) {
        self.hooks.add(move |delivery| hook(delivery));
    }
}

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox")
            .field("stats", &self.core.stats())
            .finish()
    }
}
