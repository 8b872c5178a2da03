//! One job and nothing else, to count its instructions:
//!
//! ```sh
//! cargo bench --bench instructions --no-run     # prints the path of the program
//! for job in ours hand through bare; do for n in 1000 2000; do
//!   valgrind --tool=callgrind --callgrind-out-file=/dev/null PROGRAM $job $n 2>&1 | grep Collected
//! done; done
//! ```
//!
//! The difference of the two lines of a job, by 1,000, is the count of one event. `ours` and `hand`
//! go from a request to the handler that ran; `through` is a request that passes through the layer,
//! `bare` the same without it.
#![allow(clippy::exit)] // how a program tells of wrong arguments

mod common;

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{Request, Response};
use botisimo_webhooks::{EventRouter, WebhookLayer};
use tower::{Layer, Service};

use common::{PATH, Ran, by_hand, deliver, event, ours};

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
        "ours" => deliver_all(ours(&ran), &ran, count).await,
        "hand" => deliver_all(by_hand(&ran), &ran, count).await,
        "through" => {
            pass_all(
                WebhookLayer::new(PATH, EventRouter::new()).layer(Bare),
                count,
            )
            .await;
        }
        "bare" => pass_all(Bare, count).await,
        _ => {
            eprintln!("which job? ours, hand, through or bare, and how often");
            std::process::exit(2);
        }
    }
}

async fn deliver_all(mut service: axum::Router, ran: &Ran, count: u64) {
    for id in 0..count {
        let response = deliver(&mut service, ran, event(id, 450)).await;
        assert!(response.status().is_success());
    }
}

/// A service that answers at once.
#[derive(Clone)]
struct Bare;

impl Service<Request<Body>> for Bare {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(Response::new(Body::empty())))
    }
}

async fn pass_all<S, B>(mut service: S, count: u64)
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible>,
{
    for _ in 0..count {
        let request = Request::get("/")
            .body(Body::empty())
            .expect("a good request");
        let response = service
            .call(black_box(request))
            .await
            .unwrap_or_else(|never| match never {});
        assert!(black_box(response).status().is_success());
    }
}
