//! What the writer does with dead letters: burying, replaying and deleting, within their bounds. Their table is in
//! `letters_table`, and what a user asks for in `dead_letters`.

use super::store::{Store, Totals};
use super::writer::{Bounds, STEP, Writer};
use crate::delivery::{DeadLetter, OrderKey};
use crate::error::{Error, ErrorKind};
use crate::inbox::AcceptError;
use crate::router::Pattern;

/// How many bytes of letters are replayed in one go; the last one may go over it.
const STEP_BYTES: usize = 16 << 20;

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

    /// Replays a letter; false if there is none of this id.
    pub(super) fn replay(&mut self, id: u64) -> Result<bool, Error> {
        let Some(letter) = self.store.letter(id).map_err(failed)? else {
            return Ok(false);
        };
        Ok(self.replay_all(&[letter])? > 0)
    }

    /// Replays those of the next letters that match and were given up by a time. Returns how many,
    /// and after which to go on.
    pub(super) fn replay_step(
        &mut self,
        after: Option<u64>,
        until: u64,
        pattern: &Pattern,
    ) -> Result<(u64, Option<u64>), Error> {
        let letters = self.store.letter_types(after, STEP).map_err(failed)?;
        let (mut chosen, mut bytes, mut last) = (Vec::new(), 0, None);
        for (id, event_type, dead_lettered_at) in letters {
            last = Some(id);
            if dead_lettered_at <= until && pattern.matches(&event_type) {
                let letter = self.store.letter(id).map_err(failed)?;
                bytes += letter.as_ref().map_or(0, |letter| letter.body().len());
                chosen.extend(letter);
            }
            if bytes >= STEP_BYTES {
                break;
            }
        }
        Ok((self.replay_all(&chosen)?, last))
    }

    /// Makes events of letters again in one transaction, as far as there is room, and returns how
    /// many.
    ///
    /// # Errors
    ///
    /// If there is none for one of them; those before it are on their way then.
    fn replay_all(&mut self, letters: &[DeadLetter]) -> Result<u64, Error> {
        let mut room = self.store.totals();
        let mut refusal = None;
        let mut admitted = 0;
        for letter in letters {
            let size = letter.body().len() as u64;
            if let Err(refused) = self.may_replay(letter, room) {
                refusal = Some(refused);
                break;
            }
            room.events += 1;
            room.event_bytes += size;
            admitted += 1;
        }
        let now = self.clock.now();
        let resurrected = self.store.transaction(|store| {
            let letters = letters[..admitted].iter();
            let each = letters.map(|letter| Ok((letter, store.resurrect(letter, now)?)));
            each.collect::<rusqlite::Result<Vec<_>>>()
        });
        let mut replayed = 0;
        for (letter, resurrected) in resurrected.map_err(failed)? {
            let Some((key, exhumed)) = resurrected else {
                continue;
            };
            replayed += 1;
            self.shared.change(|window| {
                window.stats.replayed += 1;
                window.stored(letter.body().len());
            });
            // What it held is its own now.
            let held = exhumed.held.is_some();
            self.schedule.replayed(letter.id(), key, held);
        }
        self.let_pass(&Dropped::default());
        refusal.map_or(Ok(replayed), Err)
    }

    fn may_replay(&self, letter: &DeadLetter, held: Totals) -> Result<(), Error> {
        if self.shared.lock().is_draining() {
            return Err(refused(AcceptError::draining()));
        }
        if self.health.is_blocked() {
            return Err(refused(AcceptError::unavailable()));
        }
        let full = self.bounds.are_reached(held, letter.body().len() as u64);
        // The room may be taken by those that it holds back: nothing else would ever make any.
        if full && !self.store.is_holding(letter.id()).map_err(failed)? {
            return Err(refused(AcceptError::full()));
        }
        Ok(())
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

fn refused(refused: AcceptError) -> Error {
    let text = "a dead letter can't be replayed now";
    Error::caused(ErrorKind::Inbox, text, refused)
}

/// Says that the store failed.
pub(super) fn failed(error: rusqlite::Error) -> Error {
    Error::caused(ErrorKind::Inbox, "the inbox's database failed", error)
}
