#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

/// The maximum number of ranges per consumer, at 16 bytes each. If there are more ranges, the worker forgets the newest range. The
/// events of that range may run again, but no event is skipped.
const MAX_RANGES: usize = 50_000;

/// The events of one consumer that the group has finished, as far as this worker knows.
pub(super) struct Finished {
    /// The first and the last stream sequence of each range of finished events. The range that begins at 0 ends at the
    /// [`floor`](Self::floor).
    ranges: BTreeMap<u64, u64>,
    /// When the newest finished event was published, in nanoseconds since the Unix epoch. If a server is restored from a backup,
    /// new events get old sequences, but their publication times are later.
    newest: u64,
}

/// The stored form: the publication time of the newest event, and the ranges.
pub(super) type FinishedRecord = (u64, Vec<(u64, u64)>);

impl Default for Finished {
    fn default() -> Self {
        Self {
            ranges: BTreeMap::from([(0, 0)]),
            newest: 0,
        }
    }
}

impl Finished {
    /// Returns the sequence up to which every event is finished. A recreated consumer starts after this sequence, and the worker
    /// acknowledges the events of the other ranges without running them.
    pub(super) fn floor(&self) -> u64 {
        self.ranges[&0]
    }

    /// Returns whether the event with this sequence and this time of publication is finished.
    pub(super) fn contains(&self, sequence: u64, published: u64) -> bool {
        let range = self.ranges.range(..=sequence).next_back();
        published <= self.newest && range.is_some_and(|(_, last)| sequence <= *last)
    }

    pub(super) fn insert(&mut self, sequence: u64, published: u64) {
        self.newest = self.newest.max(published);
        self.insert_range(sequence, sequence);
    }

    /// Raises the floor to a sequence. Every event up to this sequence is acknowledged.
    pub(super) fn raise_floor(&mut self, floor: u64) {
        self.insert_range(0, floor);
    }

    /// Lowers the floor below a sequence that the stream has reused for another event.
    pub(super) fn lower_floor(&mut self, sequence: u64) {
        let floor = self.floor().min(sequence.saturating_sub(1));
        self.ranges.insert(0, floor);
    }

    fn insert_range(&mut self, mut first: u64, mut last: u64) {
        // The new range absorbs every range that it overlaps or touches.
        while let Some((&start, &end)) = self.ranges.range(..=last.saturating_add(1)).next_back()
            && end.saturating_add(1) >= first
        {
            self.ranges.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.ranges.insert(first, last);
        if self.ranges.len() > MAX_RANGES {
            self.ranges.pop_last();
        }
    }

    /// Adds the finished events that another worker has recorded.
    pub(super) fn merge(&mut self, (newest, ranges): FinishedRecord) {
        self.newest = self.newest.max(newest);
        for (first, last) in ranges {
            self.insert_range(first, last);
        }
    }

    /// Returns the stored form with at most `max_ranges` ranges.
    pub(super) fn to_record(&self, max_ranges: usize) -> FinishedRecord {
        let ranges = self.ranges.iter().take(max_ranges);
        let ranges = ranges.map(|(first, last)| (*first, *last));
        (self.newest, ranges.collect())
    }
}
