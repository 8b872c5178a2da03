use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;

use super::desk::SqliteDesk;
use super::graveyard::failed;
use super::writer::{STEP, Writer};
use crate::delivery::DeadLetter;
use crate::error::{Error, ErrorKind};
use crate::inbox::DeadLetterStore;
use crate::router::Pattern;
use crate::runtime::{BoxFuture, millis};

/// Everything runs on the writer's thread.
impl DeadLetterStore for SqliteDesk {
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
            // Those of now: one that is dead again in the meantime has had its turn.
            let (until, mut after, mut replayed) = (self.clock.now(), None, 0);
            loop {
                let pattern = pattern.clone();
                let step =
                    Arc::clone(&self).ask(move |writer| writer.replay_step(after, until, &pattern));
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

impl SqliteDesk {
    /// Asks the writer, and returns its answer.
    pub(super) fn ask<T: Send + 'static>(
        self: Arc<Self>,
        question: impl FnOnce(&mut Writer) -> Result<T, Error> + Send + 'static,
    ) -> BoxFuture<Result<T, Error>> {
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
