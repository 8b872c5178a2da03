#[cfg(test)]
mod tests;

use std::collections::VecDeque;

/// The maximum number of groups. Beyond this limit, neighbouring groups are merged.
const MAX_GROUPS: usize = 64;

/// The time in milliseconds that one new group covers.
const WIDTH: u64 = 5_000;

/// The age of the oldest event in flight, without a list of all events.
///
/// Events that arrive within a few seconds form a group, which counts its events in flight. An event belongs to the last group
/// whose first number isn't above the event's number. Groups of old events are merged, so their ages are less exact.
#[derive(Debug, Default)]
pub(super) struct Ages {
    groups: VecDeque<Group>,
}

#[derive(Debug)]
struct Group {
    /// The number of the first event.
    first: u64,
    /// When the first event arrived, in milliseconds by the inbox's clock.
    at: u64,
    events: usize,
}

impl Ages {
    /// Adds a new event, which has the highest number so far.
    pub(super) fn push(&mut self, number: u64, now: u64) {
        match self.groups.back_mut() {
            Some(last) if now.saturating_sub(last.at) < WIDTH => last.events += 1,
            _ => self.start(number, now),
        }
    }

    #[cold]
    fn start(&mut self, first: u64, at: u64) {
        self.groups.retain(|group| group.events > 0);
        if self.groups.len() >= MAX_GROUPS {
            let mut merged: VecDeque<Group> = VecDeque::with_capacity(MAX_GROUPS);
            for (i, group) in self.groups.drain(..).enumerate() {
                match merged.back_mut() {
                    Some(last) if i % 2 == 1 => last.events += group.events,
                    _ => merged.push_back(group),
                }
            }
            self.groups = merged;
        }
        self.groups.push_back(Group {
            first,
            at,
            events: 1,
        });
    }

    /// Adds an event that has the number of an earlier event.
    pub(super) fn insert(&mut self, number: u64, now: u64) {
        if self.oldest().is_none() {
            self.groups.clear();
        }
        match self.group(number) {
            Some(group) => group.events += 1,
            None => self.start(number, now),
        }
    }

    /// Removes an event.
    pub(super) fn remove(&mut self, number: u64) {
        if let Some(group) = self.group(number) {
            group.events = group.events.saturating_sub(1);
        }
    }

    /// Returns when the oldest event in flight arrived.
    pub(super) fn oldest(&self) -> Option<u64> {
        let mut groups = self.groups.iter().filter(|group| group.events > 0);
        groups.next().map(|group| group.at)
    }

    fn group(&mut self, number: u64) -> Option<&mut Group> {
        // Most events are in the last group.
        let last = self.groups.len().checked_sub(1)?;
        let index = if self.groups[last].first <= number {
            last
        } else {
            let after = self.groups.partition_point(|group| group.first <= number);
            after.saturating_sub(1)
        };
        self.groups.get_mut(index)
    }
}
