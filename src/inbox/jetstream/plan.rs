use std::sync::Arc;

use super::subjects::{Subjects, encoded};
use crate::outcome::AttemptState;
use crate::router::EventRouter;

/// The prefix of a consumer's name if its route has a long name. A hash follows the prefix. No encoded name has this prefix.
const HASHED: &str = "=h";

/// The maximum size of a consumer's name, in bytes. The server accepts 255 bytes, and names a directory after the consumer.
const MAX_NAME: usize = 200;

/// A consumer of a group, and the routes that it runs.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// The route's name, or `long`.
    pub(super) name: Arc<str>,
    pub(super) consumer: String,
    pub(super) filter: String,
    pub(super) max_ack_pending: i64,
    pub(super) selection: RouteSelection,
}

/// The routes that run a consumer's events.
#[derive(Clone, Debug)]
pub(super) enum RouteSelection {
    /// This route.
    One(Arc<str>),
    /// The fallback with this name.
    Fallback(Arc<str>),
    /// All matching routes except these routes, because their own consumers get every event.
    Rest(Vec<Arc<str>>),
}

/// Returns the consumers of a router. The last consumer gets the events whose type is too long for a subject, because no route's
/// filter matches them.
pub(super) fn plans(
    router: &EventRouter,
    group: &str,
    subjects: &Subjects,
    fallback: bool,
    max_ack_pending: impl Fn(&str) -> u32,
) -> Vec<Plan> {
    let mut unfiltered = Vec::new();
    let mut plans = Vec::new();
    for route in router.routes() {
        let name = route.shared_name();
        let (filter, selection) = match route.pattern() {
            Some(pattern) => (
                subjects.filter(pattern),
                RouteSelection::One(Arc::clone(&name)),
            ),
            None => {
                unfiltered.push(Arc::clone(&name));
                let all = Some(subjects.all());
                match route.is_fallback() {
                    true if !fallback => continue,
                    true => (all, RouteSelection::Fallback(Arc::clone(&name))),
                    false => (all, RouteSelection::One(Arc::clone(&name))),
                }
            }
        };
        // If a route has no filter, the last consumer gets every event of the route.
        if let Some(filter) = filter {
            plans.push(Plan {
                consumer: consumer(group, &name),
                max_ack_pending: i64::from(max_ack_pending(&name)),
                name,
                filter,
                selection,
            });
        }
    }
    plans.push(Plan {
        name: Arc::from("long"),
        consumer: format!("{group}-=long"),
        filter: subjects.long(),
        max_ack_pending: i64::from(max_ack_pending("long")),
        selection: RouteSelection::Rest(unfiltered),
    });
    plans
}

/// Returns the name of a route's consumer.
fn consumer(group: &str, route: &str) -> String {
    let name = format!("{group}-{}", encoded(route));
    if name.len() <= MAX_NAME {
        return name;
    }
    format!("{group}-{HASHED}{:016x}", hash(route))
}

/// Returns a short hash of a consumer's name.
pub(super) fn digest(consumer: &str) -> String {
    format!("{:08x}", hash(consumer) >> 32)
}

/// Hashes with FNV-1a, which gives the same hash in all versions of this crate and of Rust.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Plan {
    /// Returns the state of an attempt that doesn't run the `finished` routes.
    pub(super) fn attempt_state(
        &self,
        attempt: std::num::NonZeroU32,
        finished: Vec<Arc<str>>,
    ) -> Arc<AttemptState> {
        Arc::new(match &self.selection {
            RouteSelection::One(route) | RouteSelection::Fallback(route) => {
                AttemptState::only(attempt, Arc::clone(route))
            }
            RouteSelection::Rest(unfiltered) => {
                let skipped = unfiltered.iter().cloned().chain(finished);
                AttemptState::new(attempt, skipped.collect())
            }
        })
    }
}
