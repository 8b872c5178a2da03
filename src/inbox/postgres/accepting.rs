use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::mem::take;
use std::sync::Arc;

use super::command::{Accept, Complete, Reply, Step};
use super::error::Failure;
use super::shared_inbox::SharedInbox;
use super::state::State;
use super::store::{NewEvent, Written};
use super::writer::Writer;
use crate::delivery::{Job, Progress};
use crate::inbox::{AcceptError, AcceptErrorKind, Accepted};
use crate::telemetry::{self, Counted, PendingCounts};

/// Stores accepted events, and answers them.
impl Writer {
    /// Answers the events that the inbox refuses, unless they are copies.
    pub(super) async fn answer_copies(&mut self, inbox: &SharedInbox) -> Result<(), Failure> {
        if self.accepts.iter().all(|accept| accept.refusal.is_none()) {
            return Ok(());
        }
        let refused = self.accepts.iter();
        let refused: Vec<_> = refused
            .filter(|accept| accept.refusal.is_some())
            .map(|accept| accept.event.id().as_bytes())
            .collect();
        let copies = self.store.copies(&mut self.connection, &refused).await?;
        let (refused, accepts): (Vec<_>, Vec<_>) = take(&mut self.accepts)
            .into_iter()
            .partition(|accept| accept.refusal.is_some());
        self.accepts = accepts;
        let replies = inbox.state.update(|state, counts| {
            let refused = refused.into_iter().enumerate();
            let replies = refused.map(|(place, mut accept)| match accept.refusal.take() {
                Some(error) if !copies.contains(&place) => refusal(state, counts, accept, error),
                _ => duplicate(state, counts, accept),
            });
            replies.collect::<Vec<_>>()
        });
        replies.into_iter().for_each(Reply::send);
        Ok(())
    }

    /// Stores the accepted events, and records the events that every route has handled, in one transaction.
    pub(super) async fn write(&mut self, inbox: &Arc<SharedInbox>) -> Result<(), Failure> {
        let finished = self.take_completes(|step| matches!(step, Step::End(_, None)));
        let (accepts, copies) = self.unique_accepts();
        if finished.is_empty() && accepts.is_empty() {
            self.accepts = copies;
            return Ok(());
        }
        let result = self.write_batch(inbox, &finished, &accepts).await;
        match result {
            Ok(written) => {
                self.written(inbox, finished, &written).await?;
                self.stored(inbox, accepts, &written.new);
                stored_copies(inbox, copies);
                Ok(())
            }
            Err(failure) if !failure.may_be_committed && !accepts.is_empty() => {
                // If an event or a full disk caused the failure, the server may still accept the results.
                self.unwritten.extend(finished);
                self.write_each(inbox, accepts, copies, failure).await
            }
            Err(failure) => {
                self.unwritten.extend(finished);
                self.accepts.extend(accepts);
                self.accepts.extend(copies);
                Err(failure)
            }
        }
    }

    pub(super) async fn write_batch(
        &mut self,
        inbox: &SharedInbox,
        finished: &[Complete],
        accepts: &[Accept],
    ) -> Result<Written, Failure> {
        let (leased, lessee) = {
            let state = inbox.state.lock();
            let lessee = self.lessee(&state);
            let places = 0..accepts.len();
            let leased: Vec<_> = places
                .map(|place| lessee.takes && state.has_space_in_memory(place))
                .collect();
            (leased, lessee)
        };
        let connection = &mut self.connection;
        self.store
            .write(connection, lessee, finished, accepts, &leased)
            .await
    }

    /// Writes the results. If values caused the failure, then writes each event in its own statement. Otherwise, refuses the events.
    pub(super) async fn write_each(
        &mut self,
        inbox: &Arc<SharedInbox>,
        accepts: Vec<Accept>,
        copies: Vec<Accept>,
        failure: Failure,
    ) -> Result<(), Failure> {
        if !failure.is_of_values {
            self.accepts.extend(accepts);
            self.accepts.extend(copies);
            let results = Box::pin(self.record_finished(inbox)).await;
            return results.and(Err(failure));
        }
        Box::pin(self.record_finished(inbox)).await?;
        let mut accepts = accepts.into_iter();
        while let Some(accept) = accepts.next() {
            let one = vec![accept];
            match self.write_batch(inbox, &[], &one).await {
                Ok(written) => self.stored(inbox, one, &written.new),
                Err(failure) if failure.is_of_values => {
                    let error = AcceptError::new(AcceptErrorKind::Unavailable);
                    let replies = inbox.state.update(|state, counts| {
                        let refuse = |accept| refusal(state, counts, accept, error.clone());
                        one.into_iter().map(refuse).collect::<Vec<_>>()
                    });
                    replies.into_iter().for_each(Reply::send);
                    telemetry::inbox_failing(&failure.error);
                }
                Err(failure) => {
                    self.accepts.extend(one);
                    self.accepts.extend(accepts);
                    self.accepts.extend(copies);
                    return Err(failure);
                }
            }
        }
        self.accepts.extend(copies);
        Ok(())
    }

