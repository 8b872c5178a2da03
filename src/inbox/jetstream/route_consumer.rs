use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::subjects::{Subjects, encoded};
use super::worker_options::WorkerOptions;
use crate::outcome::AttemptState;
use crate::router::{EventRouter, Route};

/// The prefix of a consumer's name if its route has a long name. A hash follows the prefix. No encoded name has this prefix.
const HASHED: &str = "=h";

/// The maximum size of a consumer's name, in bytes. The server accepts 255 bytes, and names a directory after the consumer.
const MAX_NAME: usize = 200;

/// A route of a worker: its consumer and its running events.
pub(super) struct RouteConsumer {
    /// The route's name, or `long`.
    pub(super) name: Arc<str>,
    pub(super) consumer: String,
    pub(super) filter: String,
    pub(super) max_ack_pending: i64,
    pub(super) selection: RouteSelection,
    /// One permit for each event that may run at once.
    pub(super) permits: Arc<Semaphore>,
    state: Mutex<State>,
}

/// The routes that run a consumer's events.
pub(super) enum RouteSelection {
    /// The route of this name.
    One,
    /// The fallback of this name.
    Fallback,
    /// All matching routes except these routes, because their own consumers get every event.
    Rest(Vec<Arc<str>>),
}

struct State {
    /// The consumer's `ack_wait`. An operator can change it.
    ack_wait: Duration,
    /// The consumer sequence of the latest delivery.
    delivered: u64,
    /// The stream sequences of the running events.
    running: HashSet<u64>,
}

/// Returns the routes of a router that need a consumer. The last consumer gets the events whose type is too long for a subject,
/// because no route's filter matches them.
pub(super) fn routes(
    router: &EventRouter,
    subjects: &Subjects,
    options: &WorkerOptions,
    concurrency: usize,
) -> Vec<Arc<RouteConsumer>> {
    let new = |name: Arc<str>, consumer, filter, selection| {
        let max_ack_pending = options.route_max_ack_pending.get(&*name).copied();
        let mut limits = router.routes().filter(|route| route.name() == &*name);
        let permits = limits.find_map(Route::concurrency);
        let permits = permits.unwrap_or(concurrency).min(Semaphore::MAX_PERMITS);
        Arc::new(RouteConsumer {
            max_ack_pending: max_ack_pending.unwrap_or(options.max_ack_pending).into(),
            permits: Arc::new(Semaphore::new(permits)),
            state: Mutex::new(State {
                ack_wait: options.ack_wait,
                delivered: 0,
                running: HashSet::new(),
            }),
            name,
            consumer,
            filter,
            selection,
        })
    };
    let (mut unfiltered, mut routes) = (Vec::new(), Vec::new());
    for route in router.routes() {
        let name = route.shared_name();
        let (filter, selection) = match route.pattern() {
            Some(pattern) => (subjects.filter(pattern), RouteSelection::One),
            None => {
                unfiltered.push(Arc::clone(&name));
                match route.is_fallback() {
                    true if !options.deliver_fallback => continue,
                    true => (Some(subjects.all()), RouteSelection::Fallback),
                    false => (Some(subjects.all()), RouteSelection::One),
                }
            }
        };
        // If a route has no filter, the last consumer gets every event of the route.
        if let Some(filter) = filter {
            let consumer = consumer(&options.group, &name);
            routes.push(new(name, consumer, filter, selection));
        }
    }
    let (name, consumer) = (Arc::from("long"), format!("{}-=long", options.group));
    let rest = RouteSelection::Rest(unfiltered);
    routes.push(new(name, consumer, subjects.long(), rest));
    routes
}

/// Returns the name of a route's consumer.
pub(super) fn consumer(group: &str, route: &str) -> String {
    let name = format!("{group}-{}", encoded(route));
    if name.len() <= MAX_NAME {
        return name;
    }
    format!("{group}-{HASHED}{:016x}", fnv(route))
}

/// Returns the FNV-1a hash of a text, which is the same in all versions of this crate and of Rust.
pub(super) fn fnv(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl RouteConsumer {
    /// Returns the state of an attempt that doesn't run the `finished` routes, and runs only the route `only` if it is present.
    pub(super) fn attempt_state(
        &self,
        attempt: NonZeroU32,
        finished: Vec<Arc<str>>,
        only: Option<Arc<str>>,
    ) -> AttemptState {
        match &self.selection {
            RouteSelection::One | RouteSelection::Fallback => {
                AttemptState::only(attempt, Arc::clone(&self.name))
            }
            RouteSelection::Rest(unfiltered) => {
                let skipped = unfiltered.iter().cloned().chain(finished);
                AttemptState::new(attempt, skipped.collect()).limited_to(only)
            }
        }
    }

    pub(super) fn set_ack_wait(&self, ack_wait: Duration) {
        self.state().ack_wait = ack_wait;
    }

    pub(super) fn ack_wait(&self) -> Duration {
        self.state().ack_wait
    }

    /// Records a delivery. Returns whether the consumer's sequence has fallen because the consumer was recreated.
    pub(super) fn is_recreated(&self, consumer_sequence: u64) -> bool {
        std::mem::replace(&mut self.state().delivered, consumer_sequence) > consumer_sequence
    }

    /// Marks an event as running until the guard is dropped. Returns `None` if the event is already running. The server may
    /// redeliver a running event after this process was suspended or the consumer was recreated.
    pub(super) fn begin(self: &Arc<Self>, sequence: u64) -> Option<RunGuard> {
        self.state().running.insert(sequence).then(|| RunGuard {
            route: Arc::clone(self),
            sequence,
        })
    }

    /// Returns whether this worker runs an event.
    pub(super) fn is_running(&self, sequence: u64) -> bool {
        self.state().running.contains(&sequence)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No user code runs under the lock, so the state is consistent even if the lock is poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks an event as running.
pub(super) struct RunGuard {
    route: Arc<RouteConsumer>,
    sequence: u64,
}

impl Drop for RunGuard {
    fn drop(&mut self) {
        self.route.state().running.remove(&self.sequence);
    }
}
