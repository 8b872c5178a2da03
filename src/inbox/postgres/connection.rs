use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::{Either, select};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::error::{self, Failure};
use crate::runtime::Runtime;

/// How long the inbox waits for a connection from the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the inbox waits for the answer to a statement.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);

/// A parameter with its type. With the types, a statement needs one round trip and no prepared statement. Through pgbouncer, a connection
/// would lose its prepared statements.
pub(super) type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A connection that a task of the inbox keeps until a statement fails.
pub(super) struct Connection {
    pool: Pool,
    runtime: Arc<dyn Runtime>,
    client: Option<Object>,
}

impl Connection {
    pub(super) fn new(pool: Pool, runtime: Arc<dyn Runtime>) -> Self {
        Self {
            pool,
            runtime,
            client: None,
        }
    }

    /// Returns whether the connection is broken or doesn't exist yet.
    pub(super) fn is_closed(&self) -> bool {
        self.client.as_ref().is_none_or(|client| client.is_closed())
    }

    /// Returns the connection, and takes a new one from the pool if necessary.
    ///
    /// # Errors
    ///
    /// Fails if the pool has no connection within 5 s.
    pub(super) async fn client(&mut self) -> Result<&Object, Failure> {
        if self.is_closed() {
            self.close();
            let get = Box::pin(self.pool.get());
            let object = match select(get, self.runtime.sleep(CONNECT_TIMEOUT)).await {
                Either::Left((object, _)) => object.map_err(error::no_connection),
                Either::Right(_) => Err(error::pool_exhausted()),
            };
            self.client = Some(object.map_err(Failure::before)?);
        }
        match &self.client {
            Some(client) => Ok(client),
            None => Err(Failure::before(error::pool_exhausted())),
        }
    }

    /// Runs one statement in its own transaction. `Ok` means that the transaction is committed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the server may still run the statement.
    pub(super) async fn query(
        &mut self,
        sql: &str,
        params: &[Param<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let sleep = self.runtime.sleep(STATEMENT_TIMEOUT);
        let client = self.client().await?;
        let query = Box::pin(client.query_typed(sql, params));
        let result = match select(query, sleep).await {
            Either::Left((rows, _)) => rows.map_err(Failure::of),
            Either::Right(_) => Err(Failure::unanswered()),
        };
        if result
            .as_ref()
            .is_err_and(|failure| failure.may_be_committed)
        {
            self.close();
        }
        result
    }

    /// Closes the connection instead of returning it to the pool, because the server may still run a statement on it.
    pub(super) fn close(&mut self) {
        if let Some(client) = self.client.take() {
            drop(Object::take(client));
        }
    }
}
