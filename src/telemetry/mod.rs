//! Reports what happens to requests and events: one function per occurrence.
//!
//! Every other module calls these functions and passes plain values. No value is a secret or a payload, and no function
//! panics. Whatever else is to be reported of an occurrence, for example a counter, is added in this folder only.

// Lines that aren't written use nothing.
#![cfg_attr(not(feature = "tracing"), allow(unused_variables, clippy::unused_self))]

#[macro_use]
mod log;

mod delivery;
mod inbox;
mod jetstream;
mod receiver;
mod router;
mod span;

pub(crate) use self::delivery::{
    AttemptInfo, attempt_finished, event_dead_lettered, event_finished, hook_panicked,
    route_finished,
};
pub(crate) use self::inbox::{
    event_accepted, event_duplicate, ids_forgotten_early, inbox_corrupt, inbox_failing,
    inbox_recovered, inbox_wal_missing,
};
pub(crate) use self::jetstream::{
    consumer_recreated, events_delayed, fallback_without_events, worker_recovered, worker_stalled,
};
pub(crate) use self::receiver::{verify_missing, webhook_rejected};
pub(crate) use self::router::undocumented_pattern;
pub(crate) use self::span::ParentSpan;
