//! Servers that do the same job over loopback, side by side in one run.
//!
//! ```sh
//! cargo bench --bench loopback                         # requests per second, and CPU time of each
//! cargo bench --bench loopback -- growth               # how fast the 200 comes under more and more load
//! ```
//!
//! Each server is a process on a core of its own, and so is the load, where the machine has two cores
//! and `taskset`: so the thread that writes to the disk shares the core of the one that serves.
//! `-- SECONDS CONNECTIONS…` sets how long each is measured and with how many connections; with `free`
//! before that the servers may use all cores, of which the load has one too. `-- growth SECONDS` sets
//! the time of each line.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod growth;
mod load;
mod machine;
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
        // As a test: each once, for a moment.
        _ => {
            compare::measure(Some(0), Duration::from_millis(200), &[4])?;
            growth::measure(Duration::from_millis(200))
        }
    }
}

/// `core` is that of the servers, unless they may use all.
fn bench(core: Option<usize>, arguments: &[&str]) -> Result<(), Fault> {
    let [seconds, connections @ ..] = arguments else {
        return compare::measure(core, Duration::from_secs(4), &[32, 64, 256]);
    };
    let connections: Result<Vec<usize>, _> = connections.iter().map(|n| n.parse()).collect();
    let time = Duration::from_secs_f64(seconds.parse()?);
    compare::measure(core, time, &connections?)
}
