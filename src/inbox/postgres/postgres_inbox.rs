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
