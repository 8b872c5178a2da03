use std::sync::Arc;
use std::time::Duration;

use super::inner::MemoryInner;
use crate::delivery::DeadLetter;
use crate::error::{Error, ErrorKind};
use crate::inbox::{AcceptError, DeadLetterStore, Monitor};
use crate::router::Pattern;
use crate::runtime::{BoxFuture, millis};

/// Each future does its work in its first poll, under the queue's lock.
impl DeadLetterStore for MemoryInner {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>> {
        Box::pin(async move {
            let queue = self.queue();
            let letters = queue.dead_letters.iter(after).take(limit);
            Ok(letters.cloned().collect())
        })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>> {
        Box::pin(async move { Ok(self.queue().dead_letters.get(id).cloned()) })
    }

    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            let now = self.clock.now();
            let replayed = self.change_and_spawn(|queue| queue.replay(id, now));
            Monitor::wake(&self);
            replayed.map_err(refused)
        })
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // The ids are collected once, so that an event that fails again isn't replayed twice.
            let matching = self.ids(|letter| {
                let event = letter.event();
                event.is_ok_and(|event| pattern.matches(event.event_type().as_str()))
            });
            let (mut replayed, now) = (0, self.clock.now());
            Monitor::wake(&self);
            for id in matching {
                let found = self.change_and_spawn(|queue| queue.replay(id, now));
                replayed += u64::from(found.map_err(refused)?);
            }
            Ok(replayed)
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move { Ok(self.change_and_spawn(|queue| queue.delete(id))) })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // The inbox's clock ignores changes of the system time, so nothing is deleted early.
            let before = self.clock.now().saturating_sub(millis(older_than));
            let old = self.queue().dead_letters.older_than(before);
            let delete = |id| self.change_and_spawn(|queue| queue.delete(id));
            Ok(old.into_iter().map(|id| u64::from(delete(id))).sum())
        })
    }
}

impl MemoryInner {
    /// Returns the ids of the letters for which `which` returns true.
    fn ids(&self, which: impl Fn(&DeadLetter) -> bool) -> Vec<u64> {
        let queue = self.queue();
        let letters = queue.dead_letters.iter(None).filter(|letter| which(letter));
        letters.map(DeadLetter::id).collect()
    }
}

fn refused(refused: AcceptError) -> Error {
    Error::caused(
        ErrorKind::Inbox,
        "the dead letter can't be replayed now: try again later",
        refused,
    )
}
