use std::collections::hash_map::{Entry, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::route_limits::Wake;
use super::semaphore::{Semaphore, Waiter};
use super::used_keys::{MAX_KEYS, RunKey, UsedKey, UsedKeys};
use crate::outcome::SkipReason;
use crate::telemetry;

/// The limits of one route in one inbox.
#[derive(Debug)]
pub(crate) struct RouteLimit {
    route: Arc<str>,
    wake: Arc<Wake>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Absent if any number of the route's handlers may run at once.
    permits: Option<Semaphore>,
    /// A semaphore with one permit for each key that a running event has.
    keys: HashMap<Arc<[u8]>, Semaphore>,
    used: UsedKeys,
    /// Whether the route has forgotten a key because it remembers too many keys.
    forgot_early: bool,
}

/// The answer to an event that asks whether the route may run.
#[derive(Debug)]
pub(crate) enum Answer {
    Run(RunPermit),
    Wait(Ticket),
    Skip(SkipReason),
}

/// Lets a route run for one event. Dropping the permit lets the route run for the next event.
#[derive(Debug)]
pub(crate) struct RunPermit {
    limit: Arc<RouteLimit>,
    has_permit: bool,
    key: Option<RunKey>,
}

/// The place of an event in a queue of the route. Dropping the ticket leaves the queue.
#[derive(Debug)]
pub(crate) struct Ticket {
    limit: Arc<RouteLimit>,
    /// The key that the event waits for, or `None` if it waits for a permit.
    key: Option<RunKey>,
    waiter: Arc<Waiter>,
}

impl RouteLimit {
    pub(super) fn new(
        route: Arc<str>,
        concurrency: Option<usize>,
        used: UsedKeys,
        wake: Arc<Wake>,
    ) -> Self {
        Self {
            route,
            wake,
            state: Mutex::new(State {
                permits: concurrency.map(Semaphore::new),
                keys: HashMap::new(),
                used,
                forgot_early: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides whether the route may run for an event now. `ticket` is the event's place in the queue, if it has waited.
    pub(super) fn ask(
        self: &Arc<Self>,
        event: u64,
        key: Option<RunKey>,
        ticket: Option<Ticket>,
    ) -> Answer {
        let mut permit = match ticket {
            Some(ticket) if ticket.waiter.stay() => return Answer::Wait(ticket),
            Some(ticket) => ticket.redeem(),
            None => self.permit(),
        };
        let had_key = permit.key.as_ref().map(|key| Arc::clone(&key.key));
        if had_key != key.as_ref().map(|key| Arc::clone(&key.key)) {
            // The closure has returned another key than before.
            permit.release_key();
        }
        let wait = |key, waiter| {
            Answer::Wait(Ticket {
                limit: Arc::clone(self),
                key,
                waiter,
            })
        };
        // `state` is dropped before `permit`, because dropping `permit` takes the lock.
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(key) = key {
            if let Some(of) = state.used.duplicate_of(&key) {
                return Answer::Skip(SkipReason::Duplicate { of });
            }
            if permit.key.is_none() {
                let running = state.keys.entry(Arc::clone(&key.key));
                let running = running.or_insert_with(|| Semaphore::new(1));
                if !running.try_acquire() {
                    let waiter = running.wait(event);
                    return wait(Some(key), waiter);
                }
                permit.key = Some(key);
            }
        }
        if !permit.has_permit
            && let Some(permits) = &mut state.permits
        {
            if !permits.try_acquire() {
                let waiter = permits.wait(event);
                return wait(None, waiter);
            }
            permit.has_permit = true;
        }
        Answer::Run(permit)
    }

    /// See [`UsedKeys::expire`].
    pub(super) fn expire(&self, horizon: u64) {
        self.lock().used.expire(horizon);
    }

    /// Returns a permit that holds nothing.
    fn permit(self: &Arc<Self>) -> RunPermit {
        RunPermit {
            limit: Arc::clone(self),
            has_permit: false,
            key: None,
        }
    }

    fn release_permit(&self) {
        let next = self.lock().permits.as_mut().and_then(Semaphore::release);
        next.into_iter().for_each(|event| self.wake.wake(event));
    }

    fn release_key(&self, key: &Arc<[u8]>) {
        let next = match self.lock().keys.entry(Arc::clone(key)) {
            Entry::Vacant(_) => None,
            Entry::Occupied(mut running) => {
                let next = running.get_mut().release();
                if running.get().is_unused() {
                    running.remove();
                }
                next
            }
        };
        next.into_iter().for_each(|event| self.wake.wake(event));
    }

    /// Forgets a key that an event has stopped to wait for, if no other event has the key or waits for it.
    fn stop_waiting(&self, key: &Arc<[u8]>) {
        if let Entry::Occupied(running) = self.lock().keys.entry(Arc::clone(key))
            && running.get().is_unused()
        {
            running.remove();
        }
    }
}

impl RunPermit {
    /// Records that the route has handled the event at `now`. If the event has a key, returns the key, and wakes the events that
    /// wait for the key.
    pub(super) fn succeed(&mut self, now: u64) -> Option<UsedKey> {
        let run = self.key.take()?;
        let (forgotten, forgot_early, waiting) = {
            let mut state = self.limit.lock();
            let forgotten = state.used.insert(run.clone(), now, MAX_KEYS);
            let is_early = |run: &RunKey| run.accepted_at.saturating_add(run.window) >= now;
            let forgot_early = forgotten.as_ref().is_some_and(is_early)
                && !std::mem::replace(&mut state.forgot_early, true);
            let waiting = state.keys.remove(&run.key);
            let waiting = waiting.into_iter().flat_map(Semaphore::dismiss);
            (forgotten, forgot_early, waiting.collect::<Vec<_>>())
        };
        if forgot_early {
            telemetry::route_keys_forgotten_early(&self.limit.route, MAX_KEYS);
        }
        let waiting = waiting.into_iter();
        waiting.for_each(|event| self.limit.wake.wake(event));
        Some(UsedKey {
            route: Arc::clone(&self.limit.route),
            run,
            used_at: now,
            forgotten: forgotten.map(|run| run.event),
        })
    }

    fn release_key(&mut self) {
        if let Some(key) = self.key.take() {
            self.limit.release_key(&key.key);
        }
    }
}

impl Drop for RunPermit {
    fn drop(&mut self) {
        self.release_key();
        if self.has_permit {
            self.limit.release_permit();
        }
    }
}

impl Ticket {
    /// Lets the limit call the event from now on, because no other route of the event runs. Returns whether the event no longer
    /// waits.
    pub(crate) fn park(&self) -> bool {
        let mut state = self.limit.lock();
        let semaphore = match &self.key {
            Some(run) => state.keys.get_mut(&run.key),
            None => state.permits.as_mut(),
        };
        match semaphore {
            Some(semaphore) => semaphore.park(&self.waiter),
            None => drop(self.waiter.dismiss()),
        }
        self.waiter.is_called()
    }

    /// Turns the ticket into a permit. If the event got a permit or the key while it waited, the returned permit has it.
    fn redeem(mut self) -> RunPermit {
        let mut permit = self.limit.permit();
        if self.waiter.end() {
            permit.has_permit = self.key.is_none();
            permit.key = self.key.take();
        }
        permit
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.waiter.end() {
            drop(RunPermit {
                limit: Arc::clone(&self.limit),
                has_permit: self.key.is_none(),
                key: self.key.take(),
            });
        } else if let Some(run) = &self.key {
            self.limit.stop_waiting(&run.key);
        }
    }
}
