use super::volume::Volume;
use crate::delivery::{Admission, Fingerprint, SeenIds};
use crate::inbox::{AcceptError, AcceptErrorKind};

/// The limit of the events that wait for their commit: a few batches of a busy server.
const MAX_PENDING: Volume = Volume {
    events: 8192,
    bytes: 32 << 20,
};

/// Decides which events the inbox accepts. An admitted event is accepted once its commit has succeeded.
#[derive(Debug)]
pub(super) struct Admissions {
    /// The limit of the events that the inbox holds.
    pub(super) limit: Volume,
    /// The message ids of stored events, and of events whose commit is pending.
    ids: SeenIds,
    /// The id of the next event.
    next_id: u64,
    /// The id of the last event whose commit has ended. The commits of all events before it have ended too.
    ended_id: u64,
    /// The events whose commit is pending.
    pub(super) pending: Volume,
    /// Whether the inbox refuses events because the writer can't store them now.
    pub(super) unavailable: bool,
    /// When the inbox began to drain, by the inbox's clock. A draining inbox refuses new events and starts no stored events.
    pub(super) draining_since: Option<u64>,
}

impl Admissions {
    /// Returns the admissions of an inbox that isn't open yet.
    pub(super) fn new(limit: Volume, ids: SeenIds) -> Self {
        Self {
            limit,
            ids,
            next_id: 1,
            ended_id: 0,
            pending: Volume::default(),
            unavailable: true,
            draining_since: None,
        }
    }

    /// Sets the id of the next event, and the message ids that the store remembers.
    pub(super) fn restore(&mut self, next_id: u64, ids: SeenIds) {
        self.next_id = next_id;
        self.ended_id = next_id.saturating_sub(1);
        self.ids = ids;
    }

    /// Numbers the next events from `next_id`, because another process has used the lower numbers.
    pub(super) fn skip_to(&mut self, next_id: u64) {
        self.next_id = self.next_id.max(next_id);
    }

    /// Decides whether an inbox that holds `held` accepts an event with a body of `size` bytes.
    pub(super) fn admit(
        &mut self,
        id: Fingerprint,
        size: u64,
        held: Volume,
        now: u64,
    ) -> Result<Admission, AcceptError> {
        let has_space = self.has_space(size, held);
        // A copy takes no space, so it isn't refused.
        self.ids.admit(id, now, || {
            if self.draining_since.is_some() {
                return Err(AcceptError::new(AcceptErrorKind::Draining));
            }
            if self.unavailable {
                return Err(AcceptError::new(AcceptErrorKind::Unavailable));
            }
            if !has_space {
                return Err(AcceptError::new(AcceptErrorKind::Full));
            }
            self.pending.add(size);
            self.next_id += 1;
            Ok(self.next_id - 1)
        })
    }

    /// Returns whether an inbox that holds `held` has space for an event of `size` bytes.
    pub(super) fn has_space(&self, size: u64, held: Volume) -> bool {
        held.has_space(self.limit, size) && self.pending.has_space(MAX_PENDING, size)
    }

    /// Returns whether the commit of the event with this id is pending.
    pub(super) fn is_pending(&self, id: Fingerprint) -> bool {
        self.ids.is_newer(id, self.ended_id)
    }

    /// Ends the commit of an event. If the commit failed, the inbox forgets the event's message id.
    pub(super) fn end(&mut self, number: u64, id: Fingerprint, size: u64, committed: bool) {
        self.pending.remove(size);
        self.ended_id = number;
        if !committed {
            self.ids.remove(id);
        }
    }

    /// Returns whether the inbox has stored an event with this message id.
    pub(super) fn has_stored(&mut self, id: Fingerprint, now: u64) -> bool {
        self.ids.contains(id, now) && !self.is_pending(id)
    }

    /// Forgets the message ids whose window has passed. Returns the highest id of an event whose message id was ever
    /// forgotten.
    pub(super) fn expire(&mut self, now: u64) -> u64 {
        self.ids.expire(now)
    }
}
