use std::sync::Arc;
use std::time::Duration;

use super::error::query_failed;
use super::matching::{ended_ids, read_matching};
use super::shared_inbox::SharedInbox;
use super::store::Cursor;
use super::writer::{STEP, Writer};
use crate::delivery::{EventRecord, Replay};
use crate::error::Error;
use crate::inbox::{EventFilter, EventStore};
use crate::runtime::{BoxFuture, millis};

/// Every operation runs on the writer's thread, in steps, so that events don't wait long.
impl EventStore for SharedInbox {
    fn list(
        self: Arc<Self>,
        filter: EventFilter,
        limit: usize,
    ) -> BoxFuture<Result<Vec<EventRecord>, Error>> {
        Box::pin(async move {
            let (mut listed, mut before) = (Vec::new(), filter.first_before());
            while listed.len() < limit {
                let (step, matching) = (STEP.min(limit - listed.len()), filter.clone());
                // A narrow filter matches few events, so each step reads more events.
                let step = if filter.is_narrow() { STEP } else { step };
                let cursor = Cursor::Before(before);
                let read = self.query(move |writer| writer.read(&matching, cursor, step, u64::MAX));
                let (records, last) = read.await?;
                listed.extend(records);
                match last {
                    Some(last) => before = last,
                    None => break,
                }
            }
            listed.truncate(limit);
            Ok(listed)
        })
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<EventRecord>, Error>> {
        self.query(move |writer| writer.find(id))
    }

    fn replay(self: Arc<Self>, id: u64, routes: Replay) -> BoxFuture<Result<bool, Error>> {
        Box::pin(async move {
            self.executor.check_replay(&routes)?;
            let inbox = Arc::clone(&self);
            self.query(move |writer| {
                let record = writer.find(id)?;
                let record = record.filter(|record| inbox.can_replay(record, &routes));
                Ok(writer.replay(record.as_slice(), &routes)? > 0)
            })
            .await
        })
    }

    fn replay_matching(
        self: Arc<Self>,
        filter: EventFilter,
        routes: Replay,
    ) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            self.executor.check_replay(&routes)?;
            let replayed = self.each_ended(filter, move |inbox, writer, records| {
                let mut records = records;
                records.retain(|record| inbox.can_replay(record, &routes));
                writer.replay(&records, &routes)
            });
            replayed.await
        })
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        self.query(move |writer| {
            let record = writer.find(id)?;
            Ok(writer.delete_records(record.as_slice())? > 0)
        })
    }

    fn delete_matching(self: Arc<Self>, filter: EventFilter) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let deleted =
                self.each_ended(filter, |_, writer, records| writer.delete_records(&records));
            deleted.await
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

impl SharedInbox {
    /// Returns whether the event has ended and a replay may run a route.
    fn can_replay(&self, record: &EventRecord, routes: &Replay) -> bool {
        let can_run = match (record.event(), routes) {
            (Ok(event), _) => self.executor.can_replay(event, routes),
            (Err(_), Replay::Only(_)) => false,
            (Err(_), _) => true,
        };
        !record.state().is_in_flight() && can_run
    }

    /// Calls `act` for the ended events that match the filter, oldest first, in steps. Returns the sum of its results. Skips
    /// the events that end after the call, so an event that fails again isn't replayed forever.
    async fn each_ended(
        self: &Arc<Self>,
        filter: EventFilter,
        act: impl Fn(&Self, &mut Writer, Vec<EventRecord>) -> Result<u64, Error>
        + Clone
        + Send
        + 'static,
    ) -> Result<u64, Error> {
        let (until, mut after, mut sum) = (self.state.clock.now(), 0, 0);
        loop {
            let (filter, act, inbox) = (filter.clone(), act.clone(), Arc::clone(self));
            let step = self.query(move |writer| {
                let cursor = Cursor::After(after);
                let (mut records, last) = writer.read(&filter, cursor, STEP, until)?;
                records.retain(|record| !record.state().is_in_flight());
                Ok((act(&inbox, writer, records)?, last))
            });
            let (count, last) = step.await?;
            sum += count;
            match last {
                Some(last) => after = last,
                None => return Ok(sum),
            }
        }
    }
}

impl Writer {
    /// Reads up to `limit` events. Returns the events that match the filter, except events that ended after `until`. Also returns
    /// the id of the last event that was read, or `None` if there are no further events.
    fn read(
        &self,
        filter: &EventFilter,
        cursor: Cursor,
        limit: usize,
        until: u64,
    ) -> Result<(Vec<EventRecord>, Option<u64>), Error> {
        let (now, is_running) = (self.state.clock.now(), self.running());
        let store = &self.database.store;
        read_matching(store, filter, cursor, limit, until, (now, is_running))
    }

    fn find(&self, id: u64) -> Result<Option<EventRecord>, Error> {
        let now = self.state.clock.now();
        let found = self.database.store.logged(id, now, self.running());
        found.map_err(query_failed)
    }

    /// Returns a function that tells whether an event is running.
    fn running(&self) -> impl Fn(u64) -> bool {
        |id| self.state.lock().window.runs(id)
    }

    /// Deletes ended events, and returns the number of deleted events.
    fn delete_records(&mut self, records: &[EventRecord]) -> Result<u64, Error> {
        let (dead, handled) = ended_ids(records);
        let dead = self.delete(&dead).map_err(query_failed)?;
        let handled = self.delete_handled(&handled).map_err(query_failed)?;
        Ok((dead + handled) as u64)
    }
}
