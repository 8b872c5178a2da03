/// A number of events, and the total size of their bodies in bytes. Also a limit on both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::inbox) struct Volume {
    pub(in crate::inbox) events: u64,
    pub(in crate::inbox) bytes: u64,
}

impl Volume {
    pub(in crate::inbox) fn add(&mut self, size: u64) {
        self.events += 1;
        self.bytes += size;
    }

    pub(in crate::inbox) fn remove(&mut self, size: u64) {
        self.events = self.events.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size);
    }

    /// Returns whether one more event of `size` bytes fits within `limit`. If there are no other events, an event
    /// of any size fits, because the sender would disable an endpoint that never accepts the event.
    pub(in crate::inbox) fn has_space(self, limit: Self, size: u64) -> bool {
        self.events == 0 || self.events < limit.events && self.bytes + size <= limit.bytes
    }

    /// Returns whether one more event fits into this free space. The last event may exceed the limit.
    pub(in crate::inbox) fn is_free(self) -> bool {
        self.events > 0 && self.bytes > 0
    }

    pub(in crate::inbox) fn exceeds(self, limit: Self) -> bool {
        self.events > limit.events || self.bytes > limit.bytes
    }
}
