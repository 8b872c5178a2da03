//! The inbox on disk in one process. The tests in `process` kill processes.
#![cfg(all(feature = "sqlite", feature = "tokio"))]
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod accept;
mod attempts;
mod clock;
mod contract;
mod dead_letters;
mod events;
#[cfg(unix)]
mod file;
#[cfg(unix)]
mod files;
mod fresh_within;
mod health;
mod hostile_code;
mod once_per;
#[cfg(feature = "tracing")]
mod open_telemetry;
mod opening;
mod ordering_key;
mod other_connections;
mod paused_time;
mod recovery;
mod replays;
mod route_concurrency;
mod route_policies;
#[path = "../support/mod.rs"]
mod support;
mod traceparent;
