use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::dead_letter_stream::DeadLetterStream;
use crate::delivery::DeadLetter;
use crate::error::Error;
use crate::inbox::DeadLetterStore;
use crate::router::Pattern;
use crate::runtime::BoxFuture;

impl DeadLetterStore for DeadLetterStream {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>> {
        Box::pin(async move {
            let mut letters = Vec::new();
            let mut from = after.map_or(Some(1), |after| after.checked_add(1));
            while let Some(id) = from.filter(|_| letters.len() < limit) {
                let Some(stored) = self.next(id).await? else {
                    break;
                };
                from = stored.letter.id().checked_add(1);
                letters.push(stored.letter);
            }
            Ok(letters)
        })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>> {
        Box::pin(async move {
            Ok(DeadLetterStream::get(&self, id)
                .await?
                .map(|stored| stored.letter))
        })
    }

    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            let Some(stored) = DeadLetterStream::get(&self, id).await? else {
                return Ok(false);
            };
            DeadLetterStream::replay(&self, &stored).await?;
            Ok(true)
        })
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // Stop at the current last id, so that an event that fails again during the replay isn't replayed twice.
            let last = self.last_id().await?;
            let (mut from, mut count) = (1, 0);
            while let Some(stored) = self.next(from).await? {
                if stored.letter.id() > last {
                    break;
                }
                from = stored.letter.id().saturating_add(1);
                let event = stored.letter.event();
                // Skip letters whose routes only other workers have.
                if self.has_route_of(&stored)
                    && event.is_ok_and(|event| pattern.matches(event.event_type().as_str()))
                {
                    DeadLetterStream::replay(&self, &stored).await?;
                    count += 1;
                }
            }
            Ok(count)
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move { DeadLetterStream::delete(&self, id).await })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // Ages use the server's clock, because a wrong clock on this machine must not delete a letter.
            let now = self.server_time().await.unwrap_or_else(SystemTime::now);
            let Some(limit) = now.checked_sub(older_than) else {
                return Ok(0);
            };
            let (mut from, mut count) = (1, 0);
            while let Some(stored) = self.next(from).await? {
                let id = stored.letter.id();
                from = id.saturating_add(1);
                if stored.stored_at < limit && DeadLetterStream::delete(&self, id).await? {
                    count += 1;
                }
            }
            Ok(count)
        })
    }
}
