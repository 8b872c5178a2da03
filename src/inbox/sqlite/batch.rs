use std::time::SystemTime;

use super::command::{Accept, Command, Complete, CopyPending, Query};
use super::database::Database;
use super::error::is_corrupt;
use super::store::{DeadLetterLimits, Dropped, Store};
use crate::delivery::{DeadLetter, EventOutcome, Next};

/// The minimum number of message ids that one transaction forgets, if there are enough.
const MIN_FORGET: usize = 256;

/// The commands of one turn.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) accepts: Vec<Accept>,
    pub(super) copies: Vec<CopyPending>,
    pub(super) completes: Vec<Complete>,
    pub(super) queries: Vec<Query>,
}

impl Batch {
    pub(super) fn push(&mut self, command: Command) {
        match command {
            Command::Accept(accept) => self.accepts.push(accept),
            Command::CopyPending(copy) => self.copies.push(copy),
            Command::Complete(complete) => self.completes.push(complete),
            Command::Query(query) => self.queries.push(query),
            Command::Wake => {}
        }
    }

    /// Returns whether the turn has no event to write.
    pub(super) fn is_idle(&self) -> bool {
        self.accepts.is_empty() && self.completes.is_empty()
    }
}

/// The result of the writes of a turn.
#[derive(Default)]
pub(super) struct Written {
    /// Whether the accepted events are stored.
    pub(super) accepted: bool,
    /// The attempts whose results are on disk.
    pub(super) completes: Vec<Complete>,
    pub(super) letters: Vec<DeadLetter>,
    pub(super) dropped: Dropped,
}

/// Writes accepted events and the results of attempts, in one transaction.
pub(super) struct BatchWriter {
    limits: DeadLetterLimits,
    /// Whether the inbox remembers message ids.
    remembers: bool,
    /// The message ids of all events up to this number are deleted.
    forgotten: u64,
    /// Results that couldn't be written yet.
    unwritten: Vec<Complete>,
}

impl BatchWriter {
    pub(super) fn new(limits: DeadLetterLimits, remembers: bool) -> Self {
        Self {
            limits,
            remembers,
            forgotten: 0,
            unwritten: Vec::new(),
        }
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Writes events and results at the system time `at`. If that fails, writes the results alone, because they may
    /// still fit on the disk.
    pub(super) fn write(
        &mut self,
        database: &mut Database,
        accepts: &[Accept],
        completes: Vec<Complete>,
        at: SystemTime,
    ) -> Written {
        self.unwritten.extend(completes);
        let mut written = Written::default();
        if !accepts.is_empty() {
            match self.commit(database, accepts, at) {
                Ok(both) => written = both,
                Err(error) => database.failed(error),
            }
        }
        if !written.accepted && self.has_unwritten() {
            match self.commit(database, &[], at) {
                Ok(results) => written = results,
                Err(error) if is_corrupt(&error) => {
                    database.failed(error);
                    self.commit_each(database, &mut written, at);
                }
                Err(error) => database.failed(error),
            }
            written.accepted = false;
        }
        database.count_written();
        written
    }

    fn commit(
        &mut self,
        database: &mut Database,
        accepts: &[Accept],
        at: SystemTime,
    ) -> rusqlite::Result<Written> {
        let (limits, completes) = (self.limits, &self.unwritten);
        let forget = accepts.last().map_or(0, |last| last.forgotten);
        let (remembers, forgets) = (self.remembers, forget > self.forgotten);
        let (mut written, all_forgotten) = database.transaction(|store| {
            let written = write_results(store, completes, limits, at)?;
            let events = accepts.iter();
            store.insert(events.map(|one| (one.number, &one.event, one.key.as_ref())))?;
            if remembers {
                let ids = accepts.iter().map(|one| (one.number, one.event.id()));
                store.remember(ids)?;
            }
            let limit = MIN_FORGET.max(2 * accepts.len());
            Ok((written, forgets && store.forget(forget, limit)?))
        })?;
        if all_forgotten {
            self.forgotten = forget;
        }
        written.accepted = true;
        written.completes = std::mem::take(&mut self.unwritten);
        Ok(written)
    }

    /// Writes the results one by one. A result on a corrupt page is skipped: this process counts the event as ended,
    /// and the next process may run the event again.
    fn commit_each(&mut self, database: &mut Database, written: &mut Written, at: SystemTime) {
        let limits = self.limits;
        for complete in std::mem::take(&mut self.unwritten) {
            let one = std::slice::from_ref(&complete);
            match database.transaction(|store| write_results(store, one, limits, at)) {
                Ok(result) => {
                    written.letters.extend(result.letters);
                    written.dropped.count += result.dropped.count;
                    written.dropped.unblocked.extend(result.dropped.unblocked);
                }
                Err(error) if is_corrupt(&error) => {
                    // No dead letter was written, so nothing blocks the key.
                    let dead = matches!(complete.next, Next::End(EventOutcome::Dead));
                    let key = complete.job.key.clone();
                    let key = key.filter(|_| dead && limits.block_key);
                    written.dropped.unblocked.extend(key);
                }
                Err(error) => {
                    database.failed(error);
                    self.unwritten.push(complete);
                    continue;
                }
            }
            written.completes.push(complete);
        }
    }

    /// Deletes a limited number of forgotten message ids. Returns whether more remain.
    pub(super) fn forget(&mut self, database: &mut Database, forget: u64) -> bool {
        if forget <= self.forgotten {
            return false;
        }
        match database.transaction(|store| store.forget(forget, 4 * MIN_FORGET)) {
            Ok(true) => self.forgotten = forget,
            Ok(false) => return true,
            Err(error) => database.failed(error),
        }
        false
    }
}

fn write_results(
    store: &mut Store,
    completes: &[Complete],
    limits: DeadLetterLimits,
    at: SystemTime,
) -> rusqlite::Result<Written> {
    let mut written = Written::default();
    let mut ended = Vec::with_capacity(completes.len());
    for complete in completes {
        let job = &complete.job;
        match complete.next {
            Next::Retry(_) => store.reschedule(job.number, &job.progress, complete.due_at())?,
            Next::End(EventOutcome::Handled | EventOutcome::Unhandled) => {
                ended.push((job.number, job.size()));
            }
            Next::End(EventOutcome::Dead) => {
                let event = job.event.clone();
                let letter = DeadLetter::new(job.number, event, &job.progress, at);
                let (key, dropped) = (job.key.as_ref(), &mut written.dropped);
                store.dead_letter(&letter, job.size(), key, limits, dropped)?;
                written.letters.push(letter);
            }
        }
    }
    store.delete_events(&mut ended)?;
    Ok(written)
}
