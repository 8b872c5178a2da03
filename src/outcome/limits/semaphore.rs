use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A number of permits, and the events that wait for one, in order.
///
/// A released permit goes to the first event that is parked. An event whose other routes run keeps its place in the queue, but
/// gets no permit, because it couldn't use the permit yet.
#[derive(Debug)]
pub(super) struct Semaphore {
    free: usize,
    waiters: VecDeque<Arc<Waiter>>,
}

/// An event that waits for a permit.
#[derive(Debug)]
pub(super) struct Waiter {
    event: u64,
    state: AtomicU8,
}

/// The waiter waits, but its event is in an attempt.
const BUSY: u8 = 0;
/// The waiter waits, and its event is parked.
const PARKED: u8 = 1;
/// The waiter has a permit.
const GRANTED: u8 = 2;
/// The waiter has no permit, and no longer waits.
const DISMISSED: u8 = 3;

impl Semaphore {
    pub(super) fn new(permits: usize) -> Self {
        Self {
            free: permits,
            waiters: VecDeque::new(),
        }
    }

    /// Takes a permit if one is free. While an event is parked, no permit is free.
    pub(super) fn try_acquire(&mut self) -> bool {
        let acquired = self.free > 0;
        self.free -= usize::from(acquired);
        acquired
    }

    /// Adds an event to the queue. The event is in an attempt.
    pub(super) fn wait(&mut self, event: u64) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            event,
            state: AtomicU8::new(BUSY),
        });
        self.waiters.push_back(Arc::clone(&waiter));
        waiter
    }

    /// Releases a permit. If an event is parked, gives it the permit, and returns the event's number.
    pub(super) fn release(&mut self) -> Option<u64> {
        self.free += 1;
        self.grant()
    }

    /// Gives a free permit to the first parked event, and returns the event's number.
    fn grant(&mut self) -> Option<u64> {
        let mut index = 0;
        while self.free > 0
            && let Some(waiter) = self.waiters.get(index)
        {
            if waiter.change(PARKED, GRANTED) {
                self.free -= 1;
                return self.waiters.remove(index).map(|waiter| waiter.event);
            }
            match waiter.is_called() {
                true => drop(self.waiters.remove(index)),
                false => index += 1,
            }
        }
        None
    }

    /// Lets an event of the queue get a permit from now on. If a permit is free, the event gets it.
    pub(super) fn park(&mut self, waiter: &Waiter) {
        if waiter.change(BUSY, PARKED) {
            // No other event is parked while a permit is free.
            self.grant();
        }
    }

    /// Returns whether no event has a permit or waits for one. Only for a semaphore with one permit.
    pub(super) fn is_unused(&self) -> bool {
        self.free > 0 && self.waiters.iter().all(|waiter| waiter.is_called())
    }

    /// Dismisses all waiters, and returns the numbers of their events.
    pub(super) fn dismiss(self) -> impl Iterator<Item = u64> {
        let waiters = self.waiters.into_iter();
        waiters.filter_map(|waiter| waiter.dismiss().then_some(waiter.event))
    }
}

impl Waiter {
    /// Returns whether the event no longer waits.
    pub(super) fn is_called(&self) -> bool {
        matches!(self.state.load(Ordering::Acquire), GRANTED | DISMISSED)
    }

    /// Keeps the place in the queue while the event is in an attempt. Returns false if the event no longer waits.
    pub(super) fn stay(&self) -> bool {
        self.change(PARKED, BUSY) || !self.is_called()
    }

    /// Ends the wait without a permit. Returns false if the wait has ended before.
    pub(super) fn dismiss(&self) -> bool {
        self.change(PARKED, DISMISSED) || self.change(BUSY, DISMISSED)
    }

    /// Ends the wait. Returns whether the waiter has a permit.
    pub(super) fn end(&self) -> bool {
        self.state.swap(DISMISSED, Ordering::AcqRel) == GRANTED
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let changed = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        changed.is_ok()
    }
}
