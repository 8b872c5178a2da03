//! The inbox in PostgreSQL, on real servers. `POSTGRES_BIN` names the directory of the server's programs.
#![cfg(unix)]
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod contract;
#[cfg(all(target_os = "linux", feature = "signal"))]
mod crash;
#[cfg(all(target_os = "linux", feature = "signal"))]
mod deployment;
#[cfg(target_os = "linux")]
mod server;
#[path = "../support/mod.rs"]
mod support;

use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Config, NoTls};

/// Returns a pool with at most `size` connections.
pub(crate) fn pool(url: &str, size: usize) -> Pool {
    let config: Config = url.parse().unwrap();
    let manager = Manager::new(config, NoTls);
    Pool::builder(manager).max_size(size).build().unwrap()
}

#[test]
#[ignore = "other tests run this test in a child process"]
#[cfg(all(target_os = "linux", feature = "signal"))]
fn server() {
    deployment::run();
}
