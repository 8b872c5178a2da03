//! Metrics that threads of the crate record: the recorder is the one of the process.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod recorded;
#[cfg(feature = "sqlite")]
mod sqlite;
#[path = "../support/mod.rs"]
mod support;
