use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::route_limit::{Answer, RouteLimit, Ticket};
use super::used_keys::{MAX_KEYS, RunKey, UsedKey, UsedKeys};

/// The limits of all routes in one inbox.
#[derive(Debug, Default)]
pub(crate) struct RouteLimits {
    routes: Mutex<Routes>,
    wake: Arc<Wake>,
}

#[derive(Debug, Default)]
struct Routes {
    limits: HashMap<Arc<str>, Arc<RouteLimit>>,
    /// The keys that earlier processes used for routes that haven't run in this process yet.
    restored: HashMap<Arc<str>, UsedKeys>,
}

/// Wakes an event of the inbox.
#[derive(Default)]
pub(super) struct Wake {
    wake: OnceLock<Box<WakeEvent>>,
}

type WakeEvent = dyn Fn(u64) + Send + Sync;

impl RouteLimits {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how the inbox wakes a waiting event. A second call has no effect. `wake` returns the function that wakes an event by its
    /// number.
    ///
    /// The woken event asks again. The call may come from any thread, even while a handler is dropped. The inbox ignores a call
    /// for an event that isn't waiting.
    fn wake_with<W>(&self, wake: impl FnOnce() -> W)
    where
        W: Fn(u64) + Send + Sync + 'static,
    {
        self.wake.wake.get_or_init(|| Box::new(wake()));
    }

    /// Wakes waiting events through `inbox` by this function, unless that is set. The limits don't keep the inbox alive.
    pub(crate) fn wake_through<I: Send + Sync + 'static>(
        &self,
        inbox: &Arc<I>,
        wake: fn(&Arc<I>, u64),
    ) {
        self.wake_with(|| {
            let inbox = Arc::downgrade(inbox);
            move |number| {
                if let Some(inbox) = inbox.upgrade() {
                    wake(&inbox, number);
                }
            }
        });
    }

    /// Decides whether a route may run for an event now. `concurrency` is the route's limit.
    pub(super) fn ask(
        &self,
        route: &Arc<str>,
        concurrency: Option<usize>,
        event: u64,
        key: Option<RunKey>,
        ticket: Option<Ticket>,
    ) -> Answer {
        let limit = {
            let mut routes = self.routes();
            let Routes { limits, restored } = &mut *routes;
            let limit = limits.entry(Arc::clone(route)).or_insert_with(|| {
                let used = restored.remove(route).unwrap_or_default();
                let (route, wake) = (Arc::clone(route), Arc::clone(&self.wake));
                Arc::new(RouteLimit::new(route, concurrency, used, wake))
            });
            Arc::clone(limit)
        };
        limit.ask(event, key, ticket)
    }

    /// Adds a key that an earlier process used. The inbox calls this in the order of use, before the first event runs.
    #[cfg(feature = "sqlite")]
    pub(crate) fn restore(&self, key: UsedKey) {
        let mut routes = self.routes();
        let used = routes.restored.entry(key.route).or_default();
        used.insert(key.run, key.used_at, MAX_KEYS);
    }

    /// Forgets the keys that no unfinished event can share. `horizon` is the time at which the inbox accepted its oldest
    /// unfinished event, in milliseconds since the Unix epoch. If every event has ended, `horizon` is the current time.
    pub(crate) fn expire(&self, horizon: u64) {
        let mut routes = self.routes();
        let restored = routes.restored.values_mut();
        restored.for_each(|used| used.expire(horizon));
        let limits: Vec<_> = routes.limits.values().cloned().collect();
        drop(routes);
        limits.iter().for_each(|limit| limit.expire(horizon));
    }
}

impl Wake {
    pub(super) fn wake(&self, event: u64) {
        if let Some(wake) = self.wake.get() {
            wake(event);
        }
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wake").finish_non_exhaustive()
    }
}
