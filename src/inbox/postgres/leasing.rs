use std::mem::take;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::accepting::{accepted, stored_copies};
use super::command::{Accept, Complete, Reply, Step};
use super::error::Failure;
use super::shared_inbox::SharedInbox;
use super::state::State;
use super::store::{Lessee, NewEvent, StoredEvent};
use super::writer::Writer;
use crate::catch_panic::discard;

/// Leases and releases events.
impl Writer {
    /// Returns the worker, and whether it leases events.
    pub(super) fn lessee(&self, state: &State) -> Lessee {
        let now = self.runtime.now();
        let is_draining = state.draining_since.is_some();
        Lessee {
            worker: self.worker.load(Ordering::Relaxed),
            takes: self.settings.runs_events && !is_draining && now < state.leased_until,
        }
    }

    /// Finds the leased events that this process doesn't know, because an answer was lost.
    pub(super) async fn adopt(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let worker = self.worker.load(Ordering::Relaxed);
        let known = inbox.state.lock().held_ids();
        let adopted = match worker {
            0 => Vec::new(),
            worker => {
                self.store
                    .adopt(&mut self.connection, worker, &known)
                    .await?
            }
        };
        self.must_adopt = false;
        self.unblocked.clear();
        let mut resent = take(&mut self.resent);
        let mut replies = Vec::new();
        let mut others = Vec::new();
        for event in adopted {
            let is_own = |accept: &Accept| accept.event.body() == event.body;
            match resent.iter().position(is_own) {
                None => others.push(event),
                Some(place) => {
                    let accept = resent.swap_remove(place);
                    let new = NewEvent {
                        place: 0,
                        id: event.id,
                        is_owned: true,
                    };
                    replies.push(
                        inbox
                            .state
                            .update(|state, counts| accepted(state, counts, accept, &new)),
                    );
                }
            }
        }
        self.take_claimed(inbox, others);
        replies.into_iter().for_each(Reply::send);
        stored_copies(inbox, resent);
        Ok(())
    }

    /// Loads the events whose keys were unblocked.
    pub(super) async fn load_unblocked(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        if self.unblocked.is_empty() {
            return Ok(());
        }
        let worker = self.worker.load(Ordering::Relaxed);
        let store = &self.store;
        let loaded = store
            .load(&mut self.connection, worker, &self.unblocked)
            .await;
        match loaded {
            Ok(events) => {
                self.unblocked.clear();
                self.take_claimed(inbox, events);
                Ok(())
            }
            Err(failure) => {
                self.must_adopt = true;
                Err(failure)
            }
        }
    }

    /// Releases the events that haven't started, if the inbox drains.
    pub(super) async fn release(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let ids = {
            let state = inbox.state.lock();
            if state.draining_since.is_none() {
                return Ok(());
            }
            state.idle_ids()
        };
        if ids.is_empty() {
            return Ok(());
        }
        let worker = self.worker.load(Ordering::Relaxed);
        self.store
            .release(&mut self.connection, worker, &ids)
            .await?;
        let released = inbox.state.update(|state, counts| {
            let released = state.take_idle(counts);
            state.returned += released.len() as u64;
            released
        });
        discard(released);
        Ok(())
    }

    /// Leases events without an owner, as many as can start now.
    pub(super) async fn claim(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let concurrency = inbox.executor.settings.inbox_concurrency();
        let (free, candidates) = {
            let state = inbox.state.lock();
            let may_claim = state.may_claim && self.lessee(&state).takes;
            if !may_claim || !state.has_space_in_memory(0) {
                return Ok(());
            }
            let candidates = usize::from(!state.has_candidate());
            (state.free_workers(concurrency), candidates)
        };
        if free == 0 {
            return Ok(());
        }
        let worker = self.worker.load(Ordering::Relaxed);
        let store = &self.store;
        let claimed = store
            .claim(&mut self.connection, worker, free, candidates)
            .await?;
        if !claimed.is_empty() {
            self.claimed_at = Some(self.runtime.now());
        }
        if claimed.len() < free {
            inbox.state.lock().may_claim = false;
        }
        self.take_claimed(inbox, claimed);
        Ok(())
    }

    /// Adds leased events to the events that are ready. An event that can't run becomes a dead letter.
    pub(super) fn take_claimed(&mut self, inbox: &Arc<SharedInbox>, events: Vec<StoredEvent>) {
        if events.is_empty() {
            return;
        }
        let (max_crashes, now) = (self.settings.max_crashes, inbox.state.clock.system_time());
        let events: Vec<_> = events
            .into_iter()
            .map(|event| {
                let is_candidate = event.takeovers > 1;
                (
                    event.id,
                    is_candidate,
                    event.body.len() as u64,
                    event.key.is_some(),
                    event.into_job(max_crashes, now),
                )
            })
            .collect();
        let dead = inbox.state.update(|state, counts| {
            let mut dead = Vec::new();
            for (id, is_candidate, size, has_key, job) in events {
                if state.retake(id) {
                    continue;
                }
                state.recover(counts);
                match job {
                    Ok(job) => {
                        state.hold(&job, is_candidate);
                        state.ready.push_back(job);
                    }
                    Err(letter) => {
                        state.hold_ended(id, size);
                        dead.push(Complete {
                            number: id,
                            has_key,
                            step: Step::DeadLetter(letter, None),
                        });
                    }
                }
            }
            dead
        });
        if !dead.is_empty() {
            self.unwritten.extend(dead);
            self.next_try = Some(self.runtime.now());
        }
    }
}
