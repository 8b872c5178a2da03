//! Measures the answers and their times at 10%, 50%, 90% and 200% of a server's capacity.

use std::time::Duration;

use crate::Fault;
use crate::machine;
use crate::process::{Folder, Process};

/// The name and the description of each server. A description may state what limits the server.
const SERVERS: [(&str, &str); 3] = [
    ("memory", "in memory; the limit is the processor"),
    (
        "slow",
        "in memory, 1,000 events; limited by handlers that take 20 ms",
    ),
    ("sqlite", "on disk"),
];

const LOADS: [u32; 4] = [10, 50, 90, 200];

/// Measures each server under each load for `time`, and prints one table.
pub(crate) fn measure(time: Duration) -> Result<(), Fault> {
    println!("{}", machine::name());
    println!("times in µs, until the 200 and until the slowest answer; 256 connections\n");
    for (name, what) in SERVERS {
        let flood = pace(name, 0, time)?;
        let capacity = flood.taken / time.as_secs_f64();
        println!("{name}, {what}: {capacity:.0} events/s");
        println!(
            "{:>5} {:>10} {:>10} {:>6} {:>6} {:>6} {:>8} {:>8} {:>8} {:>8}",
            "load", "200", "503", "other", "none", "late", "p50", "p99", "p99.9", "slowest"
        );
        for load in LOADS {
            let rate = capacity * f64::from(load) / 100.0;
            let seen = pace(name, (rate as u32).max(1), time)?;
            let [refused, other, unanswered, late, p50, p99, p999, slowest] = seen.rest;
            println!(
                "{load:>4}% {:>10} {refused:>10} {other:>6} {unanswered:>6} {late:>6} {p50:>8} {p99:>8} {p999:>8} {slowest:>8}",
                seen.taken,
            );
        }
        println!();
    }
    Ok(())
}

/// The numbers that the load generator printed.
struct Seen {
    /// The number of 200 answers.
    taken: f64,
    rest: [u64; 8],
}

fn pace(name: &str, rate: u32, time: Duration) -> Result<Seen, Fault> {
    let folder = Folder::new(name)?;
    let mut server = Process::start(Some(0), &["server", name, folder.path()])?;
    let address = server.line()?;
    let (text, millis) = (rate.to_string(), time.as_millis().to_string());
    let run = || -> Result<String, Fault> {
        let mut load = Process::start(Some(1), &["pace", &address, &text, &millis])?;
        let said = load.line()?;
        load.finish()?;
        Ok(said)
    };
    if rate == 0 {
        // The first run fills all queues. In later runs, the rate of 200 answers is the rate at which the queues empty.
        run()?;
    }
    let said = run()?;
    let numbers: Result<Vec<u64>, _> = said.split(' ').map(str::parse).collect();
    let [taken, rest @ ..] = <[u64; 9]>::try_from(numbers?).map_err(|_| "not nine numbers")?;
    Ok(Seen {
        taken: taken as f64,
        rest,
    })
}
