use crate::delivery::{Admission, Fingerprint, SeenIds};
use crate::inbox::AcceptError;

/// The maximum number of events that wait for their commit: a few batches of a busy server.
const MAX_PENDING: u64 = 8192;

/// The maximum total size of the bodies of the events that wait for their commit, in bytes.
const MAX_PENDING_BYTES: u64 = 32 << 20;

/// The maximum number and size of the accepted events that the inbox holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct InboxLimits {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

/// A number of events, and the total size of their bodies in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

impl InboxLimits {
    /// Returns whether an inbox that holds `held` has no space for an event of `size` bytes. An empty inbox has space
    /// for an event of any size, because the sender would disable an endpoint that never accepts the event.
    pub(super) fn are_reached(self, held: Held, size: u64) -> bool {
        held.events > 0 && (held.events >= self.events || held.bytes + size > self.bytes)
    }
}

impl Held {
    pub(super) fn add(&mut self, size: u64) {
        self.events += 1;
        self.bytes += size;
    }
}

/// Decides which events the inbox accepts. An admitted event is accepted once its commit has succeeded.
#[derive(Debug)]
pub(super) struct Admissions {
    limits: InboxLimits,
    /// The message ids of stored events, and of events whose commit is pending.
    ids: SeenIds,
    /// The id of the next event.
    next_id: u64,
    /// The id of the last event whose commit has ended. The commits of all events before it have ended too.
    ended_id: u64,
    /// The events whose commit is pending.
    pending: Held,
    /// Whether the inbox refuses events because the writer can't store them now.
    pub(super) unavailable: bool,
}

impl Admissions {
    /// Returns the admissions of an inbox that isn't open yet.
    pub(super) fn new(limits: InboxLimits, ids: SeenIds) -> Self {
        Self {
            limits,
            ids,
            next_id: 1,
            ended_id: 0,
            pending: Held::default(),
            unavailable: true,
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

    /// Decides whether the inbox accepts an event with a body of `size` bytes. The store holds `stored`.
    pub(super) fn admit(
        &mut self,
        id: Fingerprint,
        size: u64,
        stored: Held,
        draining: bool,
        now: u64,
    ) -> Result<Admission, AcceptError> {
        let full = self.is_full(size, stored);
        let Self {
            ids,
            next_id,
            pending,
            unavailable,
            ..
        } = self;
        // A copy takes no space, so it isn't refused.
        ids.admit(id, now, || {
            if draining {
                return Err(AcceptError::draining());
            }
            if *unavailable {
                return Err(AcceptError::unavailable());
            }
            if full {
                return Err(AcceptError::full());
            }
            pending.add(size);
            *next_id += 1;
            Ok(*next_id - 1)
        })
    }

    /// Returns whether the commit of the event with this id is pending.
    pub(super) fn is_pending(&self, id: Fingerprint) -> bool {
        self.ids.is_newer(id, self.ended_id)
    }

    fn is_full(&self, size: u64, stored: Held) -> bool {
        const PENDING: InboxLimits = InboxLimits {
            events: MAX_PENDING,
            bytes: MAX_PENDING_BYTES,
        };
        self.limits.are_reached(self.held(stored), size) || PENDING.are_reached(self.pending, size)
    }

    /// Returns how much the inbox holds, if the store holds `stored`.
    pub(super) fn held(&self, stored: Held) -> Held {
        Held {
            events: stored.events + self.pending.events,
            bytes: stored.bytes + self.pending.bytes,
        }
    }

    pub(super) fn limits(&self) -> InboxLimits {
        self.limits
    }

    /// Ends the commit of an event. If the commit failed, the inbox forgets the event's message id.
    pub(super) fn end(&mut self, number: u64, id: Fingerprint, size: u64, committed: bool) {
        self.pending.events -= 1;
        self.pending.bytes -= size;
        self.ended_id = number;
        if !committed {
            self.ids.remove(id);
        }
    }

    /// Returns whether the inbox has stored an event with this message id.
    pub(super) fn has_stored(&mut self, id: Fingerprint, now: u64) -> bool {
        self.ids.contains(id, now) && !self.is_pending(id)
    }

    /// Returns the highest id of an event whose message id was forgotten.
    pub(super) fn forgotten(&self) -> u64 {
        self.ids.forgotten()
    }

    /// Forgets the message ids whose window has passed.
    pub(super) fn expire(&mut self, now: u64) {
        self.ids.expire(now);
    }
}
