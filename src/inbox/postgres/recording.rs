use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::command::{Complete, Step, WAIT};
use super::error::Failure;
use super::shared_inbox::SharedInbox;
use super::state::Ended;
use super::store::{Written, stored};
use super::writer::Writer;
use crate::catch_panic::discard;
use crate::delivery::EventOutcome;

/// How long the writer waits before it tries again to record a result, if a handler's open transaction has locked the event.
const LOCKED: Duration = Duration::from_millis(250);

/// Records the results of attempts.
impl Writer {
    /// Drops the results of events that another worker has, because this worker lost its lease.
    pub(super) fn drop_lost(&mut self, inbox: &SharedInbox) {
        if self.unwritten.is_empty() {
            return;
        }
        let unwritten = take(&mut self.unwritten);
        let (lost, current) = inbox.state.update(|state, counts| {
            let (lost, current): (Vec<_>, Vec<_>) = unwritten
                .into_iter()
                .partition(|complete| state.is_lost(complete.number));
            for complete in &lost {
                state.written(1);
                state.end(complete.number, Ended::Published, counts);
            }
            (lost, current)
        });
        self.unwritten = current;
        discard(lost);
    }

    /// Keeps the events that wait for the limits of a route. Releases the events for a second if there are too many.
    pub(super) async fn park(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let waits = self.take_completes(|step| matches!(step, Step::Wait(..)));
        if waits.is_empty() {
            return Ok(());
        }
        let takes = self.lessee(&inbox.state.lock()).takes;
        let excess = inbox.state.update(|state, _| {
            let mut excess = Vec::new();
            for complete in waits {
                match complete.step {
                    Step::Wait(job, park) if takes && state.keeps_retries() => {
                        state.written(1);
                        state.park(job, park);
                    }
                    step => excess.push(Complete { step, ..complete }),
                }
            }
            excess
        });
        if excess.is_empty() {
            return Ok(());
        }
        let worker = self.worker.load(Ordering::Relaxed);
        let ids: Vec<_> = excess.iter().map(|one| stored(one.number)).collect();
        let postponed = self
            .store
            .postpone(&mut self.connection, worker, &ids, WAIT)
            .await;
        match postponed {
            Ok(()) => {
                count(inbox, excess, Vec::new());
                Ok(())
            }
            Err(failure) => {
                self.unwritten.extend(excess);
                Err(failure)
            }
        }
    }

    /// Records dead letters, retries, and events that the inbox keeps.
    pub(super) async fn record(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let lessee = self.lessee(&inbox.state.lock());
        let worker = lessee.worker;
        let kept = self.take_completes(|step| matches!(step, Step::End(_, Some(_))));
        if !kept.is_empty() {
            let store = &self.store;
            let written = store.keep(&mut self.connection, lessee, &kept).await;
            self.recorded(inbox, kept, written).await?;
        }
        let dead = self.take_completes(|step| matches!(step, Step::DeadLetter(..)));
        if !dead.is_empty() {
            let blocks = inbox.executor.settings.block_key_on_dead_letter;
            let store = &self.store;
            let written = store
                .dead_letter(&mut self.connection, lessee, &dead, blocks)
                .await;
            self.recorded(inbox, dead, written).await?;
        }
        let mut retries = self.take_completes(|step| matches!(step, Step::Retry { .. }));
        if !retries.is_empty() {
            let now = self.runtime.now();
            let keeps = lessee.takes && inbox.state.lock().keeps_retries();
            let delays: Vec<_> = retries
                .iter_mut()
                .map(|complete| match &mut complete.step {
                    Step::Retry { due, releases, .. } => {
                        *releases |= !keeps;
                        (due.saturating_duration_since(now), *releases)
                    }
                    _ => (Duration::ZERO, true),
                })
                .collect();
            let store = &self.store;
            let written = store
                .retry(&mut self.connection, worker, &retries, &delays)
                .await;
            self.recorded(inbox, retries, written).await?;
        }
        Ok(())
    }

    /// Records handled and unhandled events that the inbox doesn't keep.
    pub(super) async fn record_finished(
        &mut self,
        inbox: &Arc<SharedInbox>,
    ) -> Result<(), Failure> {
        let finished = self.take_completes(|step| matches!(step, Step::End(_, None)));
        if finished.is_empty() {
            return Ok(());
        }
        match self.write_batch(inbox, &finished, &[]).await {
            Ok(written) => self.written(inbox, finished, &written).await,
            Err(failure) => {
                self.unwritten.extend(finished);
                Err(failure)
            }
        }
    }

