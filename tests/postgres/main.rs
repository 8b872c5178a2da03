//! The inbox in PostgreSQL, on real servers. `POSTGRES_BIN` names the directory of the server's programs.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

#[cfg(target_os = "linux")]
mod server;
#[path = "../support/mod.rs"]
mod support;
