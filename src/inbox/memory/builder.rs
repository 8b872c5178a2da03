use std::sync::Arc;
use std::time::Duration;

use tower_service::Service;

use super::MemoryInbox;
use super::inner::MemoryInner;
use super::limits::MemoryLimits;
use super::queue::Queue;
use crate::delivery::{DeliverySettings, ErasedService, Fingerprints, JobExecutor};
use crate::error::BoxError;
use crate::event::Event;
use crate::inbox::Monitor;
use crate::outcome::Report;
use crate::runtime::{Clock, Runtime};
use crate::sync::Mutex;

/// Builds a [`MemoryInbox`].
#[derive(Clone, Debug)]
#[must_use]
pub struct MemoryInboxBuilder {
    pub(super) limits: MemoryLimits,
    pub(super) delivery: DeliverySettings,
}

impl MemoryInboxBuilder {
    pub(super) fn new() -> Self {
        Self {
            limits: MemoryLimits::default(),
            delivery: DeliverySettings::new(),
        }
    }

    /// Sets how the inbox runs the handlers. The default is [`DeliverySettings::new`]. A second call replaces the first.
    pub fn delivery(mut self, settings: DeliverySettings) -> Self {
        self.delivery = settings;
        self
    }

    /// Sets how many events may be in flight at once: running, waiting or retrying. The default is 10,000, enough for a few
    /// seconds of traffic from a busy sender.
    ///
    /// With `concurrency(n)` and `max_events(n + q)`, n events run and q events wait. The inbox refuses further events.
    pub fn max_events(mut self, events: usize) -> Self {
        self.limits.events = events;
        self
    }

    /// Sets the maximum total size of the bodies of all events in flight, in bytes. The default is 64 MiB.
    ///
    /// An empty inbox accepts an event of any size. If the inbox always refused a large event, the sender would disable the
    /// endpoint.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.limits.bytes = bytes;
        self
    }

    /// Sets how long the inbox remembers the `messageId` of an accepted event. The default is 24 h. With zero, the inbox
    /// remembers no ids.
    ///
    /// If a copy arrives within this time, the receiver answers 200 and the copy doesn't run. The sender sends a copy if it
    /// received no 2xx, for example because the answer was lost.
    pub fn duplicate_window(mut self, window: Duration) -> Self {
        self.limits.duplicate_window = window;
        self
    }

    /// Sets how many ids the inbox remembers. The default is 100,000, at about 70 bytes each.
    ///
    /// Beyond this limit, the inbox forgets the oldest ids before their window ends, and warns once.
    pub fn max_remembered_ids(mut self, ids: usize) -> Self {
        self.limits.ids = ids;
        self
    }

    /// Sets how many dead letters the inbox keeps. The default is 1,000. With 0, the inbox keeps no dead letters.
    ///
    /// Beyond this limit, the inbox drops the oldest letters and counts them as
    /// [`dead_letters_dropped`](crate::Stats::dead_letters_dropped).
    pub fn max_dead_letters(mut self, letters: usize) -> Self {
        self.limits.dead_letters = letters;
        self
    }

    /// Sets the maximum total size of all dead letters, in bytes of bodies and of the errors of their attempts. The default is
    /// 16 MiB. Beyond this limit, the inbox drops the oldest letters.
    pub fn max_dead_letter_bytes(mut self, bytes: usize) -> Self {
        self.limits.dead_letter_bytes = bytes;
        self
    }

    /// Sets how many handled and unhandled events the inbox keeps in its [event log](crate::EventLog) after they ended. The
    /// default is 1,000. With 0, the inbox keeps only the events in flight and the dead letters.
    ///
    /// Beyond this limit, the inbox drops the events that ended first.
    pub fn max_handled_events(mut self, events: usize) -> Self {
        self.limits.handled_events = events;
        self
    }

    /// Sets the maximum total size of the handled and unhandled events in the event log, in bytes of bodies and of the errors
    /// of their attempts. The default is 16 MiB. Beyond this limit, the inbox drops the events that ended first.
    ///
    /// The errors of the attempts at events in flight have the same limit. Beyond this limit, the log keeps only
    /// the outcomes' names.
    pub fn max_handled_bytes(mut self, bytes: usize) -> Self {
        self.limits.handled_bytes = bytes;
        self
    }

    /// Builds the inbox on tokio.
    ///
    /// # Panics
    ///
    /// Panics if two routes of the router have the same name.
    #[track_caller]
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub fn build<S>(self, service: S) -> MemoryInbox
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        self.build_with(crate::runtime::TokioRuntime::new(), service)
    }

    /// Builds the inbox on another runtime.
    ///
    /// # Panics
    ///
    /// Panics if two routes of the router have the same name.
    #[track_caller]
    pub fn build_with<S>(self, runtime: impl Runtime, service: S) -> MemoryInbox
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        let service = match ErasedService::new(service) {
            Ok(service) => service,
            Err(error) => panic!("{error}"),
        };
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        MemoryInbox::start(MemoryInner {
            queue: Mutex::new(Queue::new(self.limits, &self.delivery)),
            fingerprints: Fingerprints::default(),
            clock: Clock::new(Arc::clone(&runtime)),
            monitor: Monitor::new(Arc::clone(&runtime)),
            executor: JobExecutor::new(service, runtime, self.delivery),
        })
    }
}
