use std::sync::Arc;
use std::time::Duration;

use super::error::{not_replayed, query_failed};
use super::inner::Inner;
use super::store::{Dropped, Requeued};
use super::writer::{STEP, Writer};
use crate::delivery::DeadLetter;
use crate::error::Error;
use crate::inbox::{AcceptError, DeadLetterStore};
use crate::router::Pattern;
use crate::runtime::{BoxFuture, millis};

/// The maximum size of the dead letters that a turn replays, in bytes. The last dead letter may exceed this limit.
const STEP_BYTES: usize = 16 << 20;

/// Every operation runs on the writer's thread.
impl DeadLetterStore for Inner {
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
        self.query(move |writer| writer.replay(id))
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            // This call doesn't replay dead letters that are added later, so an event that fails again doesn't run
            // forever.
            let (until, mut after, mut replayed) = (self.clock.now(), None, 0);
            loop {
                let pattern = pattern.clone();
                let step = self.query(move |writer| writer.replay_step(after, until, &pattern));
                let (count, last) = step.await?;
                replayed += count;
                let Some(last) = last else {
                    return Ok(replayed);
                };
                after = Some(last);
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
            let before = self.clock.now().saturating_sub(millis(older_than));
            let mut pruned = 0;
            loop {
                let step = self
                    .query(move |writer| writer.delete_before(before, STEP).map_err(query_failed));
                let deleted = step.await?;
                pruned += deleted as u64;
                if deleted < STEP {
                    return Ok(pruned);
                }
            }
        })
    }
}

/// The changes to dead letters that a user requests.
impl Writer {
    /// Deletes up to `limit` dead letters that are older than `time`, and returns how many.
    pub(super) fn delete_before(&mut self, time: u64, limit: usize) -> rusqlite::Result<usize> {
        let old = self.database.store.dead_letters_before(time, limit)?;
        self.delete(&old)
    }

    /// Deletes dead letters, and returns how many there were.
    fn delete(&mut self, letters: &[u64]) -> rusqlite::Result<usize> {
        if letters.is_empty() {
            return Ok(0);
        }
        let deleted = self.database.transaction(|store| {
            let deleted = letters.iter().map(|id| store.delete_dead_letter(*id));
            deleted.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let deleted: Vec<_> = deleted.into_iter().flatten().collect();
        let count = deleted.len();
        self.count_dead_letters(&Dropped {
            count: 0,
            unblocked: deleted
                .into_iter()
                .filter_map(Requeued::unblocked)
                .collect(),
        });
        Ok(count)
    }

    /// Replays a dead letter. Returns false if no dead letter has this id.
    fn replay(&mut self, id: u64) -> Result<bool, Error> {
        let letter = self.database.store.find_dead_letter(id);
        match letter.map_err(query_failed)? {
            Some(letter) => Ok(self.replay_all(&[letter])? > 0),
            None => Ok(false),
        }
    }

    /// Replays the next dead letters that match and aren't newer than `until`. Returns the number of replayed dead
    /// letters, and the id after which to continue.
    fn replay_step(
        &mut self,
        after: Option<u64>,
        until: u64,
        pattern: &Pattern,
    ) -> Result<(u64, Option<u64>), Error> {
        let store = &self.database.store;
        let letters = store.dead_letter_types(after, STEP).map_err(query_failed)?;
        let (mut chosen, mut bytes, mut last) = (Vec::new(), 0, None);
        for (id, event_type, kept_since) in letters {
            last = Some(id);
            if kept_since <= until && pattern.matches(&event_type) {
                let letter = store.find_dead_letter(id).map_err(query_failed)?;
                bytes += letter.as_ref().map_or(0, |letter| letter.body().len());
                chosen.extend(letter);
            }
            if bytes >= STEP_BYTES {
                break;
            }
        }
        Ok((self.replay_all(&chosen)?, last))
    }

    /// Turns dead letters back into events in one transaction, while the inbox has space. Returns the number of
    /// replayed dead letters.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no space for a dead letter, after replaying the dead letters before it.
    fn replay_all(&mut self, letters: &[DeadLetter]) -> Result<u64, Error> {
        let (admitted, refusal) = self.admit_replays(letters)?;
        let now = self.clock.now();
        let requeued = self.database.transaction(|store| {
            let letters = letters[..admitted].iter();
            let each = letters.map(|letter| Ok((letter, store.requeue(letter, now)?)));
            each.collect::<rusqlite::Result<Vec<_>>>()
        });
        let requeued = requeued.map_err(query_failed)?;
        let requeued = requeued
            .into_iter()
            .filter_map(|(letter, requeued)| Some((letter, requeued?)));
        let requeued: Vec<_> = requeued.collect();
        self.shared.update(|state| {
            for (_, requeued) in &requeued {
                state.stats.replayed += 1;
                state.stored(requeued.size);
            }
        });
        let replayed = requeued.len() as u64;
        for (letter, Requeued { key, blocked, .. }) in requeued {
            self.loader.schedule.requeue(letter.id(), key, blocked);
        }
        self.count_dead_letters(&Dropped::default());
        refusal.map_or(Ok(replayed), Err)
    }

    /// Returns how many of the dead letters can be replayed now, and why the next one can't.
    fn admit_replays(&self, letters: &[DeadLetter]) -> Result<(usize, Option<Error>), Error> {
        let blocked = self.database.is_blocked();
        let (draining, limits, mut held) = {
            let state = self.shared.lock();
            let limits = state.admissions.limits();
            (state.draining, limits, state.held())
        };
        let mut admitted = 0;
        for letter in letters {
            let size = letter.body().len() as u64;
            let refused = if draining {
                Some(AcceptError::draining())
            } else if blocked {
                Some(AcceptError::unavailable())
            } else if limits.are_reached(held, size) {
                // Events that wait for this dead letter may take all the space. Without the replay, that space would
                // stay taken.
                let blocks_key = self.database.store.blocks_key(letter.id());
                (!blocks_key.map_err(query_failed)?).then(AcceptError::full)
            } else {
                None
            };
            if let Some(refused) = refused {
                return Ok((admitted, Some(not_replayed(refused))));
            }
            held.add(size);
            admitted += 1;
        }
        Ok((admitted, None))
    }
}
