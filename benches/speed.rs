//! Measures times and allocations: `cargo bench --bench speed`.
//!
//! Times depend on the machine, so compare only rows of the same run.

mod common;

use std::convert::Infallible;

use axum::http::{Request, Response};
use botisimo_webhooks::Event;
use bytes::Bytes;
use divan::{AllocProfiler, Bencher, black_box, counter::BytesCount};
use http_body_util::Full;
use serde_json::Value;
use tower::Service;

use common::{Borrowed, Ran, by_hand, deliver, event, ours, router};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = [10, 1_000, 10_000])]
fn lookup_of_a_documented_type(bencher: Bencher<'_, '_>, routes: usize) {
    let router = common::routes(routes);
    let event_type = "connection.stream.started.twitch".into();
    bencher.bench(|| black_box(router.matches(black_box(&event_type))));
}

#[divan::bench(args = [10, 1_000, 10_000])]
fn lookup_of_another_name(bencher: Bencher<'_, '_>, routes: usize) {
    let router = common::routes(routes);
    let event_type = "connection.stream.started.elsewhere".into();
    bencher.bench(|| black_box(router.matches(black_box(&event_type))));
}

const SIZES: [usize; 3] = [600, 20_000, 1_000_000];

#[divan::bench(args = SIZES)]
fn decode_an_event(bencher: Bencher<'_, '_>, size: usize) {
    let body = event(1, size);
    bencher
        .counter(BytesCount::of_str(&body))
        .bench(|| Event::from_bytes(black_box(&body)));
}

#[divan::bench(args = SIZES)]
fn decode_a_tree_of_values(bencher: Bencher<'_, '_>, size: usize) {
    let body = event(1, size);
    bencher
        .counter(BytesCount::of_str(&body))
        .bench(|| serde_json::from_slice::<Value>(black_box(body.as_bytes())));
}

#[divan::bench(args = SIZES)]
fn decode_a_borrowed_struct(bencher: Bencher<'_, '_>, size: usize) {
    let body = event(1, size);
    bencher
        .counter(BytesCount::of_str(&body))
        .bench(|| serde_json::from_str::<Borrowed<'_>>(black_box(&body)).map(drop));
}

fn accept<S, B>(bencher: Bencher<'_, '_>, mut service: S, ran: &Ran)
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut id = 0;
    let next = || {
        id += 1;
        event(id, 600)
    };
    bencher
        .with_inputs(next)
        .bench_local_values(|body| runtime.block_on(deliver(&mut service, ran, body)));
}

#[divan::bench]
fn from_request_to_handler_by_this_crate(bencher: Bencher<'_, '_>) {
    let ran = Ran::default();
    accept(bencher, ours(router(&ran)), &ran);
}

#[divan::bench]
fn from_request_to_handler_by_hand(bencher: Bencher<'_, '_>) {
    let ran = Ran::default();
    accept(bencher, by_hand(&ran), &ran);
}
