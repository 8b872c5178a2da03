use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// A number of permits, and the events that wait for one, in order.
///
/// A released permit goes to the first event that waits, so no later event overtakes it.
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

const WAITING: u8 = 0;
/// The waiter has a permit.
const GRANTED: u8 = 1;
/// The waiter has no permit, and no longer waits.
const DISMISSED: u8 = 2;

impl Semaphore {
    pub(super) fn new(permits: usize) -> Self {
        Self {
            free: permits,
            waiters: VecDeque::new(),
        }
    }

    /// Takes a permit if one is free. While an event waits, no permit is free.
    pub(super) fn try_acquire(&mut self) -> bool {
        let acquired = self.free > 0;
        self.free -= usize::from(acquired);
        acquired
    }

    pub(super) fn wait(&mut self, event: u64) -> Arc<Waiter> {
        let waiter = Arc::new(Waiter {
            event,
            state: AtomicU8::new(WAITING),
        });
        self.waiters.push_back(Arc::clone(&waiter));
        waiter
    }

    /// Releases a permit. If an event waits, gives it the permit, and returns the event's number.
    pub(super) fn release(&mut self) -> Option<u64> {
        while let Some(waiter) = self.waiters.pop_front() {
            if waiter.change(WAITING, GRANTED) {
                return Some(waiter.event);
            }
        }
        self.free += 1;
        None
    }

    /// Dismisses all waiters, and returns the numbers of their events.
    pub(super) fn dismiss(self) -> impl Iterator<Item = u64> {
        let waiters = self.waiters.into_iter();
        waiters.filter_map(|waiter| waiter.change(WAITING, DISMISSED).then_some(waiter.event))
    }
}

impl Waiter {
    /// Returns whether the event no longer waits.
    pub(super) fn is_called(&self) -> bool {
        self.state.load(Ordering::Acquire) != WAITING
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
