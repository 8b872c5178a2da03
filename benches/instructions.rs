//! Counts instructions with valgrind: `cargo bench --bench instructions`.
//!
//! Unlike times, counts don't depend on the load of the machine. For each job, this program runs itself under callgrind:
//! once with n repetitions and once with 2n. The difference excludes the start and the setup.
//!
//! With `--features metrics`, the counts of this crate include its metrics without a recorder, and one more job records them for
//! Prometheus.

mod common;

use std::convert::Infallible;
use std::error::Error;
use std::hint::black_box;
use std::process::Command;

use axum::http::{Method, Request, Response};
use botisimo_webhooks::{Event, EventRouter, EventType, SharedSecret, WebhookLayer};
use bytes::Bytes;
use http_body_util::{Empty, Full};
use serde_json::Value;
use tower::{Layer, Service};

use common::{Borrowed, Home, PATH, Ran, by_hand, deliver, event, ours, request, router, routes};

type Fault = Box<dyn Error + Send + Sync>;

/// The size of an event's body, in bytes.
const SIZE: usize = 600;

const SIZES: [usize; 3] = [600, 20_000, 1_000_000];
const REFUSED: [usize; 4] = [400, 401, 405, 413];
const ROUTES: [usize; 3] = [10, 1_000, 10_000];

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--bench"] => compare(),
        [job, size, times] => run(job, size.parse()?, times.parse()?),
        // In test mode, each job runs once.
        _ => [
            "request", "ours", "hand", "home", "through", "event", "tree", "borrowed",
        ]
        .into_iter()
        .map(|job| (job, SIZE))
        .chain([("documented", 10), ("other", 10)])
        .try_for_each(|(job, size)| run(job, size, 1)),
    }
}

/// Prints the count of each job next to a reference count.
fn compare() -> Result<(), Fault> {
    // The counts exclude building the request.
    let made = count("request", SIZE, 1_000)?;
    let ours = count("ours", SIZE, 1_000)? - made;
    let hand = count("hand", SIZE, 1_000)? - made;
    println!("from a request of {SIZE} B to the handler that ran");
    println!("  by this crate       {ours:>10}");
    println!(
        "  by hand on axum     {hand:>10}  ratio {:.3}",
        ratio(ours, hand)
    );
    if cfg!(feature = "metrics") {
        let recorded = count("recorded", SIZE, 1_000)? - made;
        println!("  with Prometheus     {recorded:>10}");
    }
    let home = count("home", 0, 1_000)?;
    let through = count("through", 0, 1_000)?;
    println!("the layer's cost for any other request, without the service");
    println!("                      {:>10}", through - home);
    println!("refusing a request of {SIZE} B");
    for status in REFUSED {
        println!(
            "  by {status}              {:>10}",
            count("refuse", status, 1_000)? - made
        );
    }
    println!("decoding, compared with a tree of values and with a borrowed struct");
    for size in SIZES {
        let times = 2_000_000 / size as u64;
        let event = count("event", size, times)?;
        let (tree, borrowed) = (count("tree", size, times)?, count("borrowed", size, times)?);
        println!(
            "  {size:>9} B         {event:>10}  {:.1} times fewer, {:.2} times as many",
            ratio(tree, event),
            ratio(event, borrowed),
        );
    }
    println!("finding the routes of a documented event type, and of another name");
    for size in ROUTES {
        let (documented, other) = (
            count("documented", size, 10_000)?,
            count("other", size, 10_000)?,
        );
        println!("  among {size:>6}        {documented:>10} {other:>10}");
    }
    Ok(())
}

fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

/// Returns the instructions of one repetition of a job.
fn count(job: &str, size: usize, times: u64) -> Result<u64, Fault> {
    let (once, twice) = (collect(job, size, times)?, collect(job, size, 2 * times)?);
    Ok((twice - once) / times)
}

fn collect(job: &str, size: usize, times: u64) -> Result<u64, Fault> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([job, &size.to_string(), &times.to_string()])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.ok_or_else(|| format!("no count for {job}: {said}"))?;
    Ok(collected.trim().parse()?)
}

fn run(job: &str, size: usize, times: u64) -> Result<(), Fault> {
    let ran = Ran::default();
    match job {
        "request" => repeat(times, |id| request(event(id, size))),
        "ours" => deliver_all(ours(router(&ran)), &ran, size, times),
        #[cfg(feature = "metrics")]
        "recorded" => {
            metrics_exporter_prometheus::PrometheusBuilder::new()
                .set_buckets(&[0.001, 0.01, 0.1, 1.0, 10.0, 100.0])?
                .install_recorder()?;
            deliver_all(ours(router(&ran)), &ran, size, times);
        }
        "hand" => deliver_all(by_hand(&ran), &ran, size, times),
        "home" => pass_all(Home, times),
        "through" => pass_all(ours(EventRouter::new()), times),
        "refuse" => refuse(size, times),
        "event" => decode(size, times, |body| Event::from_bytes(body)),
        "tree" => decode(size, times, |body| {
            serde_json::from_slice::<Value>(body.as_bytes())
        }),
        "borrowed" => decode(size, times, |body| {
            serde_json::from_slice::<Borrowed<'_>>(body.as_bytes()).map(drop)
        }),
        "documented" => find("connection.stream.started.twitch", size, times),
        "other" => find("connection.stream.started.elsewhere", size, times),
        other => return Err(format!("no job {other}").into()),
    }
    Ok(())
}

fn repeat<T>(times: u64, mut job: impl FnMut(u64) -> T) {
    (0..times).for_each(|number| drop(black_box(job(number))));
}

fn decode<T>(size: usize, times: u64, decode: impl Fn(&str) -> T) {
    let body = event(1, size);
    repeat(times, |_| decode(black_box(&body)));
}

fn find(event_type: &str, among: usize, times: u64) {
    let (router, event_type) = (routes(among), EventType::from(event_type));
    repeat(times, |_| router.matches(black_box(&event_type)));
}

fn deliver_all<S, B>(mut service: S, ran: &Ran, size: usize, times: u64)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    block_on(async {
        for id in 0..times {
            let response = deliver(&mut service, ran, event(id, size)).await;
            assert!(response.status().is_success());
        }
    });
}

/// Sends requests, and checks that the receiver answers with this status.
fn refuse(status: usize, times: u64) {
    let layer = WebhookLayer::new(PATH, EventRouter::new());
    let layer = match status {
        401 => layer.verify(SharedSecret::in_query("token", "secret")),
        413 => layer.max_body_bytes(SIZE / 2),
        _ => layer,
    };
    let mut service = layer.layer(Home);
    block_on(async {
        for id in 0..times {
            let end = if status == 400 { "}" } else { "" };
            let mut request = request(event(id, SIZE) + end);
            if status == 405 {
                *request.method_mut() = Method::PUT;
            }
            let response = service.call(request).await;
            let response = response.unwrap_or_else(|never| match never {});
            assert_eq!(usize::from(response.status().as_u16()), status);
        }
    });
}

fn pass_all<S, B>(mut service: S, times: u64)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    block_on(async {
        for _ in 0..times {
            let request = Request::get("/")
                .body(Empty::new())
                .expect("a valid request");
            let response = service.call(black_box(request)).await;
            let response = response.unwrap_or_else(|never| match never {});
            assert!(black_box(response).status().is_success());
        }
    });
}

fn block_on(job: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(job);
}
