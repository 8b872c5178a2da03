//! The memory and the allocations of a process, and receivers in child processes that the tests load, limit and
//! kill.
#![cfg(all(unix, feature = "signal", feature = "sqlite"))]
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod allocations;
mod crash;
#[cfg(target_os = "linux")]
mod crowds;
#[cfg(target_os = "linux")]
mod faults;
mod files;
#[cfg(target_os = "linux")]
mod idle;
mod once_per;
#[cfg(target_os = "linux")]
mod shutdown;
#[cfg(target_os = "linux")]
mod soak;
#[path = "../support/mod.rs"]
mod support;

#[test]
#[ignore = "other tests run this test in a child process"]
fn server() {
    support::server::serve();
}
