use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use metrics::{Key, Label, SharedString};

use super::catalog::{self, Metric};
use super::type_label::{Counted, TypeKeysOf};
use crate::event::{DOCUMENTED, EventType};

/// The outcomes of a route. A label has no spaces, unlike [`Outcome::as_str`](crate::Outcome::as_str).
const OUTCOMES: [(&str, &str); 6] = [
    ("handled", "handled"),
    ("failed", "failed"),
    ("panicked", "panicked"),
    ("mismatched", "mismatched"),
    ("timed out", "timed_out"),
    ("dropped", "dropped"),
];

/// The number of reasons that [`REQUESTS`] can hold. The receiver must not have more reasons.
const MAX_REASONS: usize = 24;

pub(super) static RECOVERED: Key = Key::from_static_name(catalog::RECOVERED.name);
pub(super) static REPLAYED: Key = Key::from_static_name(catalog::REPLAYED.name);
pub(super) static RETRIES: Key = Key::from_static_name(catalog::RETRIES.name);
pub(super) static DEAD_LETTERS_DROPPED: Key =
    Key::from_static_name(catalog::DEAD_LETTERS_DROPPED.name);
pub(super) static QUEUE: Key = Key::from_static_name(catalog::QUEUE.name);
pub(super) static IN_FLIGHT_BYTES: Key = Key::from_static_name(catalog::IN_FLIGHT_BYTES.name);
pub(super) static DEAD_LETTERS: Key = Key::from_static_name(catalog::DEAD_LETTERS.name);
pub(super) static OLDEST_EVENT_AGE: Key = Key::from_static_name(catalog::OLDEST_EVENT_AGE.name);
pub(super) static LAST_ACCEPTED: Key = Key::from_static_name(catalog::LAST_ACCEPTED.name);
pub(super) static LAG: Key = Key::from_static_name(catalog::LAG.name);

/// The keys of each documented event type, by its index in [`DOCUMENTED`].
static TYPES: [TypeKeys; DOCUMENTED.len()] = [const { TypeKeys::new() }; DOCUMENTED.len()];

/// The keys of all other event types.
static OTHER: TypeKeys = TypeKeys::new();

/// The keys of the receiver's reasons, in the order of their first use.
static REQUESTS: [OnceLock<RequestKeys>; MAX_REASONS] = [const { OnceLock::new() }; MAX_REASONS];

/// Builds a key that a recorder can keep without copying it.
pub(super) fn key<const N: usize>(
    metric: &Metric,
    labels: [(&'static str, SharedString); N],
) -> Key {
    let labels = labels.map(|(name, value)| Label::new(name, value));
    Key::from_parts(metric.name, Vec::from(labels)).to_retained()
}

/// Returns the keys of the events in flight: waiting, running and retrying.
pub(super) fn in_flight() -> &'static [Key; 3] {
    static KEYS: OnceLock<[Key; 3]> = OnceLock::new();
    KEYS.get_or_init(|| {
        ["waiting", "running", "retrying"]
            .map(|state| key(&catalog::IN_FLIGHT, [("state", state.into())]))
    })
}

/// The keys of one event type, built when the first event of this type is counted.
pub(super) struct TypeKeys(OnceLock<Box<[Key; 7]>>);

impl TypeKeys {
    const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Returns the key. `name` is the value of the label.
    pub(super) fn get(&self, name: &str, counted: Counted) -> &Key {
        let keys = self.0.get_or_init(|| {
            let name: Arc<str> = Arc::from(name);
            let received = |result: &'static str| {
                let name = SharedString::from(Arc::clone(&name));
                let labels = [("event_type", name), ("result", result.into())];
                key(&catalog::RECEIVED, labels)
            };
            let ended = |outcome: &'static str| {
                let name = SharedString::from(Arc::clone(&name));
                let labels = [("event_type", name), ("outcome", outcome.into())];
                key(&catalog::EVENTS, labels)
            };
            Box::new([
                received("accepted"),
                received("duplicate"),
                received("refused"),
                ended("handled"),
                ended("unhandled"),
                ended("dead"),
                ended("published"),
            ])
        });
        &keys[counted as usize]
    }
}

