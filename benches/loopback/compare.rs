//! Measures the requests per second and the CPU time per request of every server.

use std::time::Duration;

use crate::Fault;
use crate::common::PATH;
use crate::machine;
#[cfg(all(target_os = "linux", feature = "postgres"))]
use crate::postgres::{Fsync, PostgresServer};
use crate::process::{Folder, Process};

/// The servers: name, description, and path of the requests.
const SERVERS: &[(&str, &str, &str)] = &[
    ("bare", "hyper, reading the body and answering 200", PATH),
    ("memory", "this crate, in memory", PATH),
    ("axum", "handwritten on axum: decode, match, spawn", PATH),
    ("sqlite", "this crate, on disk", PATH),
    ("kept", "this crate, on disk, keeping handled events", PATH),
    (
        "commit",
        "handwritten on axum: one insert and one commit each",
        PATH,
    ),
    #[cfg(all(target_os = "linux", feature = "postgres"))]
    ("postgres", "this crate, in PostgreSQL", PATH),
    #[cfg(all(target_os = "linux", feature = "postgres"))]
    (
        "insert",
        "handwritten on axum: one insert into PostgreSQL each",
        PATH,
    ),
    ("home", "GET /, without the layer", "/"),
    ("through", "GET /, through the layer", "/"),
];

/// Measures every server with each number of connections, and prints a table for each.
pub(crate) fn measure(
    core: Option<usize>,
    time: Duration,
    connections: &[usize],
) -> Result<(), Fault> {
    println!("{}", machine::name());
    let fsync = machine::fsync()?.as_secs_f64() * 1e6;
    println!("fsync of 4 KiB: {fsync:.0} µs\n");
    for &connections in connections {
        println!("{connections} connections, {} s each", time.as_secs_f64());
        println!(
            "{:<8} {:>10} {:>12} {:>8}",
            "", "requests/s", "CPU µs each", "ratio"
        );
        let mut first = None;
        for &(name, what, path) in SERVERS {
            let measured = flood(core, name, path, connections, time)?;
            let base = *first.get_or_insert(measured.per_second);
            println!(
                "{name:<8} {:>10.0} {:>12.2} {:>8.3}  {what}",
                measured.per_second,
                measured.cpu.as_secs_f64() * 1e6,
                measured.per_second / base,
            );
            first = first.filter(|_| !is_last_of_webhooks(name));
        }
        println!();
    }
    Ok(())
}

/// Returns whether the next server does a different job, so that the ratio restarts.
fn is_last_of_webhooks(name: &str) -> bool {
    let next = SERVERS.iter().skip_while(|server| server.0 != name).nth(1);
    next.is_some_and(|server| server.0 == "home")
}

struct Measured {
    per_second: f64,
    /// The CPU time of the server, per request.
    cpu: Duration,
}

fn flood(
    core: Option<usize>,
    name: &str,
    path: &str,
    connections: usize,
    time: Duration,
) -> Result<Measured, Fault> {
    let folder = Folder::new(name)?;
    #[cfg(all(target_os = "linux", feature = "postgres"))]
    let database = matches!(name, "postgres" | "insert").then(|| {
        let folder = std::path::Path::new(folder.path());
        PostgresServer::start_in(folder, Fsync::On, "")
    });
    #[cfg(all(target_os = "linux", feature = "postgres"))]
    let place = match &database {
        Some(database) => database.url("postgres"),
        None => folder.path().to_owned(),
    };
    #[cfg(not(all(target_os = "linux", feature = "postgres")))]
    let place = folder.path().to_owned();
    let mut server = Process::start(core, &["server", name, &place])?;
    let address = server.line()?;
    let connections = connections.to_string();
    let run = |time: Duration| -> Result<(u64, Duration), Fault> {
        let millis = time.as_millis().to_string();
        let mut load = Process::start(Some(1), &["flood", &address, path, &connections, &millis])?;
        let said = load.line()?;
        load.finish()?;
        let (count, nanos) = said.split_once(' ').ok_or("no count")?;
        Ok((count.parse()?, Duration::from_nanos(nanos.parse()?)))
    };
    run(time / 4)?;
    let before = server.cpu()?;
    let (count, took) = run(time)?;
    let spent = server.cpu()?.saturating_sub(before);
    Ok(Measured {
        per_second: count as f64 / took.as_secs_f64(),
        cpu: spent / u32::try_from(count.max(1))?,
    })
}
