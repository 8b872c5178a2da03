use std::fmt;
use std::sync::{Arc, PoisonError};

use crate::catch_panic::catch_panic;
use crate::sync::RwLock;
use crate::telemetry;

/// The user's closures, each called with every `T`. If a closure panics, the others are still called.
pub(crate) struct Hooks<T> {
    name: &'static str,
    /// `add` replaces the whole list, so no lock is held while a hook runs. A hook may add another hook.
    hooks: RwLock<Arc<[Hook<T>]>>,
}

type Hook<T> = Arc<dyn Fn(&T) + Send + Sync>;

impl<T> Hooks<T> {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            hooks: RwLock::new(Arc::new([])),
        }
    }

    pub(crate) fn add(&self, hook: Hook<T>) {
        let mut hooks = self.hooks.write().unwrap_or_else(PoisonError::into_inner);
        *hooks = hooks.iter().cloned().chain([hook]).collect();
    }

    pub(crate) fn notify(&self, value: &T) {
        for hook in self.hooks().iter() {
            if catch_panic(|| hook(value)).is_err() {
                telemetry::hook_panicked(self.name);
            }
        }
    }

    fn hooks(&self) -> Arc<[Hook<T>]> {
        Arc::clone(&self.hooks.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Copies the list of hooks. A hook that is added later to one list isn't in the other list.
impl<T> Clone for Hooks<T> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            hooks: RwLock::new(self.hooks()),
        }
    }
}

impl<T> fmt::Debug for Hooks<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} hooks", self.hooks().len(), self.name)
    }
}
