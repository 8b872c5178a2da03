use std::sync::Arc;
use std::time::Duration;

use super::shared_inbox::SharedInbox;
use super::store::{Cursor, Select};
use crate::delivery::{DeadLetter, EventState, Replay};
use crate::error::Error;
use crate::inbox::{DeadLetterStore, EventFilter, EventStore};
use crate::router::Pattern;
use crate::runtime::BoxFuture;

/// The dead letters are the dead events of the log.
impl DeadLetterStore for SharedInbox {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>> {
        Box::pin(async move {
            let dead = Select {
                in_flight: false,
                dead: true,
                handled: false,
            };
            let cursor = Cursor::After(after.unwrap_or(0));
            self.read_tables(dead, cursor, limit).await
        })
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
