//! The memory inbox, and the delivery code that all inboxes share.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

#[cfg(feature = "tokio")]
mod attempts;
#[cfg(feature = "tokio")]
mod clock;
#[cfg(feature = "tokio")]
mod contract;
#[cfg(feature = "tokio")]
mod dead_letters;
#[cfg(feature = "tokio")]
mod duplicates;
#[cfg(feature = "tokio")]
mod events;
#[cfg(feature = "tokio")]
mod fresh_within;
#[cfg(feature = "tokio")]
mod health;
#[cfg(feature = "tokio")]
mod hostile_code;
#[cfg(feature = "tokio")]
mod inbox;
#[cfg(all(feature = "tokio", feature = "tracing"))]
mod log_lines;
mod log_table;
#[cfg(feature = "tokio")]
mod once_per;
#[cfg(all(feature = "tokio", feature = "tracing"))]
mod open_telemetry;
#[cfg(feature = "tokio")]
mod ordering_key;
mod other_runtime;
#[cfg(feature = "tokio")]
mod replays;
#[cfg(feature = "tokio")]
mod route_concurrency;
#[cfg(feature = "tokio")]
mod route_policies;
#[cfg(feature = "tokio")]
mod route_timeout;
#[cfg(feature = "tokio")]
mod shutdown;
#[cfg(all(feature = "tokio", feature = "tracing"))]
mod spans;
#[path = "../support/mod.rs"]
mod support;
