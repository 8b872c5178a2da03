//! Compares servers that do the same job over loopback, in one run.
//!
//! ```sh
//! cargo bench --bench loopback                         # requests per second, and CPU time of each
//! cargo bench --bench loopback -- growth               # times of the answers under growing load
//! cargo bench --bench loopback --features postgres     # also compares the inbox in PostgreSQL
//! ```
//!
//! If the machine has two cores and `taskset`, each server runs on one core and the load runs on the
//! other. The thread that writes to the disk then shares the server's core. `-- SECONDS CONNECTIONS…`
//! sets the time and the numbers of connections. If `free` precedes the numbers, the server may use all
//! cores, but the load still runs on one core. `-- growth SECONDS` sets the time per line of the table.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod growth;
mod load;
mod machine;
#[cfg(all(target_os = "linux", feature = "postgres"))]
#[allow(dead_code)] // the tests use more of it
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod process;
mod servers;

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::Duration;

pub(crate) type Fault = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["server", name, folder] => servers::run(name, Path::new(folder)),
        ["flood", address, path, connections, millis] => load::flood(
            address.parse()?,
            path,
            connections.parse()?,
            Duration::from_millis(millis.parse()?),
        ),
        ["pace", address, rate, millis] => load::pace(
            address.parse()?,
            rate.parse()?,
            Duration::from_millis(millis.parse()?),
        ),
        ["growth", "--bench"] => growth::measure(Duration::from_secs(4)),
        ["growth", seconds, "--bench"] => {
            growth::measure(Duration::from_secs_f64(seconds.parse()?))
        }
        ["free", arguments @ .., "--bench"] => bench(None, arguments),
        [arguments @ .., "--bench"] => bench(Some(0), arguments),
        // In test mode, each benchmark runs once and briefly.
        _ => {
            compare::measure(Some(0), Duration::from_millis(200), &[4])?;
            growth::measure(Duration::from_millis(200))
        }
    }
}

/// Runs the servers on `core`, or on all cores if it is `None`.
fn bench(core: Option<usize>, arguments: &[&str]) -> Result<(), Fault> {
    let [seconds, connections @ ..] = arguments else {
        return compare::measure(core, Duration::from_secs(4), &[32, 64, 256]);
    };
    let connections: Result<Vec<usize>, _> = connections.iter().map(|n| n.parse()).collect();
    let time = Duration::from_secs_f64(seconds.parse()?);
    compare::measure(core, time, &connections?)
}
