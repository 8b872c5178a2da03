use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::catch_panic::catch_panic;
use crate::event::Event;
use crate::outcome::RunKey;
use crate::runtime::{millis, to_millis};
use crate::telemetry;

/// The maximum length of a key, in bytes. The limit bounds memory, because an inbox remembers many keys.
const MAX_KEY: usize = 255;

/// The option [`once_per`](crate::EventRouter::once_per) of a route.
#[derive(Clone)]
pub(super) struct OncePer {
    /// In milliseconds.
    window: u64,
    key: Arc<KeyOf>,
}

type KeyOf = dyn Fn(&Event) -> Option<Arc<[u8]>> + Send + Sync;

impl OncePer {
    pub(super) fn new<K: AsRef<[u8]>>(
        window: Duration,
        key: impl Fn(&Event) -> Option<K> + Send + Sync + 'static,
    ) -> Self {
        Self {
            window: millis(window),
            key: Arc::new(move |event| key(event).map(|key| Arc::from(key.as_ref()))),
        }
    }

    /// Returns the key of an event. If the closure panics, or if the key is too long, the event has no key: the route then
    /// runs, because a lost event is worse than a second run.
    pub(super) fn key(&self, route: &str, event: &Event, number: u64) -> Option<RunKey> {
        let key = catch_panic(|| (self.key)(event)).unwrap_or_else(|_| {
            telemetry::hook_panicked("once_per");
            None
        })?;
        if key.len() > MAX_KEY {
            telemetry::route_key_too_long(route, event.id(), key.len());
            return None;
        }
        Some(RunKey {
            key,
            window: self.window,
            event: number,
            accepted_at: to_millis(event.received_at()),
            message_id: Arc::from(event.id()),
        })
    }
}

impl fmt::Debug for OncePer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OncePer")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}
