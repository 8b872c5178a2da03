use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::{self, Failure};
use super::shared_inbox::SharedInbox;
use super::store::{Cursor, Select, stored};
use crate::delivery::{EventRecord, EventState, Replay};
use crate::error::Error;
use crate::inbox::{AcceptErrorKind, EventFilter, EventStore};
use crate::runtime::BoxFuture;
use crate::telemetry::PendingCounts;

/// Every operation takes a connection from the pool, and works in steps.
impl EventStore for SharedInbox {
    fn list(
        self: Arc<Self>,
        filter: EventFilter,
        limit: usize,
    ) -> BoxFuture<Result<Vec<EventRecord>, Error>> {
        Box::pin(async move {
            let (mut listed, mut before) = (Vec::new(), filter.first_before());
            while listed.len() < limit {
                // A narrow filter matches few events, so each step reads more events.
                let step = match filter.is_narrow() {
                    true => PAGE,
                    false => PAGE.min(limit - listed.len()),
                };
                let records = self.read(&filter, Cursor::Before(before), step).await?;
                let (count, last) = (records.len(), records.last().map(EventRecord::id));
                listed.extend(records.into_iter().filter(|record| filter.matches(record)));
                match last {
                    Some(last) if count == step => before = last,
                    _ => break,
                }
            }
            listed.truncate(limit);
            Ok(listed)
        })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<EventRecord>, Error>> {
        Box::pin(async move { self.find(id).await })
    }

    fn replay(self: Arc<Self>, id: u64, routes: Replay) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            self.executor.check_replay(&routes)?;
            match self.find(id).await? {
                Some(record) if self.can_replay(&record, &routes) => {
                    self.replay_one(&record, &routes).await
                }
                _ => Ok(false),
            }
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
            let mut pages = Pages::new(filter, self.state.clock.system_time());
            while let Some(records) = pages.next(&self).await? {
                for record in records {
                    if self.can_replay(&record, &routes) {
                        replayed += u64::from(self.replay_one(&record, &routes).await?);
                    }
                }
            }
            Ok(replayed)
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            let record = self.find(id).await?;
            Ok(self.delete_records(record.as_slice()).await? > 0)
        })
    }

    fn delete_matching(self: Arc<Self>, filter: EventFilter) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let mut deleted = 0;
            let mut pages = Pages::new(filter, self.state.clock.system_time());
            while let Some(records) = pages.next(&self).await? {
                deleted += self.delete_records(&records).await?;
            }
            Ok(deleted)
        })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let mut connection = self.connection();
            let store = &self.store;
            let pruned = store
                .delete_dead_letters_before(&mut connection, older_than)
                .await
                .map_err(failed)?;
            self.deleted_dead_letters(pruned);
            Ok(pruned)
        })
    }
}

/// The number of events that one query reads. A body may have 1 MiB, so the number is small.
const PAGE: usize = 32;

/// The ended events that match a filter, oldest first. Skips the events that end after the start, so an event that fails again isn't
/// replayed forever.
struct Pages {
    filter: EventFilter,
    until: SystemTime,
    after: Option<u64>,
}

impl Pages {
    fn new(filter: EventFilter, until: SystemTime) -> Self {
        Self {
            filter,
            until,
            after: Some(0),
        }
    }

    async fn next(&mut self, inbox: &SharedInbox) -> Result<Option<Vec<EventRecord>>, Error> {
        let Some(after) = self.after else {
            return Ok(None);
        };
        let mut records = inbox.read(&self.filter, Cursor::After(after), PAGE).await?;
        let last = records.last().map(EventRecord::id);
        self.after = last.filter(|_| records.len() == PAGE);
        let has_ended = |record: &EventRecord| {
            record
                .ended_at()
                .is_some_and(|ended_at| ended_at <= self.until)
        };
        records.retain(|record| has_ended(record) && self.filter.matches(record));
        Ok(Some(records))
    }
}

pub(super) fn failed(failure: Failure) -> Error {
    failure.error
}

