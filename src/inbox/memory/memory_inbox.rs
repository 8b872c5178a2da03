use std::fmt;
use std::sync::Arc;

use tower_service::Service;

use super::MemoryInboxBuilder;
use super::inner::MemoryInner;
use super::queue::Queue;
use crate::error::BoxError;
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Handle, Inbox, InboxControl};
use crate::outcome::Report;
use crate::runtime::Runtime;
use crate::sync::Mutex;

/// The default inbox, which stores accepted events in memory.
///
/// A memory inbox is the fastest inbox. If the process crashes, accepted events that haven't been handled are lost.
/// Call [`drain`](Handle::drain) before the process exits.
///
/// [`WebhookLayer::inbox`](crate::WebhookLayer::inbox) configures the inbox of a layer.
///
/// The number and the total size of the events in the inbox are limited. If the inbox is full, it refuses an event at
/// once, and the sender retries. All clones share the same events.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use botisimo_webhooks::{DeliverySettings, Event, EventRouter, MemoryInbox, WebhookLayer};
///
/// let router = EventRouter::new().on_any(|_: Event| async {});
/// let delivery = DeliverySettings::new().concurrency(8).attempt_timeout(Duration::from_secs(5));
/// let inbox = MemoryInbox::builder().delivery(delivery).max_events(500).build(router);
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox);
/// ```
///
/// Any `Service<Event, Response = Report>` can replace the router, for example a router inside tower layers:
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
    inner: Arc<MemoryInner>,
}

impl MemoryInbox {
    /// Returns an inbox with the default settings on tokio.
    ///
    /// # Panics
    ///
    /// Panics if two routes of the router have the same name.
    #[track_caller]
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

    /// Returns a builder that overrides the defaults.
    pub fn builder() -> MemoryInboxBuilder {
        MemoryInboxBuilder::new()
    }

    /// Changes the settings, and returns true. If the inbox already has a clone or a handle, or has accepted an event, changes
    /// nothing and returns false.
    pub(crate) fn configure(
        &mut self,
        configure: impl FnOnce(MemoryInboxBuilder) -> MemoryInboxBuilder,
    ) -> bool {
        let Some(inner) = Arc::get_mut(&mut self.inner) else {
            return false;
        };
        let queue = inner.queue();
        if queue.stats().accepted > 0 {
            return false;
        }
        let limits = queue.limits;
        drop(queue);
        let MemoryInboxBuilder { limits, delivery } = configure(MemoryInboxBuilder {
            limits,
            delivery: inner.executor.settings.clone(),
        });
        inner.queue = Mutex::new(Queue::new(limits, &delivery));
        inner.executor.settings = delivery;
        true
    }

    pub(super) fn start(inner: MemoryInner) -> Self {
        Self {
            inner: Arc::new(inner),
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

impl fmt::Debug for MemoryInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryInbox")
            .field("stats", &self.inner.stats())
            .finish()
    }
}
