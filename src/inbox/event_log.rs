use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::EventFilter;
use crate::delivery::{EventRecord, Replay};
use crate::error::Error;
use crate::runtime::BoxFuture;

/// Lists, replays and deletes the events of an inbox: the events in flight, the dead letters, and the events that ended
/// recently.
///
/// [`Handle::events`](crate::Handle::events) returns an `EventLog`, which is cheap to clone.
///
/// # Examples
///
/// After a bad deployment, run the route `announce` again for each event of the last hour. No other route runs.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use botisimo_webhooks::{Error, EventFilter, EventLog, Replay};
///
/// async fn after_a_bad_deployment(events: EventLog) -> Result<(), Error> {
///     let hour_ago = SystemTime::now() - Duration::from_secs(60 * 60);
///     let filter = EventFilter::new().route("announce").since(hour_ago);
///     for record in events.list(&filter, 20).await? {
///         println!("{record}"); // connection.stream.started m-1 handled after 1 attempt
///     }
///     let replayed = events.replay_matching(&filter, Replay::Only("announce".into())).await?;
///     println!("{replayed} events run again");
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct EventLog {
    store: Arc<dyn EventStore>,
}

/// The operations of an inbox that [`EventLog`] uses.
pub(crate) trait EventStore: Send + Sync + 'static {
    fn list(
        self: Arc<Self>,
        filter: EventFilter,
        limit: usize,
    ) -> BoxFuture<Result<Vec<EventRecord>, Error>>;

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<EventRecord>, Error>>;

    fn replay(self: Arc<Self>, id: u64, routes: Replay) -> BoxFuture<Result<bool, Error>>;

    fn replay_matching(
        self: Arc<Self>,
        filter: EventFilter,
        routes: Replay,
    ) -> BoxFuture<Result<u64, Error>>;

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>>;

    fn delete_matching(self: Arc<Self>, filter: EventFilter) -> BoxFuture<Result<u64, Error>>;

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>>;
}

impl EventLog {
    pub(crate) fn new(store: Arc<dyn EventStore>) -> Self {
        Self { store }
    }

    pub(crate) fn into_store(self) -> Arc<dyn EventStore> {
        self.store
    }

    /// Returns up to `limit` events that match the filter, newest first.
    ///
    /// Events are ordered by [`id`](EventRecord::id), which is the order in which the inbox accepted the events. For the next
    /// page, pass the last id of this page to [`EventFilter::before`]. New events don't shift the pages. An empty page marks the
    /// end.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{Error, EventFilter, EventLog};
    ///
    /// async fn print_all(events: &EventLog) -> Result<(), Error> {
    ///     let mut filter = EventFilter::new();
    ///     loop {
    ///         let page = events.list(&filter, 100).await?;
    ///         let Some(last) = page.last() else { return Ok(()) };
    ///         page.iter().for_each(|record| println!("{record}"));
    ///         filter = filter.before(last.id());
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the inbox's store fails. Every other method returns this error too.
    pub async fn list(
        &self,
        filter: &EventFilter,
        limit: usize,
    ) -> Result<Vec<EventRecord>, Error> {
        Arc::clone(&self.store).list(filter.clone(), limit).await
    }

    /// Returns the event with this id, or `None` if the inbox doesn't keep the event.
    ///
    /// # Errors
    ///
    /// Fails if the inbox's store fails.
    pub async fn get(&self, id: u64) -> Result<Option<EventRecord>, Error> {
        Arc::clone(&self.store).get(id).await
    }

    /// Replays an event that has ended. Returns false if the inbox doesn't keep the event, if the event is in flight, or if the
    /// only route to replay doesn't match the event.
    ///
    /// The event counts as `replayed`. The inbox doesn't treat it as a duplicate, although it remembers the `messageId`.
    /// Attempts start again at 1.
    ///
    /// # Errors
    ///
    /// Fails if the inbox is full or draining, if its store fails, or if no route has the name in
    /// [`Replay::Only`]. The event then stays in its state. An event that blocks its ordering key
    /// (`block_key_on_dead_letter`) is replayed even if the inbox is full, because the blocked events may fill the inbox.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the future may replay the event even if it is dropped.
    pub async fn replay(&self, id: u64, routes: Replay) -> Result<bool, Error> {
        Arc::clone(&self.store).replay(id, routes).await
    }

    /// Replays all ended events that match the filter, oldest first. Returns the number of replayed events.
    ///
    /// Each event is replayed once, even if it matches again after it has ended. See [`replay`](EventLog::replay).
    ///
    /// # Errors
    ///
    /// Fails if the inbox becomes full or is draining, if its store fails, or if no route has the name in
    /// [`Replay::Only`]. The events before the failure have been replayed, and the others stay in their state.
    pub async fn replay_matching(
        &self,
        filter: &EventFilter,
        routes: Replay,
    ) -> Result<u64, Error> {
        Arc::clone(&self.store)
            .replay_matching(filter.clone(), routes)
            .await
    }

    /// Deletes an event that has ended. Returns false if the inbox doesn't keep the event, or if the event is in flight.
    ///
    /// The inbox still remembers the `messageId`. With JetStream, the NATS server forgets the `messageId` when it restarts.
    ///
    /// # Errors
    ///
    /// Fails if the inbox's store fails.
    pub async fn delete(&self, id: u64) -> Result<bool, Error> {
        Arc::clone(&self.store).delete(id).await
    }

    /// Deletes all ended events that match the filter. Returns the number of deleted events.
    ///
    /// # Errors
    ///
    /// Fails if the inbox's store fails. The events before the failure have been deleted.
    pub async fn delete_matching(&self, filter: &EventFilter) -> Result<u64, Error> {
        Arc::clone(&self.store)
            .delete_matching(filter.clone())
            .await
    }

    /// Deletes all dead letters that were dead-lettered longer ago than `older_than`. Returns the number of deleted letters.
    ///
    /// The inbox measures elapsed time, so a change of the system's clock deletes nothing early.
    ///
    /// # Errors
    ///
    /// Fails if the inbox's store fails.
    pub async fn prune(&self, older_than: Duration) -> Result<u64, Error> {
        Arc::clone(&self.store).prune(older_than).await
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").finish_non_exhaustive()
    }
}
