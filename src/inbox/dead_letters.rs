use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{EventFilter, EventStore};
use crate::delivery::{DeadLetter, EventState, Replay};
use crate::error::Error;
use crate::router::Pattern;
use crate::runtime::BoxFuture;

/// Lists, replays and deletes the dead letters of an inbox.
///
/// [`Handle::dead_letters`](crate::Handle::dead_letters) returns a `DeadLetters`, which is cheap to
/// clone.
///
/// # Examples
///
/// ```
/// use botisimo_webhooks::{DeadLetters, Error, Pattern};
///
/// async fn after_the_database_is_back(dead: DeadLetters) -> Result<(), Error> {
///     let mut last = None;
///     loop {
///         let page = dead.list(last, 100).await?;
///         let Some(letter) = page.last() else { break };
///         last = Some(letter.id());
///         page.iter().for_each(|letter| println!("{letter}"));
///     }
///     let replayed = dead.replay_matching(&Pattern::prefix("account")?).await?;
///     println!("{replayed} events replayed");
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    store: Arc<dyn DeadLetterStore>,
}

/// The operations of an inbox that [`DeadLetters`] uses.
pub(crate) trait DeadLetterStore: Send + Sync + 'static {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>>;

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>>;

    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>>;

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>>;

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>>;

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>>;
}

/// An inbox whose dead letters are the dead events of its log.
pub(crate) trait DeadEvents: EventStore {
    /// See [`DeadLetters::list`].
    fn list_dead(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>>;
}

impl<T: DeadEvents> DeadLetterStore for T {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>> {
        self.list_dead(after, limit)
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>> {
        Box::pin(async move {
            let record = EventStore::get(self, id).await?;
            Ok(record.filter(|record| record.state() == EventState::Dead))
        })
    }

    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            match DeadLetterStore::get(Arc::clone(&self), id).await? {
                Some(_) => EventStore::replay(self, id, Replay::Remaining).await,
                None => Ok(false),
            }
        })
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        let filter = EventFilter::dead().event_type(pattern);
        EventStore::replay_matching(self, filter, Replay::Remaining)
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            match DeadLetterStore::get(Arc::clone(&self), id).await? {
                Some(_) => EventStore::delete(self, id).await,
                None => Ok(false),
            }
        })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        EventStore::prune(self, older_than)
    }
}

impl DeadLetters {
    pub(crate) fn new(store: Arc<dyn DeadLetterStore>) -> Self {
        Self { store }
    }

    pub(crate) fn into_store(self) -> Arc<dyn DeadLetterStore> {
        self.store
    }

    /// Returns up to `limit` letters whose [`id`](DeadLetter::id) is greater than `after`.
    ///
    /// Letters are ordered by id, which is the order in which the inbox accepted the events. For
    /// the next page, pass the last id of this page. An empty page marks the end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the inbox's store fails. Every other method
    /// returns this error too.
    pub async fn list(&self, after: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        Arc::clone(&self.store).list(after, limit).await
    }

    /// Returns the letter with this id, or `None` if it doesn't exist.
    ///
    /// # Errors
    ///
    /// Fails if the inbox's store fails.
    pub async fn get(&self, id: u64) -> Result<Option<DeadLetter>, Error> {
        Arc::clone(&self.store).get(id).await
    }

    /// Replays the event of a letter, and returns whether there was a letter with this id.
    ///
    /// The event counts as `replayed`. The inbox doesn't treat it as a duplicate, although it
    /// remembers the `messageId`.
    ///
    /// Attempts start again at 1. The new attempts run the routes that match the event now, except
    /// the routes that have already handled the event.
    ///
    /// # Errors
    ///
    /// Fails if the inbox is full or draining, or if its store fails. The inbox then keeps the
    /// letter. A letter that blocks its ordering key (`block_key_on_dead_letter`) is replayed even
    /// if the inbox is full, because the blocked events may fill the inbox.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the future may replay the event even if it is dropped. The event is then either
    /// a dead letter or in flight. On JetStream it may be both, until the letter is deleted or
    /// replayed again.
    pub async fn replay(&self, id: u64) -> Result<bool, Error> {
        Arc::clone(&self.store).replay(id).await
    }

    /// Replays all letters whose event type matches a pattern, oldest first. Returns the number of
    /// replayed letters.
    ///
    /// See [`replay`](DeadLetters::replay).
    ///
    /// # Errors
    ///
    /// Fails if the inbox becomes full, if it is draining, or if its store fails. The letters before the
    /// failure have been replayed, and the inbox keeps the others.
    pub async fn replay_matching(&self, pattern: &Pattern) -> Result<u64, Error> {
        Arc::clone(&self.store)
            .replay_matching(pattern.clone())
            .await
    }

    /// Deletes a letter, and returns whether there was a letter with this id.
    ///
    /// # Errors
    ///
    /// Fails if the inbox's store fails.
    pub async fn delete(&self, id: u64) -> Result<bool, Error> {
        Arc::clone(&self.store).delete(id).await
    }

    /// Deletes each letter whose event was dead-lettered more than `older_than` ago. Returns the number of deleted
    /// letters.
    ///
    /// # Errors
    ///
    /// Fails if the inbox's store fails.
    pub async fn prune(&self, older_than: Duration) -> Result<u64, Error> {
        Arc::clone(&self.store).prune(older_than).await
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").finish_non_exhaustive()
    }
}
