use std::fmt;
use std::sync::Arc;

use deadpool_postgres::Pool;
use tower_service::Service;

use super::PostgresInboxBuilder;
use super::shared_inbox::SharedInbox;
use crate::error::{BoxError, Error};
use crate::event::Event;
use crate::inbox::{AcceptError, Accepted, Handle, Inbox, InboxControl};
use crate::outcome::Report;
use crate::runtime::Runtime;

/// An inbox in a PostgreSQL database that any number of processes share. The receiver answers 200 once the event is committed.
///
/// Concurrent events share one transaction (group commit). The process that accepts an event leases it and runs it. If that process
/// dies or has no free worker, another process runs the event.
///
/// # At least once
///
/// Each accepted event runs at least once. An attempt runs more than once only in these cases:
///
/// - The process crashed, was frozen or had no connection for longer than its [`lease`](PostgresInboxBuilder::lease), after the handler
///   ran and before the server recorded the result. A [`drain`](Handle::drain) before the process exits prevents this.
/// - The route was renamed while the event was waiting for a retry.
/// - The runtime dropped the attempt while the handler was running.
/// - A layer around the router failed or timed out after the handler ran.
/// - The sender sent a copy after the [`duplicate_window`](PostgresInboxBuilder::duplicate_window).
///
/// A handler that writes to the same database gets exactly one effect with [`Event::complete_in`].
///
/// # Processes
///
/// Each process extends its lease every second, by the server's clock. If a lease ends, the other processes release the events of that
/// process and run them. The process can't record results for these events any more. If a process starts a drain, the inbox returns the
/// events that haven't begun at once.
///
/// [`Stats`](crate::Stats) counts for one process: `accepted` counts the events that this process accepted, and `recovered` counts the
/// events that it took from the database. `published` counts the events that it left to any process, or lost to another process.
/// [`Handle::wait_idle`] waits until the database has no event in flight.
///
/// An idle process sends about one query a second.
///
/// # The pool
///
/// The inbox uses a `deadpool_postgres` pool of the service. Its tasks keep two connections, so the pool's `max_size` must be at least 3.
/// If the pool has no free connection for 5 s, the inbox counts this as a fault of the server.
///
/// The statements work through pgbouncer in transaction mode (tried with pgbouncer 1.18): the inbox prepares no statements, and needs no
/// state of a session.
///
/// # Permissions
///
/// The role needs no superuser. To create the schema, the role needs the right `CREATE` on the database, or an administrator creates the
/// schema for the role: `CREATE SCHEMA botisimo AUTHORIZATION app`. The role owns the tables and functions, and a new version of this crate
/// migrates them when it is opened. An older version refuses to open a migrated schema.
///
/// # The schema
///
/// You can read the tables with `psql`. Don't write to them.
///
/// | table | row | columns |
/// |---|---|---|
/// | `events` | an event that hasn't ended | `id` (the order of acceptance), `owner` (the worker that has leased it, or 0), `due_at`, `received_at`, `attempt` (the next one), `takeovers` (workers that died with it), `blocked` (an earlier event of its key hasn't ended), `order_key` (a hash), `message_id`, `event_type`, `routes` (the routes that don't run again, as JSON), `routes_waiting`, `waiting`, `only_route`, `history`, `traceparent`, `body` |
/// | `dead_letters` | a dead letter | `id`, `received_at`, `dead_lettered_at`, `attempts`, `order_key`, `blocks_key`, `message_id`, `event_type`, `routes` (with the reasons), `cause`, `history`, `traceparent`, `body` |
/// | `handled` | a handled event, if [`keep_handled`](PostgresInboxBuilder::keep_handled) is set | `id`, `received_at`, `ended_at`, `unhandled`, `attempts`, and the others as in `dead_letters` |
/// | `message_ids` | an id that identifies copies | `message_id` (a hash), `event_id`, `accepted_at` |
/// | `finished_routes` | a route that has called [`complete_in`](Event::complete_in) | `event_id`, `route` |
/// | `workers` | a process that runs events | `id`, `started_at`, `alive_until` |
///
/// A transaction that stays open for minutes, for example a backup, keeps PostgreSQL from removing deleted rows, so the tables grow
/// meanwhile.
///
/// # Faults of the server
///
/// If the server is unreachable, read-only or out of disk space, the receiver answers 503. Running handlers finish, and no new handlers
/// start. The inbox recovers without a restart. It logs each fault immediately and then every minute, and [`Handle::health`] returns the
/// fault. If a connection breaks during a commit, the inbox sends the events again, and recognizes the events that were committed.
///
/// A failover to an asynchronous standby loses the last commits, including events that the receiver answered with 200. Use a synchronous
/// standby (`synchronous_standby_names`) to lose no event.
///
/// # Limits
///
/// [`EventRouter::once_per`](crate::EventRouter::once_per) isn't supported: [`open`](PostgresInbox::open) returns an error.
/// [`EventRouter::concurrency`](crate::EventRouter::concurrency) limits the route in each process. The inbox needs tokio, and a database
/// with the encoding UTF8. The tests run with PostgreSQL 15.
///
/// # Examples
///
/// ```no_run
/// use botisimo_webhooks::{Event, EventRouter, PostgresInbox, WebhookLayer};
/// use deadpool_postgres::{Manager, Pool};
/// use tokio_postgres::NoTls;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let manager = Manager::new("postgres://app@localhost/app".parse()?, NoTls);
/// let pool = Pool::builder(manager).max_size(16).build()?;
/// let router = EventRouter::new().on("account.updated", |event: Event| async move {
///     println!("{}", event.id());
/// });
/// let inbox = PostgresInbox::open(pool, router).await?;
/// let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct PostgresInbox {
    shared: Arc<SharedInbox>,
}

impl PostgresInbox {
    /// Opens an inbox with the defaults of [`PostgresInboxBuilder`].
    ///
    /// # Errors
    ///
    /// Returns the errors of [`PostgresInboxBuilder::open`].
    pub async fn open<S>(pool: Pool, service: S) -> Result<Self, Error>
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self::builder(pool).open(service).await
    }

    /// Returns a builder that overrides the defaults.
    pub fn builder(pool: Pool) -> PostgresInboxBuilder {
        PostgresInboxBuilder::new(pool)
    }

    pub(super) fn from_shared(shared: Arc<SharedInbox>) -> Self {
        Self { shared }
    }
}

impl Inbox for PostgresInbox {
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

impl fmt::Debug for PostgresInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresInbox")
            .field("stats", &self.shared.stats())
            .finish()
    }
}