impl SharedInbox {
    /// Reads a page of the events that may match a filter.
    pub(super) async fn read(
        &self,
        filter: &EventFilter,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Vec<EventRecord>, Error> {
        let selects = |states: &[EventState]| states.iter().any(|state| filter.may_match(*state));
        let select = Select {
            in_flight: selects(&[
                EventState::Waiting,
                EventState::Running,
                EventState::Retrying,
            ]),
            dead: selects(&[EventState::Dead]),
            handled: selects(&[EventState::Handled, EventState::Unhandled]),
        };
        self.read_tables(select, cursor, limit).await
    }

    pub(super) async fn read_tables(
        &self,
        select: Select,
        cursor: Cursor,
        limit: usize,
    ) -> Result<Vec<EventRecord>, Error> {
        let is_running = |id| {
            let state = self.state.lock();
            state.holds(id).then(|| state.runs(id))
        };
        let mut connection = self.connection();
        let read = self
            .store
            .log(&mut connection, select, cursor, limit, is_running);
        read.await.map_err(failed)
    }

    async fn find(&self, id: u64) -> Result<Option<EventRecord>, Error> {
        let all = Select {
            in_flight: true,
            dead: true,
            handled: true,
        };
        let cursor = Cursor::Before(id.saturating_add(1));
        let found = self.read_tables(all, cursor, 1).await?.pop();
        Ok(found.filter(|record| record.id() == id))
    }

    /// Returns whether the event has ended and a replay may run a route.
    fn can_replay(&self, record: &EventRecord, routes: &Replay) -> bool {
        let can_run = match (record.event(), routes) {
            (Ok(event), _) => self.executor.can_replay(event, routes),
            (Err(_), Replay::Only(_)) => false,
            (Err(_), _) => true,
        };
        !record.state().is_in_flight() && can_run
    }

    /// Turns an ended event back into an event in flight, which any process runs.
    async fn replay_one(&self, record: &EventRecord, routes: &Replay) -> Result<bool, Error> {
        let size = record.body().len() as u64;
        {
            let state = self.state.lock();
            if state.draining_since.is_some() {
                return Err(error::not_replayed(AcceptErrorKind::Draining));
            }
            // Events that wait for a dead letter may take all the space. Without the replay, that space would stay taken.
            let may_block = self.executor.settings.block_key_on_dead_letter;
            if !state.has_space(size) && !may_block {
                return Err(error::not_replayed(AcceptErrorKind::Full));
            }
        }
        let mut connection = self.connection();
        let replayed = self.store.replay(&mut connection, record, routes).await;
        let replayed = replayed.map_err(failed)?;
        if replayed {
            self.state.update(|state, counts: &mut PendingCounts<'_>| {
                state.grow(size);
                state.stats.replayed += 1;
                // This process or another one claims the event.
                state.stats.published += 1;
                counts.replayed(1);
                state.may_claim = true;
                if record.state() == EventState::Dead {
                    state.stats.dead_letters = state.stats.dead_letters.saturating_sub(1);
                }
            });
            self.wake();
        }
        Ok(replayed)
    }

    async fn delete_records(&self, records: &[EventRecord]) -> Result<u64, Error> {
        let ids = |state: fn(EventState) -> bool| {
            let records = records.iter().filter(|record| state(record.state()));
            records
                .map(|record| stored(record.id()))
                .collect::<Vec<_>>()
        };
        let dead = ids(|state| state == EventState::Dead);
        let handled = ids(|state| matches!(state, EventState::Handled | EventState::Unhandled));
        let mut connection = self.connection();
        let mut deleted = 0;
        if !dead.is_empty() {
            let store = &self.store;
            let dead = store
                .delete_dead_letters(&mut connection, &dead)
                .await
                .map_err(failed)?;
            self.deleted_dead_letters(dead);
            deleted += dead;
        }
        if !handled.is_empty() {
            let store = &self.store;
            deleted += store
                .delete_handled(&mut connection, &handled)
                .await
                .map_err(failed)?;
        }
        Ok(deleted)
    }

    /// Counts deleted dead letters. Deletions may have unblocked keys.
    fn deleted_dead_letters(&self, deleted: u64) {
        {
            let mut state = self.state.lock();
            state.stats.dead_letters = state.stats.dead_letters.saturating_sub(deleted);
            state.may_claim = true;
        }
        self.wake();
    }
}
