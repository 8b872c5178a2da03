use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use super::desk::SqliteDesk;
use super::writer::{Dropped, Writer};
use crate::delivery::{DeadLetter, EventService};
use crate::error::{Error, ErrorKind};
use crate::inbox::{DeadLetterStore, Refused};
use crate::router::Pattern;
use crate::runtime::{BoxFuture, millis};

/// How many letters are read or changed in one go, so that arrivals needn't wait for long.
const STEP: usize = 256;

/// Everything runs on the writer's thread.
impl<S: EventService> DeadLetterStore for SqliteDesk<S> {
    fn list(
        self: Arc<Self>,
        after: Option<u64>,
        limit: usize,
    ) -> BoxFuture<Result<Vec<DeadLetter>, Error>> {
        self.ask(move |writer| writer.store.letters(after, limit).map_err(failed))
    }

    fn get(self: Arc<Self>, id: u64) -> BoxFuture<Result<Option<DeadLetter>, Error>> {
        self.ask(move |writer| writer.store.letter(id).map_err(failed))
    }

    fn replay(self: Arc<Self>, id: u64) -> BoxFuture<Result<bool, Error>> {
        self.ask(move |writer| writer.replay(id))
    }

    fn replay_matching(self: Arc<Self>, pattern: Pattern) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let (mut after, mut replayed) = (None, 0);
            loop {
                let pattern = pattern.clone();
                let step = Arc::clone(&self).ask(move |writer| writer.replay_step(after, &pattern));
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
        self.ask(move |writer| {
            let deleted = writer.delete_letters(&[id]).map_err(failed)?;
            Ok(deleted > 0)
        })
    }

    fn prune(self: Arc<Self>, older_than: Duration) -> BoxFuture<Result<u64, Error>> {
        Box::pin(async move {
            let before = self.clock.now().saturating_sub(millis(older_than));
            let mut pruned = 0;
            loop {
                let step = Arc::clone(&self)
                    .ask(move |writer| writer.delete_before(before, STEP).map_err(failed));
                let deleted = step.await?;
                pruned += deleted as u64;
                if deleted < STEP {
                    return Ok(pruned);
                }
            }
        })
    }
}

impl<S> SqliteDesk<S> {
    /// Asks the writer, and returns its answer.
    pub(super) fn ask<T: Send + 'static>(
        self: Arc<Self>,
        question: impl FnOnce(&mut Writer) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<Result<T, Error>>
    where
        S: 'static,
        Self: Send + Sync,
    {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            self.mailbox.request(Box::new(move |writer| {
                // Who gave up needn't be told.
                let _ = answer.send(question(writer));
            }));
            let gone = || Error::new(ErrorKind::Inbox, "the inbox's thread has ended");
            answered.await.unwrap_or_else(|_| Err(gone()))
        })
    }
}

impl Writer {
    fn replay(&mut self, id: u64) -> Result<bool, Error> {
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
        if full {
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

    /// Replays those of the next letters that match. Returns how many, and after which to go on.
    fn replay_step(
        &mut self,
        after: Option<u64>,
        pattern: &Pattern,
    ) -> Result<(u64, Option<u64>), Error> {
        let letters = self.store.letter_types(after, STEP).map_err(failed)?;
        let last = letters.last().map(|(id, _)| *id);
        let mut replayed = 0;
        for (id, event_type) in letters {
            if pattern.matches(&event_type) {
                replayed += u64::from(self.replay(id)?);
            }
        }
        Ok((replayed, last))
    }
}

fn refused(refused: Refused) -> Error {
    let text = "a dead letter can't be replayed now";
    Error::caused(ErrorKind::Inbox, text, refused)
}

fn failed(error: rusqlite::Error) -> Error {
    Error::caused(ErrorKind::Inbox, "the inbox's database failed", error)
}
