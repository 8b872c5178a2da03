use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::database::Database;
use super::error::query_failed;
use super::lock_owner::owner;
use super::matching::{ended_ids, read_matching};
use super::sqlite_file::{FileInner, on_thread};
use super::store::{Cursor, Store};
use super::volume::Volume;
use super::writer::STEP;
use crate::delivery::{EventRecord, Replay};
use crate::error::Error;
use crate::inbox::{EventFilter, EventStore};
use crate::runtime::{BoxFuture, millis};

/// No inbox limits a replay in its file. The next start recovers all events.
const NO_LIMIT: Volume = Volume {
    events: u64::MAX,
    bytes: u64::MAX,
};

/// Reads with a connection for each operation, and changes the file in steps.
impl EventStore for FileInner {
    fn list(
        self: Arc<Self>,
        filter: EventFilter,
        limit: usize,
    ) -> BoxFuture<Result<Vec<EventRecord>, Error>> {
        Box::pin(on_thread(move |_| {
            self.read(|store, now| {
                let running = self.running(store)?;
                let (mut listed, mut before) = (Vec::new(), filter.first_before());
                while listed.len() < limit {
                    let is_running = |id| running.contains(&id);
                    let cursor = Cursor::Before(before);
                    let read =
                        read_matching(store, &filter, cursor, STEP, u64::MAX, (now, is_running));
                    let (records, last) = read?;
                    listed.extend(records);
                    match last {
                        Some(last) => before = last,
                        None => break,
                    }
                }
                listed.truncate(limit);
                Ok(listed)
            })
        }))
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<EventRecord>, Error>> {
        Box::pin(on_thread(move |_| self.find(id)))
    }

    fn replay(self: Arc<Self>, id: u64, routes: Replay) -> BoxFuture<Result<bool, Error>> {
        Box::pin(on_thread(move |_| {
            let replayed = self.change(|database, now| {
                replay(
                    database,
                    find(&database.store, id, now)?.as_slice(),
                    &routes,
                    now,
                )
            });
            replayed.map(|replayed| replayed > 0)
        }))
    }

    fn replay_matching(
        self: Arc<Self>,
        filter: EventFilter,
        routes: Replay,
    ) -> BoxFuture<Result<u64, Error>> {
        Box::pin(on_thread(move |_| {
            self.each_ended(&filter, |database, records, now| {
                replay(database, records, &routes, now)
            })
        }))
    }

    fn delete(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        Box::pin(on_thread(move |_| {
            let deleted = self.change(|database, now| {
                let record = find(&database.store, id, now)?;
                delete(database, record.as_slice())
            });
            deleted.map(|deleted| deleted > 0)
        }))
    }

    fn delete_matching(self: Arc<Self>, filter: EventFilter) -> BoxFuture<Result<u64, Error>> {
        Box::pin(on_thread(move |_| {
            self.each_ended(&filter, |database, records, _| delete(database, records))
        }))
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(on_thread(move |_| {
            self.in_steps(older_than, |store, before| {
                let old = store.dead_letters_before(before, STEP)?;
                store.delete_dead_letters(&old)
            })
        }))
    }
}

impl FileInner {
    pub(super) fn prune_handled(&self, older_than: Duration) -> Result<u64, Error> {
        self.in_steps(older_than, |store, before| {
            store.delete_handled_before(before, STEP)
        })
    }

    /// Calls `delete` until it deletes less than a step. Returns the number of deleted events.
    fn in_steps(
        &self,
        older_than: Duration,
        delete: impl Fn(&mut Store, u64) -> rusqlite::Result<usize>,
    ) -> Result<u64, Error> {
        let mut sum = 0;
        loop {
            let deleted = self.change(|database, now| {
                let before = now.saturating_sub(millis(older_than));
                let deleted = database.transaction(|store| delete(store, before));
                deleted.map_err(query_failed)
            })?;
            sum += deleted as u64;
            if deleted < STEP {
                return Ok(sum);
            }
        }
    }

    /// Calls `act` for the ended events that match the filter, oldest first, in steps. Returns the sum of its results.
    fn each_ended(
        &self,
        filter: &EventFilter,
        act: impl Fn(&mut Database, &[EventRecord], u64) -> Result<u64, Error>,
    ) -> Result<u64, Error> {
        let (mut after, mut sum) = (0, 0);
        loop {
            let (count, last) = self.change(|database, now| {
                let (store, cursor) = (&database.store, Cursor::After(after));
                let read = read_matching(store, filter, cursor, STEP, u64::MAX, (now, |_| false));
                let (records, last) = read?;
                Ok((act(database, &records, now)?, last))
            })?;
            sum += count;
            match last {
                Some(last) => after = last,
                None => return Ok(sum),
            }
        }
    }

    fn find(&self, id: u64) -> Result<Option<EventRecord>, Error> {
        self.read(|store, now| {
            let running = self.running(store)?;
            let found = store.logged(id, now, |id| running.contains(&id));
            found.map_err(query_failed)
        })
    }

    /// Returns the events that the owner of the file is running, as far as the file shows. If no process owns the file, no event runs.
    fn running(&self, store: &Store) -> Result<HashSet<u64>, Error> {
        match owner(&self.path) {
            Some(owner) if owner != std::process::id() => {
                store.marked_running().map_err(query_failed)
            }
            _ => Ok(HashSet::new()),
        }
    }
}

fn find(store: &Store, id: u64, now: u64) -> Result<Option<EventRecord>, Error> {
    store.logged(id, now, |_| false).map_err(query_failed)
}

/// Turns the ended events back into events in flight, in one transaction.
fn replay(
    database: &mut Database,
    records: &[EventRecord],
    routes: &Replay,
    now: u64,
) -> Result<u64, Error> {
    // A named route can't match an event that this version can't decode.
    let can_run =
        |record: &EventRecord| record.event().is_ok() || !matches!(routes, Replay::Only(_));
    let records = records
        .iter()
        .filter(|record| !record.state().is_in_flight() && can_run(record));
    let records: Vec<_> = records.cloned().collect();
    if records.is_empty() {
        return Ok(0);
    }
    let requeue =
        |store: &mut Store| store.requeue(&records, routes, now, Volume::default(), NO_LIMIT);
    let (requeued, _) = database.transaction(requeue).map_err(query_failed)?;
    Ok(requeued.len() as u64)
}

/// Deletes ended events in one transaction, and returns the number of deleted events.
fn delete(database: &mut Database, records: &[EventRecord]) -> Result<u64, Error> {
    let (dead, handled) = ended_ids(records);
    if dead.is_empty() && handled.is_empty() {
        return Ok(0);
    }
    let deleted = database.transaction(|store| {
        let mut deleted = store.delete_dead_letters(&dead)?;
        for id in handled {
            deleted += usize::from(store.delete_handled(id)?);
        }
        Ok(deleted)
    });
    deleted.map(|deleted| deleted as u64).map_err(query_failed)
}
