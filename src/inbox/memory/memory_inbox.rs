use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::future::{Either, select};
use tower_service::Service;

use super::MemoryInboxBuilder;
use super::desk::MemoryDesk;
use super::queue::Admission;
use crate::contain::{Contained, contain};
use crate::delivery::{DeadLetter, Delivery, EventService, Job, Progress, Stats, spawn, staff};
use crate::error::BoxError;
use crate::event::Event;
use crate::inbox::{Accepted, Control, DeadLetterStore, Drained, Handle, Inbox, Refused};
use crate::outcome::Report;
use crate::runtime::{BoxFuture, Runtime};
use crate::telemetry::{self, Origin};

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

    pub(super) fn start<S: EventService>(shared: MemoryDesk<S>) -> Self {
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

impl<S: EventService> Core for MemoryDesk<S> {
    fn take(self: Arc<Self>, event: Event) -> Result<Accepted, Refused> {
        let (id, origin, now) = (
            self.fingerprints.of(event.id()),
            Origin::current(),
            self.clock.now(),
        );
        let key = self.deliverer.settings.order.key(&event);
        let mut queue = self.queue();
        let (number, forgot) = match queue.admit(event.body().len(), id, now)? {
            Admission::New { number, forgot } => (number, forgot),
            Admission::Copy => return Ok(Accepted::Duplicate),
        };
        let job = Box::new(Job {
            number,
            event,
            origin,
            progress: Progress::new(),
            key,
        });
        let hire = queue.push(job, id);
        drop(queue);
        // Where there is a worker already, it will come to this event.
        if let Some(hire) = hire {
            let spawned = spawn(&self);
            let withdrawn = self.change(|queue| queue.confirm(id, number, hire, spawned));
            if withdrawn.is_some() {
                // What came behind it in the meantime was promised the worker that it didn't get.
                staff(&self);
                return Err(Refused::unavailable());
            }
            staff(&self);
        }
        if forgot {
            telemetry::window_shortened();
        }
        Ok(Accepted::New)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.deliverer.runtime)
    }
}

impl<S: EventService> Control for MemoryDesk<S> {
    fn stats(&self) -> Stats {
        self.queue().stats()
    }

    fn drain(self: Arc<Self>, within: Duration) -> BoxFuture<Drained> {
        Box::pin(async move {
            let hurry = self.queue().drain();
            hurry.wake();
            if let Some(idle) = idle(&self) {
                // A runtime without a timer, or one that shuts down: what can't be bounded isn't waited for.
                if let Ok(sleep) = contain(|| self.deliverer.runtime.sleep(within))
                    && let Either::Left(_) = select(idle, Contained::new(sleep)).await
                {
                    return Drained::new(0);
                }
            }
            Drained::new(self.queue().in_flight() as u64)
        })
    }

    fn settled(self: Arc<Self>) -> BoxFuture<()> {
        Box::pin(async move {
            if let Some(idle) = idle(&self) {
                // The sender lives in the queue, which this future holds.
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

/// Returns what is received once nothing is in flight, or `None` if nothing is. Whoever waits for that puts workers to the
/// events that a runtime may have left behind.
fn idle<S: EventService>(shared: &Arc<MemoryDesk<S>>) -> Option<oneshot::Receiver<()>> {
    let idle = shared.queue().idle()?;
    staff(shared);
    Some(idle)
}

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox")
            .field("stats", &self.core.stats())
            .finish()
    }
}
