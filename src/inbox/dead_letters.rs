use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::DeadLetter;
use crate::error::Error;
use crate::router::Pattern;
use crate::runtime::BoxFuture;

/// Lists the events that were given up, and sends them round again or deletes them. Given by
/// [`Handle::dead_letters`](crate::Handle::dead_letters); cheap to clone.
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
///     println!("{replayed} run again");
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct DeadLetters {
    store: Arc<dyn DeadLetterStore>,
}

/// What [`DeadLetters`] asks of an inbox. Only who writes an inbox from scratch implements it.
pub trait DeadLetterStore: Send + Sync + 'static {
    /// See [`DeadLetters::list`].
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>>;

    /// See [`DeadLetters::get`].
    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>>;

    /// See [`DeadLetters::replay`].
    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>>;

    /// See [`DeadLetters::replay_matching`].
    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>>;

    /// See [`DeadLetters::delete`].
    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>>;

    /// See [`DeadLetters::prune`].
    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>>;
}

impl DeadLetters {
    /// Returns the dead letters of a store.
    #[must_use]
    pub fn new(store: Arc<dyn DeadLetterStore>) -> Self {
        Self { store }
    }

    /// Returns the store, for an inbox around another one whose handle is its own.
    #[must_use]
    pub fn into_store(self) -> Arc<dyn DeadLetterStore> {
        self.store
    }

    /// Returns up to `limit` letters whose [`id`](DeadLetter::id) is above `after`, in the order of
    /// their ids, which is that in which the events were accepted. The next page is the one after
    /// its last id; an empty one is the end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the inbox's store fails. That holds for
    /// every method here.
    pub async fn list(&self, after: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>, Error> {
        Arc::clone(&self.store).list(after, limit).await
    }

    /// Returns one letter, or `None` if there is none of this id.
    ///
    /// # Errors
    ///
    /// If the inbox's store fails.
    pub async fn get(&self, id: u64) -> Result<Option<DeadLetter>, Error> {
        Arc::clone(&self.store).get(id).await
    }

    /// Sends a letter's event round again, and returns whether there was one of this id. It is no
    /// copy, though its `messageId` is known, and counts as `replayed`.
    ///
    /// Its attempts begin anew, for the routes that match it now, less those that had done their
    /// work.
    ///
    /// # Errors
    ///
    /// If the inbox is full or being drained, or its store fails. The letter stays then. One that
    /// holds back others, by `block_key_on_dead_letter`, is never refused because the inbox is full: it may be
    /// full of these.
    ///
    /// # Cancel safety
    ///
    /// Once polled, the event may be replayed also when the future is dropped. It either is a letter
    /// or is on its way; on JetStream it may be both then, until it is replayed or deleted again.
    pub async fn replay(&self, id: u64) -> Result<bool, Error> {
        Arc::clone(&self.store).replay(id).await
    }

    /// Sends all letters round again whose event type a pattern takes, the oldest first, and
    /// returns how many. See [`replay`](DeadLetters::replay).
    ///
    /// # Errors
    ///
    /// If the inbox has no room for one of them, is being drained, or its store fails. Those that
    /// came before it are on their way then, and the rest stay.
    pub async fn replay_matching(&self, pattern: &Pattern) -> Result<u64, Error> {
        Arc::clone(&self.store)
            .replay_matching(pattern.clone())
            .await
    }

    /// Deletes a letter, and returns whether there was one of this id.
    ///
    /// # Errors
    ///
    /// If the inbox's store fails.
    pub async fn delete(&self, id: u64) -> Result<bool, Error> {
        Arc::clone(&self.store).delete(id).await
    }

    /// Deletes all letters whose event was given up longer ago than this, and returns how many.
    ///
    /// # Errors
    ///
    /// If the inbox's store fails.
    pub async fn prune(&self, older_than: Duration) -> Result<u64, Error> {
        Arc::clone(&self.store).prune(older_than).await
    }
}

impl fmt::Debug for DeadLetters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetters").finish_non_exhaustive()
    }
}
