use std::sync::Arc;
use std::time::Duration;

use super::inner::MemoryInner;
use crate::delivery::{DeadLetter, EventRecord, Replay, spawn_workers};
use crate::error::{Error, ErrorKind};
use crate::inbox::{AcceptError, DeadLetterStore, EventFilter, EventStore, Monitor};
use crate::router::Pattern;
use crate::runtime::{BoxFuture, millis};

/// Each future does its work in its first poll, under the queue's lock.
impl EventStore for MemoryInner {
    fn list(
        self: Arc<Self>,
        filter: EventFilter,
        limit: usize,
    ) -> BoxFuture<Result<Vec<EventRecord>, Error>> {
        Box::pin(async move { Ok(self.queue().list(&filter, limit)) })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<EventRecord>, Error>> {
        Box::pin(async move { Ok(self.queue().get(id)) })
    }

    fn replay(self: Arc<Self>, id: u64, routes: Replay) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            self.executor.check_replay(&routes)?;
            self.replay_ended(id, &routes)
        })
    }

    fn replay_matching(
        self: Arc<Self>,
        filter: EventFilter,
        routes: Replay,
    ) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            self.executor.check_replay(&routes)?;
            let mut replayed = 0;
            for id in self.ended(&filter) {
                replayed += u64::from(self.replay_ended(id, &routes)?);
            }
            Ok(replayed)
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move { Ok(self.change_and_spawn(|queue| queue.delete(id))) })
    }

    fn delete_matching(self: Arc<Self>, filter: EventFilter) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let delete = |id| self.change_and_spawn(|queue| queue.delete(id));
            let ended = self.ended(&filter).into_iter();
            Ok(ended.map(|id| u64::from(delete(id))).sum())
        })
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
    /// Returns the ids of the ended events that match the filter, oldest first.
    ///
    /// The caller collects the ids once, so an event that ends again isn't replayed twice.
    fn ended(&self, filter: &EventFilter) -> Vec<u64> {
        let records = self.queue().list(filter, usize::MAX);
        let ended = records.iter().rev();
        let ended = ended.filter(|record| !record.state().is_in_flight());
        ended.map(EventRecord::id).collect()
    }

    fn replay_ended(self: &Arc<Self>, id: u64, routes: &Replay) -> Result<bool, Error> {
        if let Replay::Only(_) = routes {
            let record = self.queue().get(id);
            let event = record.as_ref().and_then(|record| record.event().ok());
            if !event.is_some_and(|event| self.executor.can_replay(event, routes)) {
                return Ok(false);
            }
        }
        let now = self.clock.now();
        let replayed = self.change_and_count(
            |queue| queue.replay(id, routes, now),
            |metrics, replayed| {
                if let Ok(true) = replayed {
                    metrics.replayed();
                }
            },
        );
        spawn_workers(self);
        Monitor::wake(self);
        replayed.map_err(refused)
    }
}

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
            match self.has_letter(id) {
                true => EventStore::replay(self, id, Replay::Remaining).await,
                false => Ok(false),
            }
        })
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        let filter = EventFilter::dead().event_type(pattern);
        EventStore::replay_matching(self, filter, Replay::Remaining)
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            match self.has_letter(id) {
                true => EventStore::delete(self, id).await,
                false => Ok(false),
            }
        })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        EventStore::prune(self, older_than)
    }
}

impl MemoryInner {
    fn has_letter(&self, id: u64) -> bool {
        self.queue().dead_letters.get(id).is_some()
    }
}

fn refused(refused: AcceptError) -> Error {
    Error::caused(
        ErrorKind::Inbox,
        "the event can't be replayed now: try again later",
        refused,
    )
}
