use std::sync::Arc;
use std::time::Duration;

use super::error::query_failed;
use super::shared_inbox::SharedInbox;
use super::writer::STEP;
use crate::delivery::DeadLetter;
use crate::error::Error;
use crate::inbox::DeadLetterStore;
use crate::router::Pattern;
use crate::runtime::{BoxFuture, millis};

/// The maximum size of the dead letters that a turn replays, in bytes. The last dead letter may exceed this limit.
const STEP_BYTES: usize = 16 << 20;

/// Every operation runs on the writer's thread.
impl DeadLetterStore for SharedInbox {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>> {
        self.query(move |writer| {
            let letters = writer.database.store.dead_letters(after, limit);
            letters.map_err(query_failed)
        })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>> {
        self.query(move |writer| {
            let letter = writer.database.store.find_dead_letter(id);
            letter.map_err(query_failed)
        })
    }

    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        self.query(move |writer| {
            let letter = writer.database.store.find_dead_letter(id);
            let letter = letter.map_err(query_failed)?;
            Ok(writer.replay(letter.as_slice())? > 0)
        })
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // This call doesn't replay dead letters that are added later, so an event that fails again doesn't run
            // forever.
            let (until, mut after, mut replayed) = (self.state.clock.now(), None, 0);
            loop {
                let pattern = pattern.clone();
                let step = self.query(move |writer| {
                    let is_chosen = |event_type: &str, kept_since| {
                        kept_since <= until && pattern.matches(event_type)
                    };
                    let store = &writer.database.store;
                    let chosen = store.choose_dead_letters(after, STEP, STEP_BYTES, is_chosen);
                    let (chosen, last) = chosen.map_err(query_failed)?;
                    Ok((writer.replay(&chosen)?, last))
                });
                let (count, last) = step.await?;
                replayed += count;
                if last.is_none() {
                    return Ok(replayed);
                }
                after = last;
            }
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        self.query(move |writer| {
            let deleted = writer.delete(&[id]).map_err(query_failed)?;
            Ok(deleted > 0)
        })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let before = self.state.clock.now().saturating_sub(millis(older_than));
            let mut pruned = 0;
            loop {
                let step =
                    self.query(move |writer| writer.delete_before(before).map_err(query_failed));
                let deleted = step.await?;
                pruned += deleted as u64;
                if deleted < STEP {
                    return Ok(pruned);
                }
            }
        })
    }
}