/// The keys of one route, built when the first run of this route is counted.
#[derive(Default)]
pub(super) struct RouteKeys {
    outcomes: OnceLock<Box<[(Key, Key); OUTCOMES.len()]>>,
    stalled: OnceLock<Key>,
}

impl RouteKeys {
    /// Returns the keys of the count and of the duration.
    pub(super) fn get(&self, route: &str, outcome: &str) -> Option<&(Key, Key)> {
        let index = OUTCOMES.iter().position(|(name, _)| *name == outcome)?;
        let keys = self.outcomes.get_or_init(|| {
            let route: Arc<str> = Arc::from(route);
            Box::new(OUTCOMES.map(|(_, outcome)| {
                let key = |metric| {
                    let route = SharedString::from(Arc::clone(&route));
                    key(metric, [("route", route), ("outcome", outcome.into())])
                };
                (key(&catalog::ATTEMPTS), key(&catalog::HANDLER))
            }))
        });
        Some(&keys[index])
    }
}

/// The keys of one reason: the count and the duration.
pub(super) struct RequestKeys {
    reason: &'static str,
    pub(super) count: Key,
    pub(super) duration: Key,
}

impl RequestKeys {
    pub(super) fn get(reason: &'static str) -> Option<&'static Self> {
        let mut keys = REQUESTS.iter().map(|slot| {
            slot.get_or_init(|| Self {
                reason,
                count: key(&catalog::REQUESTS, [("reason", reason.into())]),
                duration: key(&catalog::RESPONSE, [("reason", reason.into())]),
            })
        });
        keys.find(|keys| keys.reason == reason)
    }
}

/// The keys of an inbox's routes, and of the event types that the routes name.
#[derive(Default)]
pub(super) struct RouterKeys {
    routes: HashMap<Arc<str>, RouteKeys>,
    types: HashMap<Box<str>, TypeKeys>,
}

impl RouterKeys {
    pub(super) fn new<'a>(
        routes: impl Iterator<Item = Arc<str>>,
        types: impl Iterator<Item = &'a str>,
    ) -> Self {
        Self {
            routes: routes.map(|name| (name, RouteKeys::default())).collect(),
            types: types
                .map(|name| (Box::from(name), TypeKeys::new()))
                .collect(),
        }
    }

    /// Returns the keys of an event type, and the value of the label.
    pub(super) fn of_type(&self, event_type: &EventType) -> TypeKeysOf<'_> {
        if let Some(index) = event_type.index() {
            return (&TYPES[index], DOCUMENTED[index].as_str());
        }
        match self.types.get_key_value(event_type.as_str()) {
            Some((name, keys)) => (keys, name),
            None => Self::other(),
        }
    }

    /// Returns the keys of all types that are neither documented nor named by a route.
    pub(super) fn other() -> TypeKeysOf<'static> {
        (&OTHER, "other")
    }

    /// Calls `set` with the name of each route that the inbox knows, and with the key of the gauge.
    pub(super) fn each_route(&self, set: impl Fn(&str, &Key)) {
        for (route, keys) in &self.routes {
            let stalled = keys.stalled.get_or_init(|| {
                let route = SharedString::from(Arc::clone(route));
                key(&catalog::ROUTE_STALLED, [("route", route)])
            });
            set(route, stalled);
        }
    }

    /// Calls `write` with the keys of a route: the count and the duration.
    pub(super) fn with_route(&self, route: &str, outcome: &str, write: impl FnOnce(&(Key, Key))) {
        match self.routes.get(route) {
            Some(keys) => keys.get(route, outcome).map(write),
            // A layer hides the router from the inbox, so its routes aren't known in advance.
            None => RouteKeys::default().get(route, outcome).map(write),
        };
    }
}
