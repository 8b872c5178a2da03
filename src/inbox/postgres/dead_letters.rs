use std::sync::Arc;

use super::shared_inbox::SharedInbox;
use super::store::{Cursor, Select};
use crate::delivery::DeadLetter;
use crate::error::Error;
use crate::inbox::DeadEvents;
use crate::runtime::BoxFuture;

impl DeadEvents for SharedInbox {
    fn list_dead(
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
}
