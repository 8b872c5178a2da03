use std::fmt;
use std::path::Path;
use std::sync::Arc;

#[cfg(feature = "tokio")]
use tower_service::Service;

use super::SqliteInboxBuilder;
use super::shared_inbox::SharedInbox;
#[cfg(feature = "tokio")]
use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Handle, Inbox, InboxControl};
#[cfg(feature = "tokio")]
use crate::outcome::Report;
use crate::runtime::Runtime;

/// An inbox that stores accepted events in a SQLite file. The receiver answers 200 once the event would survive a crash or a
/// power failure.
///
/// Concurrent events share one transaction (group commit). An event waits up to 300 µs for events of other clients, if there were any at
/// the last commit. After a restart, the inbox runs the events that hadn't
/// ended. Only a window of the events is in memory.
///
/// # At least once
///
/// Each accepted event runs at least once. An attempt runs more than once only in these cases:
///
/// - The process crashed or was killed after the handler ran and before the result was on disk. The inbox writes a result within about 5 ms
///   plus the time of a commit. A [`drain`](Handle::drain) before the process exits prevents this.
/// - The route was renamed while the event was waiting for a retry.
/// - The runtime dropped the attempt while the handler was running. This process or the next one repeats the attempt
///   after 1 s.
/// - A layer around the router failed or timed out after the handler ran.
/// - The sender sent a copy after the [`duplicate_window`](SqliteInboxBuilder::duplicate_window), or after the inbox
///   accepted [more ids](SqliteInboxBuilder::max_remembered_ids) than it remembers.
///
/// # Start
///
/// Events of an earlier process count as `recovered` and run in the order of acceptance. An event that was running when
/// the process ended is a poison candidate. Poison candidates run one at a time. After
/// [`max_crashes`](SqliteInboxBuilder::max_crashes) crashes, a poison candidate becomes a dead letter.
///
/// # The file
///
/// You can read the file with `sqlite3` while the inbox is open. Don't write to the file, even while the inbox is
/// closed, because the inbox also stores sums of the rows.
///
/// | table | row | columns |
/// |---|---|---|
/// | `events` | an event that hasn't ended | `id` (the order of acceptance), `received_at`, `order_key`, `attempt` (the next one), `due_at`, `routes` (the routes that don't run again, as JSON), `routes_waiting`, `running`, `crashes`, `body`, `traceparent` (of the request) |
/// | `pending` | a readable view of `events` | `id`, `message_id`, `event_type`, `received`, `attempt`, `due`, `routes` |
/// | `dead_letters` | a dead letter | `id`, `message_id`, `event_type`, `received_at`, `dead_lettered_at`, `kept_since`, `attempts`, `routes` (with the reasons), `cause`, `order_key`, `blocks_key`, `body`, `traceparent` |
/// | `message_ids` | an id that identifies copies | `id`, `accepted_at`, `message_id` |
/// | `once_keys` | a key for which a route with [`once_per`](crate::EventRouter::once_per) handled an event | `route`, `event_id`, `key`, `window`, `accepted_at`, `used_at`, `expires_at`, `message_id` |
/// | `totals` | the sums, and the state of the inbox's clock | see the schema |
///
/// Times are in milliseconds since the Unix epoch. A long read keeps the write-ahead log from being emptied. If the log
/// reaches [`max_wal_bytes`](SqliteInboxBuilder::max_wal_bytes), the receiver answers 503 until the reader is done, and
/// the inbox logs this fault.
///
/// Only one inbox can own the file, no matter which name it is opened under. The inbox follows symbolic links, and
/// locks a file whose name ends with `-lock`, next to the database. On Linux, the inbox also locks the database, so a
/// second inbox can't open it through a hard link, or after the lock file is deleted.
///
/// # File location
///
/// The database, its write-ahead log (`-wal`) and its index (`-shm`) must stay together, in one folder on a local disk.
///
/// - To use the file in a container, mount its folder. If the file itself is a mount point, [`open`](SqliteInbox::open) fails:
///   the log would be lost with the container.
/// - The index is shared memory. Network file systems, and file systems that a virtual machine shares with its host,
///   don't share memory. On these file systems, `open` fails, or a reader on another machine damages the file.
/// - To move or rename the file, stop the process and move all files. If the log is still next to the old name, `open`
///   fails and names the log. If the log is missing, the inbox logs a warning and opens.
///
/// # Backups
///
/// The `.backup` command of `sqlite3` and `VACUUM INTO` can copy the database while the inbox is open. A copy of all
/// files is complete if the process has stopped, or if the copy is an atomic snapshot. A copy of the database file
/// alone lacks the latest events and results, which are only in the log. If you restore such a copy, these events are
/// lost, and events whose results are missing run again.
///
/// To restore a backup, stop the process, delete `-wal` and `-shm`, and replace the database. The inbox then runs the events
/// that hadn't ended when the backup was made.
///
/// # Clocks
///
/// The duplicate window, the retention of dead letters and due times use the inbox's own clock. This clock counts the
/// time while a process is running. If the system clock shows at most a day between the end of one process and the
/// start of the next, this time counts too. Longer times don't count, because the system clock may be wrong. The time
/// while the machine is suspended doesn't count either.
///
/// So if the system clock is wrong or is changed, the inbox deletes nothing early, and no attempt waits longer than
/// [`max_delay`](crate::RetryPolicy::max_delay). `received_at` and `dead_lettered_at` follow the system clock.
///
/// # Faults of the disk
///
/// If the disk is full or slow, or another process writes to the file, the receiver answers 503. Running handlers
/// finish, and no new handlers start. The inbox recovers without a restart. The inbox logs each fault immediately and
/// then every minute, and [`Handle::health`] returns the fault. If another process adds or deletes rows, the inbox
/// recounts the rows and continues.
///
/// If the file or its log is deleted, moved or replaced, the inbox still runs the events that it holds. The receiver
/// answers 503 until the file is back or the process is restarted. If the file is damaged, the inbox runs all events
/// that it can read. An event whose result can't be written runs again after the next start. The `.recover` command of
/// `sqlite3` may restore more events.
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
    shared: Arc<SharedInbox>,
}

impl SqliteInbox {
    /// Opens an inbox with the defaults of [`SqliteInboxBuilder`], on tokio.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`SqliteInboxBuilder::open`].
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

    /// Returns a builder that overrides the defaults.
    pub fn builder(path: impl AsRef<Path>) -> SqliteInboxBuilder {
        SqliteInboxBuilder::new(path.as_ref())
    }

    pub(super) fn from_shared(shared: Arc<SharedInbox>) -> Self {
        Self { shared }
    }
}

impl Inbox for SqliteInbox {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        Arc::clone(&self.shared).accept(event)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.shared.executor.runtime)
    }

    fn handle(&self) -> Handle {
        Handle::shared(Arc::clone(&self.shared) as Arc<dyn InboxControl>)
    }
}

impl fmt::Debug for SqliteInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteInbox")
            .field("stats", &self.shared.stats())
            .finish()
    }
}
