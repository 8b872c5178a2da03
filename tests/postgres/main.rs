//! The inbox in PostgreSQL, on real servers. `POSTGRES_BIN` names the directory of the server's programs.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod accept;
mod contract;
#[cfg(all(target_os = "linux", feature = "signal"))]
mod crash;
#[cfg(all(target_os = "linux", feature = "signal"))]
mod deployment;
mod exactly_once;
#[cfg(target_os = "linux")]
mod faults;
mod kit;
#[cfg(all(target_os = "linux", feature = "signal"))]
mod lost_answers;
mod opening;
mod ordering_key;
mod route_concurrency;
#[cfg(target_os = "linux")]
mod server;
mod sharing;
#[path = "../support/mod.rs"]
mod support;

#[test]
#[ignore = "other tests run this test in a child process"]
#[cfg(all(target_os = "linux", feature = "signal"))]
fn server() {
    deployment::run();
}
