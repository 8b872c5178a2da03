use super::store::Store;
use super::writer::{Bounds, STEP, Writer};
use crate::delivery::{DeadLetter, OrderKey};
use crate::error::{Error, ErrorKind};
use crate::inbox::Refused;
use crate::router::Pattern;

/// The letters that had to go for others.
#[derive(Default)]
pub(super) struct Dropped {
    pub(super) count: u64,
    /// What they held back.
    pub(super) passing: Vec<OrderKey>,
}

impl Writer {
    pub(super) fn mourn(&self, letters: &[DeadLetter]) {
        if let Some(office) = self.office.upgrade() {
            letters.iter().for_each(|letter| office.died(letter));
        }
    }

    /// Counts letters that had to go, and lets pass what they held back.
    pub(super) fn let_pass(&mut self, dropped: &Dropped) {
        for key in &dropped.passing {
            self.schedule.release(Some(key));
        }
        let letters = self.store.totals().dead_letters;
        self.shared.change(|window| {
            window.stats.dead_letters = letters;
            window.stats.dead_letters_dropped += dropped.count;
        });
    }

    /// Deletes up to `limit` letters whose event was given up before a time, and returns how many.
    pub(super) fn delete_before(&mut self, before: u64, limit: usize) -> rusqlite::Result<usize> {
        let old = self.store.letters_before(before, limit)?;
        self.delete_letters(&old)
    }

    /// Deletes letters, and returns how many there were.
    pub(super) fn delete_letters(&mut self, letters: &[u64]) -> rusqlite::Result<usize> {
        if letters.is_empty() {
            return Ok(0);
        }
        let exhumed = self.store.transaction(|store| {
            let exhumed = letters.iter().map(|id| store.exhume(*id));
            exhumed.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let exhumed: Vec<_> = exhumed.into_iter().flatten().collect();
        let deleted = exhumed.len();
        self.let_pass(&Dropped {
            count: 0,
            passing: exhumed.into_iter().filter_map(|one| one.held).collect(),
        });
        Ok(deleted)
    }

    pub(super) fn replay(&mut self, id: u64) -> Result<bool, Error> {
        let Some(letter) = self.store.letter(id).map_err(failed)? else {
            return Ok(false);
        };
        let size = letter.body().len();
        let totals = self.store.totals();
        let full = totals.events > 0
            && (totals.events >= self.bounds.events
                || totals.event_bytes + size as u64 > self.bounds.bytes);
        if self.shared.lock().is_draining() {
            return Err(refused(Refused::draining()));
        }
        // The room may be taken by those that it holds back: nothing else would ever make any.
        if full && !self.store.is_holding(id).map_err(failed)? {
            return Err(refused(Refused::full()));
        }
        let now = self.clock.now();
        let resurrected = self
            .store
            .transaction(|store| store.resurrect(&letter, now))
            .map_err(failed)?;
        let Some((key, exhumed)) = resurrected else {
            return Ok(false);
        };
        self.shared.change(|window| {
            window.stats.replayed += 1;
            window.stored(size);
        });
        let held = exhumed.held.is_some();
        self.schedule.replayed(id, key, held);
        // What it held is its own now.
        self.let_pass(&Dropped::default());
        Ok(true)
    }

    /// Replays those of the next letters that match and were given up by a time. Returns how many, and after which to go on.
    pub(super) fn replay_step(
        &mut self,
        after: Option<u64>,
        until: u64,
        pattern: &Pattern,
    ) -> Result<(u64, Option<u64>), Error> {
        let letters = self.store.letter_types(after, STEP).map_err(failed)?;
        let last = letters.last().map(|(id, ..)| *id);
        let mut replayed = 0;
        for (id, event_type, died_at) in letters {
            if died_at <= until && pattern.matches(&event_type) {
                replayed += u64::from(self.replay(id)?);
            }
        }
        Ok((replayed, last))
    }
}

/// Keeps a letter, and drops the oldest ones for which there is no room then.
pub(super) fn bury(
    store: &mut Store,
    letter: &DeadLetter,
    key: Option<&OrderKey>,
    bounds: Bounds,
    holds: bool,
    dropped: &mut Dropped,
) -> rusqlite::Result<()> {
    let size = letter.body().len();
    if size as u64 > bounds.letter_bytes {
        // All others would have to go, and then this one too.
        store.delete(letter.id(), size)?;
        dropped.count += 1;
        dropped.passing.extend(key.filter(|_| holds).cloned());
        return Ok(());
    }
    store.bury(letter, key, holds && key.is_some())?;
    loop {
        let totals = store.totals();
        let over =
            totals.dead_letters > bounds.letters || totals.dead_letter_bytes > bounds.letter_bytes;
        let Some(oldest) = (if over { store.oldest_letter()? } else { None }) else {
            return Ok(());
        };
        if let Some(exhumed) = store.exhume(oldest)? {
            dropped.count += 1;
            dropped.passing.extend(exhumed.held);
        }
    }
}

fn refused(refused: Refused) -> Error {
    let text = "a dead letter can't be replayed now";
    Error::caused(ErrorKind::Inbox, text, refused)
}

/// Says that the store failed.
pub(super) fn failed(error: rusqlite::Error) -> Error {
    Error::caused(ErrorKind::Inbox, "the inbox's database failed", error)
}
