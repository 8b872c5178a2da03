//! The metrics that the crate's own threads record. They use the recorder of the process.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod recorded;
#[cfg(feature = "sqlite")]
mod sqlite;
#[path = "../support/mod.rs"]
mod support;
