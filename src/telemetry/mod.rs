//! Reports events, requests and faults to the log. Each kind of occurrence has one function.
//!
//! Other modules call these functions with plain values. No value is a secret or a payload, and no function panics. To
//! report an occurrence elsewhere too, for example in a counter, change only this folder.

// Without `tracing` or `metrics`, some functions don't use their arguments.
#![cfg_attr(
    not(all(feature = "tracing", feature = "metrics")),
    allow(
        unused_variables,
        unused_mut,
        clippy::needless_pass_by_value,
        clippy::unused_self
    )
)]

#[macro_use]
mod log;

mod adopt;
mod delivery;
mod health;
mod inbox;
#[cfg(feature = "inspector")]
mod inspector;
mod jetstream;
mod metrics;
mod one_line;
#[cfg(feature = "postgres")]
mod postgres;
mod receiver;
mod router;
mod shutdown;
mod span;

pub(crate) use self::adopt::AdoptTraceparent;
pub(crate) use self::delivery::{
    DeadLetterInfo, FailedAttempt, FailureText, attempt_failed, event_dead_lettered, event_handled,
    event_unhandled, hook_panicked, route_handled, route_skipped, routes_never_match,
};
pub(crate) use self::health::{health_problem, health_problem_ended};
pub(crate) use self::inbox::{
    drained, draining, event_accepted, event_duplicate, ids_forgotten_early, inbox_corrupt,
    inbox_failing, inbox_recovered, inbox_wal_missing,
};
#[cfg(feature = "inspector")]
pub(crate) use self::inspector::inspector_action;
pub(crate) use self::jetstream::{
    consumer_recreated, fallback_without_events, worker_recovered, worker_stalled, worker_started,
};
pub(crate) use self::metrics::{
    Counted, CountedType, InFlight, Metrics, PendingCounts, Sample, Stopwatch,
};
#[cfg(feature = "postgres")]
pub(crate) use self::postgres::{events_released, lease_lost};
pub(crate) use self::receiver::{
    PathMiss, path_missed, receiver_started, secret_missing, verify_missing, webhook_rejected,
};
pub(crate) use self::router::{
    route_key_too_long, route_keys_forgotten_early, router_without_routes, undocumented_pattern,
};
pub(crate) use self::shutdown::{
    server_not_closed, shutdown_finished, shutdown_interrupted, shutdown_started,
};
pub(crate) use self::span::{AttemptId, AttemptSpan, ParentSpan, RouteSpan};
