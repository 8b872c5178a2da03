#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

/// The maximum number of ranges per consumer, at 16 bytes each. If there are more ranges, the worker forgets the newest range. The
/// events of that range may run again, but no event is skipped.
const MAX_RANGES: usize = 50_000;

/// The events of one consumer that the group has finished, as far as this worker knows.
///
/// A recreated consumer starts after `floor`. The worker acknowledges the events of `ranges` without running them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    /// Every event up to this stream sequence is finished.
    floor: u64,
    /// The finished events above the floor: the first and the last sequence of each range.
    ranges: BTreeMap<u64, u64>,
    /// When the newest finished event was published, in nanoseconds since the Unix epoch. If a server is restored from a backup,
    /// new events get old sequences, but their publication times are later.
    newest: u64,
}

impl Finished {
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    /// Returns whether the event with this sequence and this time of publication is finished.
    pub(super) fn contains(&self, sequence: u64, published: u64) -> bool {
        published <= self.newest && self.covers(sequence)
    }

    fn covers(&self, sequence: u64) -> bool {
        let range = self.ranges.range(..=sequence).next_back();
        sequence <= self.floor || range.is_some_and(|(_, last)| sequence <= *last)
    }

    pub(super) fn insert(&mut self, sequence: u64, published: u64) {
        self.newest = self.newest.max(published);
        self.insert_range(sequence, sequence);
    }

    /// Raises the floor to a sequence. Every event up to this sequence is acknowledged.
    pub(super) fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while let Some(entry) = self.ranges.first_entry() {
            if *entry.key() > self.floor.saturating_add(1) {
                break;
            }
            self.floor = self.floor.max(entry.remove());
        }
    }

    /// Lowers the floor below a sequence that the stream has reused for another event.
    pub(super) fn lower_floor(&mut self, sequence: u64) {
        self.floor = self.floor.min(sequence.saturating_sub(1));
    }

    /// Adds the finished events that another worker has recorded.
    pub(super) fn merge(&mut self, other: &Self) {
        self.newest = self.newest.max(other.newest);
        for (first, last) in &other.ranges {
            self.insert_range(*first, *last);
        }
        self.raise_floor(other.floor);
    }

    fn insert_range(&mut self, mut first: u64, mut last: u64) {
        if last <= self.floor {
            return;
        }
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
        self.raise_floor(self.floor);
    }

    /// Returns the stored form: the floor, the newest time, and at most `max_ranges` ranges.
    pub(super) fn to_record(&self, max_ranges: usize) -> (u64, u64, Vec<(u64, u64)>) {
        let ranges = self.ranges.iter().take(max_ranges);
        let ranges = ranges.map(|(first, last)| (*first, *last)).collect();
        (self.floor, self.newest, ranges)
    }

    pub(super) fn from_record((floor, newest, ranges): (u64, u64, Vec<(u64, u64)>)) -> Self {
        let mut finished = Self {
            floor,
            newest,
            ..Self::default()
        };
        for (first, last) in ranges {
            finished.insert_range(first, last);
        }
        finished
    }
}
