use std::fmt;
use std::sync::Arc;

use super::OrderKey;
use crate::catch_panic::catch_panic;
use crate::event::Event;
use crate::telemetry;

/// The user's closure that returns an event's ordering key, if the user has set one.
#[derive(Clone, Default)]
pub(crate) struct OrderBy {
    key: Option<Arc<KeyOf>>,
}

type KeyOf = dyn Fn(&Event) -> Option<OrderKey> + Send + Sync;

impl OrderBy {
    pub(crate) fn new<K: AsRef<[u8]>>(
        key: impl Fn(&Event) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        let key = move |event: &Event| key(event).map(|key| OrderKey::from(key.as_ref()));
        Self {
            key: Some(Arc::new(key)),
        }
    }

    /// Returns whether the user has set a key.
    pub(crate) fn is_set(&self) -> bool {
        self.key.is_some()
    }

    /// Returns the ordering key of an event. If the closure panics, the event has no key. If the inbox refused the event
    /// instead, the sender would retry it for days.
    pub(crate) fn key(&self, event: &Event) -> Option<OrderKey> {
        let key = self.key.as_ref()?;
        catch_panic(|| key(event)).unwrap_or_else(|_| {
            telemetry::hook_panicked("ordering_key");
            None
        })
    }
}

impl fmt::Debug for OrderBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_set() { "by key" } else { "none" })
    }
}
