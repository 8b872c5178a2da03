//! Compares an inbox that 200 live pages of the inspector watch with the same inbox without watchers, side by side.
//!
//! `cargo bench --features inspector --bench inspector` prints the events per second of each round and their ratio. Everything runs
//! on one thread, so the ratio includes all the work of the watchers.
#![allow(missing_docs)] // a benchmark has no API

use std::time::{Duration, Instant};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Access, Event, EventRouter, Inbox, Inspector, InspectorBody, MemoryInbox, Permission,
};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tower::ServiceExt;

const WATCHERS: usize = 200;
const ROUNDS: usize = 5;

/// The time of a round. The feed reads the newest events every second.
const ROUND: Duration = Duration::from_secs(3);

fn main() {
    // `cargo test --benches` runs each benchmark once, without measuring.
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, round) = if is_test {
        (1, ROUND / 10)
    } else {
        (ROUNDS, ROUND)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("a runtime can start");
    let mut ratios = Vec::new();
    for number in 1..=rounds {
        let without = runtime.block_on(events_per_second(0, round));
        let with = runtime.block_on(events_per_second(WATCHERS, round));
        ratios.push(with / without);
        println!(
            "round {number}: {without:>9.0} events/s without watchers, {with:>9.0} with {WATCHERS}, ratio {:.3}",
            with / without
        );
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.3}", ratios[ratios.len() / 2]);
}

/// Accepts and handles events for a while, one after another.
async fn events_per_second(watchers: usize, round: Duration) -> f64 {
    let inbox = MemoryInbox::new(EventRouter::new().on("account.updated", |_: Event| async {}));
    let handle = inbox.handle();
    let inspector = Inspector::new(&handle, Access::from_fn(|_| Permission::read("bench")));
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut feed = watch(&inspector).await;
        tasks.push(tokio::spawn(async move {
            let mut bytes = 0;
            while let Some(Ok(frame)) = feed.frame().await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
            }
            bytes
        }));
    }
    let started = Instant::now();
    let mut count = 0_u32;
    while started.elapsed() < round {
        for _ in 0..100 {
            let event = MockRequest::event("account.updated").to_event();
            inbox
                .accept(event)
                .await
                .expect("the inbox accepts the event");
            count += 1;
        }
        handle.wait_idle().await;
    }
    let rate = f64::from(count) / started.elapsed().as_secs_f64();
    // The feeds end when the inbox drains.
    handle.drain(Duration::ZERO).await;
    for task in tasks {
        let bytes = task.await.expect("a watcher reads until the feed ends");
        assert!(bytes > 0, "each watcher gets rows");
    }
    rate
}

async fn watch(inspector: &Inspector) -> InspectorBody {
    let request = Request::get("/?page=feed").header("host", "localhost");
    let request = request
        .body(Full::<Bytes>::default())
        .expect("the request is valid");
    let response = inspector.clone().oneshot(request).await;
    response.expect("the inspector answers").into_body()
}
