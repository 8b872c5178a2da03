use std::fmt;
use std::sync::Arc;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::error;
use crate::error::Error;
use crate::event::Event;
use crate::outcome::Lease;

/// The arguments of the SQL function `complete`, by which a handler records in its own transaction that its route has handled the event.
///
/// [`Event::completion`] returns the arguments. With `tokio-postgres`, [`Event::complete_in`] is shorter.
///
/// # Examples
///
/// With any client, for example sqlx:
///
/// ```ignore
/// let Some(completion) = event.completion() else { return Err("not from a `PostgresInbox`".into()) };
/// sqlx::query("SELECT botisimo.complete($1, $2, $3)")
///     .bind(completion.event_id())
///     .bind(completion.worker())
///     .bind(completion.route())
///     .execute(&mut *transaction)
///     .await?;
/// transaction.commit().await?;
/// ```
#[derive(Clone)]
pub struct Completion {
    lease: Lease,
    route: Arc<str>,
}

impl Completion {
    /// Returns the first argument: the event's number in the inbox.
    #[must_use]
    pub fn event_id(&self) -> i64 {
        self.lease.event
    }

    /// Returns the second argument: the worker that has leased the event.
    #[must_use]
    pub fn worker(&self) -> i64 {
        self.lease.worker
    }

    /// Returns the third argument: the name of the handler's route.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }
}

/// Writes the arguments.
impl fmt::Debug for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("event_id", &self.event_id())
            .field("worker", &self.worker())
            .field("route", &self.route())
            .finish()
    }
}

#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
impl<T> Event<T> {
    /// Records in the handler's own transaction that the handler's route has handled this event.
    ///
    /// If the transaction commits, its effects exist exactly once: the route doesn't run again for this event, even if the process dies
    /// before the handler returns. If another worker has taken the event, or if the route has handled the event, the method fails: roll
    /// back. Call the method once, before the commit, with a connection to the inbox's database.
    ///
    /// The guarantee covers effects in this database, not calls to other services. A [`Replay`](crate::Replay) that names the route, or
    /// of all routes, runs the route again. An open transaction keeps other workers from taking the event, so set
    /// `idle_in_transaction_session_timeout`.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Inbox`](crate::ErrorKind::Inbox) if the lease is lost, if the route has handled the event, if the server
    /// fails, or if the event isn't in a handler of an [`EventRouter`](crate::EventRouter) over a
    /// [`PostgresInbox`](crate::PostgresInbox). After an error, a commit has no effect.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, roll the transaction back.
    ///
    /// # Examples
    ///
    /// ```
    /// use botisimo_webhooks::{Event, HandlerResult};
    /// use deadpool_postgres::Pool;
    ///
    /// async fn award_points(event: Event, pool: Pool) -> HandlerResult {
    ///     let mut client = pool.get().await?;
    ///     let transaction = client.transaction().await?;
    ///     transaction.execute("INSERT INTO points (event, points) VALUES ($1, 10)", &[&event.id()]).await?;
    ///     event.complete_in(&transaction).await?;
    ///     transaction.commit().await?;
    ///     Ok(())
    /// }
    /// ```
    pub async fn complete_in(&self, transaction: &Transaction<'_>) -> Result<(), Error>
    where
        T: Sync,
    {
        let completion = self.completion().ok_or_else(error::not_in_a_handler)?;
        let sql = format!("SELECT {}.complete($1, $2, $3)", completion.lease.schema);
        let completed = transaction
            .query_typed(
                &sql,
                &[
                    (&completion.event_id(), Type::INT8),
                    (&completion.worker(), Type::INT8),
                    (&completion.route(), Type::TEXT),
                ],
            )
            .await;
        completed.map(drop).map_err(error::failing)
    }

    /// Returns the arguments of the SQL function `complete`, or `None` if the event isn't in a handler of an
    /// [`EventRouter`](crate::EventRouter) over a [`PostgresInbox`](crate::PostgresInbox).
    ///
    /// The function does the same as [`complete_in`](Event::complete_in) for other clients and languages. It raises an exception with the
    /// SQLSTATE `BW001` if the lease is lost, and `BW002` if the route has handled the event.
    #[must_use]
    pub fn completion(&self) -> Option<Completion> {
        let lease = self.attempt_state()?.lease()?.clone();
        let route = Arc::clone(self.route()?);
        lease.mark_used();
        Some(Completion { lease, route })
    }
}
