//! One job and nothing else, to count its instructions:
//!
//! ```sh
//! cargo bench --bench instructions --no-run     # prints the path of the program
//! for job in request ours hand home through; do for n in 1000 2000; do
//!   valgrind --tool=callgrind --callgrind-out-file=/dev/null PROGRAM $job $n 2>&1 | grep Collected
//! done; done
//! ```
//!
//! The difference of the two lines of a job, by 1,000, is the count of one request. `ours` and `hand`
//! go from making a request to the handler that ran, and `request` only makes it: it is to be taken
//! off. `through` is a request that passes through the layer, `home` the same without it.
#![allow(clippy::exit)] // how a program tells of wrong arguments

mod common;

use std::convert::Infallible;
use std::hint::black_box;

use axum::http::{Request, Response};
use botisimo_webhooks::EventRouter;
use bytes::Bytes;
use http_body_util::{Empty, Full};
use tower::Service;

use common::{Home, Ran, by_hand, deliver, event, ours, request, router};

/// The size of an event's body, in bytes.
const SIZE: usize = 600;

fn main() {
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let (job, count) = match arguments.as_slice() {
        [job, count] => (job.as_str(), count.parse().expect("how often is a number")),
        // As `cargo bench` and `cargo test --benches` run it.
        _ => ("ours", 10),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(job, count));
}

async fn run(job: &str, count: u64) {
    let ran = Ran::default();
    match job {
        "request" => (0..count).for_each(|id| drop(black_box(request(event(id, SIZE))))),
        "ours" => deliver_all(ours(router(&ran)), &ran, count).await,
        "hand" => deliver_all(by_hand(&ran), &ran, count).await,
        "home" => pass_all(Home, count).await,
        "through" => pass_all(ours(EventRouter::new()), count).await,
        _ => {
            eprintln!("which job? request, ours, hand, home or through, and how often");
            std::process::exit(2);
        }
    }
}

async fn deliver_all<S, B>(mut service: S, ran: &Ran, count: u64)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    for id in 0..count {
        let response = deliver(&mut service, ran, event(id, SIZE)).await;
        assert!(response.status().is_success());
    }
}

async fn pass_all<S, B>(mut service: S, count: u64)
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    for _ in 0..count {
        let request = Request::get("/")
            .body(Empty::new())
            .expect("a good request");
        let response = service
            .call(black_box(request))
            .await
            .unwrap_or_else(|never| match never {});
        assert!(black_box(response).status().is_success());
    }
}
