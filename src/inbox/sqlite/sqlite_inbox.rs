use std::fmt;
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "tokio")]
use tower_service::Service;

use super::SqliteInboxBuilder;
use super::inner::Inner;
#[cfg(feature = "tokio")]
use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Handle, Inbox, InboxControl};
#[cfg(feature = "tokio")]
use crate::outcome::Report;
use crate::runtime::Runtime;

/// The inbox that keeps accepted events on disk, in a SQLite database of its own: an event is
/// answered 200 once it would survive a crash or a power failure.
///
/// All events that arrive while one transaction is being written go into the next one together, so
/// the disk is asked once for many. After a start it delivers what was accepted before and hadn't
/// ended. Only a window of the events is in memory, whatever waits on disk.
///
/// # When a handler sees an event twice
///
/// Each accepted event runs at least once, and in all but these cases once for each attempt:
///
/// - The process ended, by a crash or a kill, after the handler ran and before that was on disk. A
///   [`drain`](Handle::drain) before the end leaves no such event.
/// - The route was renamed while the event waited for its next attempt.
/// - The runtime dropped it while the handler ran: the same attempt is made again after 1 s, by this
///   process or the next one.
/// - A layer around the router failed or timed out after the handler.
/// - The sender sent a copy later than [`duplicate_window`](SqliteInboxBuilder::duplicate_window), or
///   after [more ids](SqliteInboxBuilder::max_remembered_ids) than are remembered.
///
/// # At the start
///
/// What an earlier process left counts as `recovered`, and is delivered in the order in which it was
/// accepted. An event that runs at that moment when the process ends, again and again, is suspected
/// of crashing it: such events then run one at a time, and after
/// [`max_crashes`](SqliteInboxBuilder::max_crashes) they are dead letters.
///
/// # The file
///
/// It is yours to look into while the inbox works, with `sqlite3`. Don't change what is in it, also
/// not while it is closed: sums are kept beside the rows.
///
/// | table | a row is | columns |
/// |---|---|---|
/// | `events` | an event that hasn't ended | `id` (the order of acceptance), `received_at`, `order_key`, `attempt` (the next one), `due_at`, `routes` (those that need no run, as JSON), `routed`, `marked` and `crashes`, `body` (as it came) |
/// | `pending` | the same, to read: a view | `id`, `message_id`, `event_type`, `received`, `attempt`, `due`, `routes` |
/// | `dead_letters` | an event that was given up | `id`, `message_id`, `event_type`, `received_at`, `dead_lettered_at`, `attempts`, `routes` (with what `failed`), `cause`, `order_key`, `holds`, `body` |
/// | `message_ids` | an id by which copies are recognised | `id`, `accepted_at`, `message_id` |
/// | `totals` | one row of sums | `next_id`, `events`, `event_bytes`, `dead_letters`, `dead_letter_bytes` |
///
/// Times are in milliseconds since the Unix epoch. A long read keeps the log beside the file from
/// being emptied: when it reaches [`max_wal_bytes`](SqliteInboxBuilder::max_wal_bytes) events are
/// answered 503 until the reader is done, and that is logged.
///
/// One inbox owns the file, by a lock on a file beside it whose name ends with `-lock`. It has to
/// be on a disk of this machine: SQLite's log doesn't work on network file systems.
///
/// # When the disk fails
///
/// When the disk is full or slow, or somebody else writes to the file, events are answered 503,
/// handlers that run finish and nothing new is started; it goes on by itself when the disk does.
/// What is wrong is logged.
///
/// When its file is deleted, moved or replaced under it, or the log, it delivers what it has, and
/// events are answered 503 until the process is started anew. Where the file is damaged, events that
/// can't be read stay in it and aren't delivered, while all others are; one whose end can't be
/// written runs again at the next start. `.recover` of `sqlite3` may read more.
///
/// # Examples
///
/// ```no_run
/// use botisimo_webhooks::{Event, EventRouter, SqliteInbox, WebhookLayer};
///
/// # async fn run() -> Result<(), botisimo_webhooks::Error> {
/// let router = EventRouter::new().on("account.updated", |event: Event| async move {
///     println!("{}", event.id());
/// });
/// let inbox = SqliteInbox::open("inbox.db", router).await?;
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct SqliteInbox {
    inner: Arc<Inner>,
}

impl SqliteInbox {
    /// Opens an inbox with the defaults of [`SqliteInboxBuilder`], on tokio.
    ///
    /// # Errors
    ///
    /// Those of [`SqliteInboxBuilder::open`].
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    pub async fn open<S>(path: impl AsRef<Path>, service: S) -> Result<Self, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self::builder(path).open(service).await
    }

    /// Returns a builder, to set what isn't as the defaults are.
    pub fn builder(path: impl AsRef<Path>) -> SqliteInboxBuilder {
        SqliteInboxBuilder::new(path.as_ref())
    }

    pub(super) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

impl Inbox for SqliteInbox {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        Arc::clone(&self.inner).accept(event)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.inner.executor.runtime)
    }

    fn handle(&self) -> Handle {
        Handle::shared(Arc::clone(&self.inner) as Arc<dyn InboxControl>)
    }
}

impl fmt::Debug for SqliteInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteInbox")
            .field("stats", &self.inner.stats())
            .finish()
    }
}
