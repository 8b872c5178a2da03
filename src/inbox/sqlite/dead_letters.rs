use std::sync::Arc;

use super::error::query_failed;
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
            let (mut listed, mut after) = (Vec::new(), after.unwrap_or(0));
            while listed.len() < limit {
                let limit = limit - listed.len();
                let read = self.query(move |writer| {
                    let dead = Select {
                        in_flight: false,
                        dead: true,
                        handled: false,
                    };
                    let (cursor, mut letters) = (Cursor::After(after), Vec::new());
                    let store = &writer.database.store;
                    let read = store.log(
                        dead,
                        cursor,
                        limit,
                        0,
                        |_| false,
                        |logged| letters.push(logged.record),
                    );
                    Ok((letters, read.map_err(query_failed)?))
                });
                let (letters, last) = read.await?;
                listed.extend(letters);
                match last {
                    Some(last) => after = last,
                    None => break,
                }
            }
            Ok(listed)
        })
    }
}
