//! Generates load: as many requests as the server answers, or a fixed rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

use crate::Fault;
use crate::client::Client;
use crate::common::PATH;

/// The number of connections of a load with a fixed rate.
const CONNECTIONS: u32 = 256;

/// The time that the sender waits for an answer. It equals the default `response_timeout`.
const DEADLINE: Duration = Duration::from_secs(3);

/// Sends requests over several connections. Each connection sends its next request when the
/// previous request is answered. Prints the number of 200 answers and the time.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn flood(
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> Result<(), Fault> {
    let count = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let since = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (count, over, path) = (Arc::clone(&count), Arc::clone(&over), path.to_owned());
        clients.spawn(async move {
            let mut client = Client::connect(address, &path).await?;
            while !over.load(Ordering::Relaxed) {
                match client.send().await? {
                    200 => count.fetch_add(1, Ordering::Relaxed),
                    status => return Err(Fault::from(format!("answered {status}"))),
                };
            }
            Ok(())
        });
    }
    tokio::time::sleep(time).await;
    let (count, took) = (count.load(Ordering::Relaxed), since.elapsed());
    over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client??;
    }
    println!("{count} {}", took.as_nanos());
    Ok(())
}

/// The answers to a load with a fixed rate.
#[derive(Default)]
struct Seen {
    /// The times until the 200 answers, in microseconds.
    taken: Vec<u32>,
    refused: u64,
    other: u64,
    unanswered: u64,
    slowest: u32,
    /// The number of requests that were sent late, because the connection was busy.
    late: u64,
}

/// Sends `rate` requests per second, spread evenly over time and connections. If `rate` is 0, sends
/// as many requests as the server answers. Prints the numbers of 200 answers, 503 answers, other
/// answers, missing answers and late requests. Then prints the 50th, 99th and 99.9th percentile of
/// the times until a 200, and the longest time.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn pace(address: SocketAddr, rate: u32, time: Duration) -> Result<(), Fault> {
    let interval = match rate {
        0 => Duration::ZERO,
        rate => Duration::from_secs(1) * CONNECTIONS / rate,
    };
    let start = Instant::now() + Duration::from_millis(50);
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let first = start + interval * number / CONNECTIONS;
        clients.spawn(async move {
            let client = Client::connect(address, PATH).await?;
            sender(client, first, interval, start + time).await
        });
    }
    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        all.add(seen??);
    }
    all.taken.sort_unstable();
    let percentile = |part: f64| {
        let place = (all.taken.len() as f64 * part) as usize;
        all.taken.get(place).or(all.taken.last()).unwrap_or(&0)
    };
    println!(
        "{} {} {} {} {} {} {} {} {}",
        all.taken.len(),
        all.refused,
        all.other,
        all.unanswered,
        all.late,
        percentile(0.5),
        percentile(0.99),
        percentile(0.999),
        all.slowest,
    );
    Ok(())
}

async fn sender(
    mut client: Client,
    first: Instant,
    interval: Duration,
    end: Instant,
) -> Result<Seen, Fault> {
    let mut seen = Seen::default();
    let mut due = first;
    loop {
        // tokio's timer is too coarse, so the loop spins. This core has no other work.
        while Instant::now() < due {
            yield_now().await;
        }
        let sent = Instant::now();
        if due.max(sent) >= end {
            return Ok(seen);
        }
        seen.late += u64::from(sent > due + Duration::from_millis(1));
        let Ok(status) = timeout(DEADLINE, client.send()).await else {
            // A late answer would look like the answer to the next request.
            seen.unanswered += 1;
            return Ok(seen);
        };
        let took = u32::try_from(sent.elapsed().as_micros())?;
        seen.slowest = seen.slowest.max(took);
        match status? {
            200 => seen.taken.push(took),
            503 => seen.refused += 1,
            _ => seen.other += 1,
        }
        due += interval;
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.taken.extend(other.taken);
        self.refused += other.refused;
        self.other += other.other;
        self.unanswered += other.unanswered;
        self.slowest = self.slowest.max(other.slowest);
        self.late += other.late;
    }
}
