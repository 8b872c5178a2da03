use std::mem::take;

use super::command::{Accept, Command, Complete, CopyPending, Query, Step};
use super::command_queue::Pace;
use super::database::Database;
use super::error::{is_busy, is_corrupt};
use super::store::{DeadLetterLimits, Store};
use super::volume::Volume;
use crate::catch_panic::discard;

/// The minimum number of message ids that one transaction forgets, if there are enough.
const MIN_FORGET: usize = 256;

/// The commands of one turn.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) accepts: Vec<Accept>,
    pub(super) copies: Vec<CopyPending>,
    pub(super) completes: Vec<Complete>,
    pub(super) queries: Vec<Query>,
    pub(super) unparked: Vec<u64>,
    /// Whether a command mustn't wait for others.
    is_urgent: bool,
}

impl Batch {
    pub(super) fn push(&mut self, command: Command) {
        match command {
            Command::Accept(accept) => self.accepts.push(accept),
            Command::CopyPending(copy) => self.copies.push(copy),
            Command::Complete(complete) => {
                self.is_urgent |= !complete.may_wait();
                self.completes.push(complete);
            }
            Command::Query(query) => {
                self.is_urgent = true;
                self.queries.push(query);
            }
            Command::Unpark(number) => {
                self.is_urgent = true;
                self.unparked.push(number);
            }
            Command::Wake => self.is_urgent = true,
        }
    }

    /// Returns the number of requests that wait for an answer.
    pub(super) fn requests(&self) -> usize {
        self.accepts.len() + self.copies.len()
    }

    /// Returns whether the batch needs no more commands.
    pub(super) fn is_due(&self, pace: Pace) -> bool {
        self.is_urgent || self.requests() >= pace.requests || self.completes.len() > pace.ends
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests() == 0 && self.completes.is_empty() && !self.is_urgent
    }

    /// Drops the commands. A command may hold a span, and dropping the span may panic.
    pub(super) fn discard(self) {
        discard(self.accepts);
        discard(self.copies);
        discard(self.completes);
        discard(self.queries);
    }

    /// Returns whether the turn has no event to write.
    pub(super) fn is_idle(&self) -> bool {
        self.accepts.is_empty() && self.completes.is_empty()
    }
}

/// Writes accepted events and the results of attempts, in one transaction.
#[derive(Default)]
pub(super) struct BatchWriter {
    pub(super) limits: DeadLetterLimits,
    /// The limit of the handled events that the inbox keeps.
    max_handled: Volume,
    /// Whether the inbox remembers message ids.
    remembers: bool,
    /// The inbox has forgotten the message ids of all events up to this number.
    pub(super) forgettable: u64,
    /// The message ids of all events up to this number are deleted.
    forgotten: u64,
    /// Results that aren't on disk yet.
    pub(super) unwritten: Vec<Complete>,
}

impl BatchWriter {
    pub(super) fn new(limits: DeadLetterLimits, max_handled: Volume, remembers: bool) -> Self {
        Self {
            limits,
            max_handled,
            remembers,
            ..Self::default()
        }
    }

    /// Writes events and the unwritten results. If the transaction fails, writes only the results, because they may still
    /// fit on the disk. While another process writes, the next turn writes the results. Returns whether the events are on disk, and the results that are on disk.
    pub(super) fn write(
        &mut self,
        database: &mut Database,
        accepts: &[Accept],
    ) -> (bool, Vec<Complete>) {
        if !accepts.is_empty() {
            match self.commit(database, accepts) {
                Ok(()) => return (true, take(&mut self.unwritten)),
                Err(error) => {
                    let busy = is_busy(&error);
                    database.failed(error);
                    if busy {
                        return (false, Vec::new());
                    }
                }
            }
        }
        if self.unwritten.is_empty() {
            return (false, Vec::new());
        }
        let written = match self.commit(database, &[]) {
            Ok(()) => take(&mut self.unwritten),
            Err(error) => {
                let corrupt = is_corrupt(&error);
                database.failed(error);
                if corrupt {
                    self.commit_each(database)
                } else {
                    Vec::new()
                }
            }
        };
        (false, written)
    }

    fn commit(&mut self, database: &mut Database, accepts: &[Accept]) -> rusqlite::Result<()> {
        let forgets = !accepts.is_empty() && self.forgettable > self.forgotten;
        let all_forgotten = database.transaction(|store| {
            write_results(store, &self.unwritten, self.limits, self.max_handled)?;
            let events = accepts.iter().map(|accept| &*accept.job);
            let events = events.map(|job| (job.number, &job.event, job.key.as_ref()));
            store.insert(events, self.remembers)?;
            let limit = MIN_FORGET.max(2 * accepts.len());
            Ok(forgets && store.forget(self.forgettable, limit)?)
        })?;
        if all_forgotten {
            self.forgotten = self.forgettable;
        }
        Ok(())
    }

    /// Writes the results one by one. A result on a corrupt page is skipped: this process counts the event as ended,
    /// and the next process may run the event again.
    fn commit_each(&mut self, database: &mut Database) -> Vec<Complete> {
        let (limits, max_handled) = (self.limits, self.max_handled);
        let mut written = Vec::new();
        for complete in take(&mut self.unwritten) {
            let one = std::slice::from_ref(&complete);
            match database.transaction(|store| write_results(store, one, limits, max_handled)) {
                Ok(()) => {}
                Err(error) if is_corrupt(&error) => {
                    if limits.block_key && matches!(complete.step, Step::DeadLetter(..)) {
                        // No dead letter was written, so nothing blocks the key.
                        database.store.unblocked.extend(complete.key.clone());
                    }
                }
                Err(error) => {
                    database.failed(error);
                    self.unwritten.push(complete);
                    continue;
                }
            }
            written.push(complete);
        }
        written
    }

    /// Deletes a limited number of forgotten message ids. Returns whether more remain.
    pub(super) fn forget(&mut self, database: &mut Database) -> bool {
        let (id, limit) = (self.forgettable, 4 * MIN_FORGET);
        if id <= self.forgotten {
            return false;
        }
        match database.try_transaction(|store| store.forget(id, limit)) {
            Some(true) => self.forgotten = id,
            Some(false) => return true,
            None => {}
        }
        false
    }
}

fn write_results(
    store: &mut Store,
    completes: &[Complete],
    limits: DeadLetterLimits,
    max_handled: Volume,
) -> rusqlite::Result<()> {
    let mut ended = Vec::with_capacity(completes.len());
    for complete in completes {
        let (number, size) = (complete.number, complete.size);
        store.add_once_keys(&complete.used_keys)?;
        match &complete.step {
            Step::Retry {
                progress,
                due_at,
                attempt,
            } => store.reschedule(number, progress, *due_at, attempt)?,
            Step::Wait => drop(store.clear_running_mark(number)?),
            Step::End(outcome, _, kept) => {
                if let Some(kept) = kept {
                    store.keep(number, *outcome, kept)?;
                }
                ended.push((number, size));
            }
            Step::DeadLetter(letter, attempt) => {
                let (attempt, key) = (attempt.as_ref(), complete.key.as_ref());
                store.dead_letter(letter, attempt, size, key, limits)?;
            }
        }
    }
    store.delete_events(&mut ended)?;
    store.limit_handled(max_handled)
}