    /// Counts and answers the events of a batch. Events without an id in `new` are copies.
    pub(super) fn stored(&mut self, inbox: &SharedInbox, accepts: Vec<Accept>, new: &[NewEvent]) {
        let new: HashMap<_, _> = new.iter().map(|event| (event.place, event)).collect();
        let resent = &mut self.resent;
        let replies = inbox.state.update(|state, counts| {
            let mut replies = Vec::with_capacity(accepts.len());
            for (place, accept) in accepts.into_iter().enumerate() {
                match new.get(&place) {
                    Some(event) => replies.push(accepted(state, counts, accept, event)),
                    None if accept.may_be_stored => resent.push(accept),
                    None => replies.push(duplicate(state, counts, accept)),
                }
            }
            replies
        });
        replies.into_iter().for_each(Reply::send);
    }

    /// Takes the waiting events: the first event with each message id, and the copies.
    pub(super) fn unique_accepts(&mut self) -> (Vec<Accept>, Vec<Accept>) {
        let accepts = take(&mut self.accepts);
        if self.settings.duplicate_window.is_zero() || accepts.len() < 2 {
            return (accepts, Vec::new());
        }
        let mut ids = HashMap::with_capacity(accepts.len());
        let mut is_first = Vec::with_capacity(accepts.len());
        for (place, accept) in accepts.iter().enumerate() {
            match ids.entry(accept.event.id()) {
                Entry::Vacant(entry) => {
                    entry.insert(place);
                    is_first.push(true);
                }
                Entry::Occupied(_) => is_first.push(false),
            }
        }
        drop(ids);
        let mut is_first = is_first.into_iter();
        accepts
            .into_iter()
            .partition(|_| is_first.next().unwrap_or(true))
    }
}

/// Counts a stored event, and puts it into the queue if this process has leased it.
pub(super) fn accepted(
    state: &mut State,
    counts: &mut PendingCounts<'_>,
    accept: Accept,
    new: &NewEvent,
) -> Reply {
    let label = counts.metrics.label(accept.event.event_type());
    let size = accept.size();
    state.pending.remove(size);
    state.grow(size);
    state.stats.accepted += 1;
    counts.event(label, Counted::Accepted);
    let mut unused = None;
    if new.is_owned {
        let job = Box::new(Job {
            number: new.id,
            event: accept.event,
            parent_span: accept.parent_span,
            progress: Progress::new(),
            key: accept.key,
        });
        state.hold(&job, false);
        state.ready.push_back(job);
    } else {
        state.stats.published += 1;
        counts.event(label, Counted::Published);
        unused = Some(accept.parent_span);
    }
    Reply::new(accept.answer, Ok(Accepted::New), unused)
}

/// Counts a copy.
fn duplicate(state: &mut State, counts: &mut PendingCounts<'_>, accept: Accept) -> Reply {
    let label = counts.metrics.label(accept.event.event_type());
    state.pending.remove(accept.size());
    state.stats.duplicates += 1;
    counts.event(label, Counted::Duplicate);
    Reply::new(
        accept.answer,
        Ok(Accepted::Duplicate),
        Some(accept.parent_span),
    )
}

/// Counts a refused event.
pub(super) fn refusal(
    state: &mut State,
    counts: &mut PendingCounts<'_>,
    accept: Accept,
    error: AcceptError,
) -> Reply {
    let label = counts.metrics.label(accept.event.event_type());
    state.pending.remove(accept.size());
    state.stats.refused += 1;
    counts.event(label, Counted::Refused);
    Reply::new(accept.answer, Err(error), Some(accept.parent_span))
}

/// Answers copies of events that are stored.
pub(super) fn stored_copies(inbox: &SharedInbox, copies: Vec<Accept>) {
    if copies.is_empty() {
        return;
    }
    let replies = inbox.state.update(|state, counts| {
        let copies = copies.into_iter();
        let replies = copies.map(|accept| duplicate(state, counts, accept));
        replies.collect::<Vec<_>>()
    });
    replies.into_iter().for_each(Reply::send);
}