    pub(super) async fn recorded(
        &mut self,
        inbox: &Arc<SharedInbox>,
        completes: Vec<Complete>,
        written: Result<Written, Failure>,
    ) -> Result<(), Failure> {
        match written {
            Ok(written) => self.written(inbox, completes, &written).await,
            Err(failure) => {
                self.unwritten.extend(completes);
                Err(failure)
            }
        }
    }

    /// Counts results that are recorded. If the server didn't record a result, another worker has the event, or the writer tries again.
    pub(super) async fn written(
        &mut self,
        inbox: &Arc<SharedInbox>,
        completes: Vec<Complete>,
        written: &Written,
    ) -> Result<(), Failure> {
        self.unblocked.extend(&written.unblocked);
        let (mut ended, others): (Vec<_>, Vec<_>) = completes
            .into_iter()
            .partition(|complete| written.ended.contains(&complete.number));
        let mut lost = Vec::new();
        if !others.is_empty() {
            let worker = self.worker.load(Ordering::Relaxed);
            let ids: Vec<_> = others.iter().map(|one| stored(one.number)).collect();
            let owned = match self.store.owned(&mut self.connection, worker, &ids).await {
                Ok(owned) => owned,
                Err(failure) => {
                    count(inbox, ended, Vec::new());
                    self.unwritten.extend(others);
                    return Err(failure);
                }
            };
            for complete in others {
                match owned.get(&complete.number) {
                    // A handler's open transaction has locked the event.
                    Some(true) => {
                        self.next_try = self.runtime.now().checked_add(LOCKED);
                        self.unwritten.push(complete);
                    }
                    // The answer of an earlier statement was lost.
                    None if self.may_be_recorded => ended.push(complete),
                    Some(false) | None => lost.push(complete),
                }
            }
        }
        count(inbox, ended, lost);
        if self.unwritten.is_empty() {
            self.may_be_recorded = false;
        }
        Ok(())
    }

    /// Takes the results that a statement records.
    pub(super) fn take_completes(&mut self, is_one: impl Fn(&Step) -> bool) -> Vec<Complete> {
        if !self.unwritten.iter().any(|complete| is_one(&complete.step)) {
            return Vec::new();
        }
        let (taken, rest) = take(&mut self.unwritten)
            .into_iter()
            .partition(|complete| is_one(&complete.step));
        self.unwritten = rest;
        taken
    }
}

/// Counts recorded results and lost events.
fn count(inbox: &Arc<SharedInbox>, ended: Vec<Complete>, lost: Vec<Complete>) {
    for complete in &ended {
        if let Step::DeadLetter(letter, _) = &complete.step {
            inbox.executor.dead_lettered(letter);
        }
    }
    let (unused, jobs) = inbox.state.update(|state, counts| {
        state.written(ended.len() + lost.len());
        let (mut unused, mut jobs) = (Vec::new(), Vec::new());
        for complete in ended {
            let outcome = match complete.step {
                Step::Retry {
                    job,
                    due,
                    releases,
                    park,
                    ..
                } => {
                    if park.is_none_or(|park| park.due.is_some()) {
                        state.stats.retried += 1;
                        counts.retried();
                    }
                    if releases {
                        state.end(complete.number, Ended::Published, counts);
                        jobs.push(job);
                    } else if let Some(park) = park {
                        state.park(job, park);
                    } else {
                        state.retry(job, due);
                    }
                    continue;
                }
                Step::Wait(job, _) => {
                    state.end(complete.number, Ended::Published, counts);
                    jobs.push(job);
                    continue;
                }
                Step::End(outcome, ..) => outcome,
                Step::DeadLetter(..) => {
                    state.stats.dead_letters += 1;
                    unused.push(complete.step);
                    EventOutcome::Dead
                }
            };
            state.end(complete.number, Ended::Outcome(outcome), counts);
        }
        for complete in lost {
            state.end(complete.number, Ended::Published, counts);
            unused.push(complete.step);
        }
        (unused, jobs)
    });
    discard(unused);
    discard(jobs);
}
