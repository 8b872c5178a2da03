//! The same job twice: with this crate, and handwritten on axum.
#![allow(dead_code)] // each benchmark uses only some items

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use botisimo_webhooks::{Event, EventRouter, IntoInbox, Webhook, WebhookLayer};
use bytes::Bytes;
use http_body_util::Full;
use serde_json::Value;
use serde_json::value::RawValue;
use tower::{Layer, Service};

pub(crate) const PATH: &str = "/webhooks/botisimo";

/// Counts the handlers that ran.
#[derive(Clone, Default)]
pub(crate) struct Ran(Arc<AtomicU64>);

impl Ran {
    pub(crate) fn one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until `count` handlers have run.
    pub(crate) async fn reaches(&self, count: u64) {
        while self.0.load(Ordering::Relaxed) < count {
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The inner service, which answers immediately.
#[derive(Clone)]
pub(crate) struct Home;

impl<B> Service<Request<B>> for Home {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Body::empty())))
    }
}

/// Returns this crate's receiver around the inner service.
pub(crate) fn ours<I: IntoInbox>(inbox: I) -> Webhook<Home, I::Inbox> {
    WebhookLayer::new(PATH, inbox).layer(Home)
}

/// Returns a router with one route that matches the events of the benchmarks, and two routes that don't.
pub(crate) fn router(ran: &Ran) -> EventRouter {
    let ran = ran.clone();
    EventRouter::new()
        .on_prefix("connection.stream.started", move |_: Event| async move {
            ran.one();
        })
        .on("account.updated", |_: Event| async {})
        .on("poll.*", |_: Event| async {})
}

/// Returns a router with `count` routes. Two of the routes match an event.
pub(crate) fn routes(count: usize) -> EventRouter {
    let all = EventRouter::new()
        .on_prefix("connection.stream.started", |_: Event| async {})
        .on_any(|_: Event| async {});
    (2..count).fold(all, |router, i| {
        router.on(format!("service{}.thing{i}.*", i % 97), |_: Event| async {})
    })
}

/// A borrowed struct for this event. The struct decodes only strings without escapes.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)] // decoded and dropped
pub(crate) struct Borrowed<'a> {
    message_id: &'a str,
    timestamp: i64,
    event_type: &'a str,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Envelope {
    pub(crate) message_id: String,
    #[allow(dead_code)] // decoded, but not read
    timestamp: u64,
    pub(crate) event_type: String,
    pub(crate) data: Value,
}

/// Returns a handwritten receiver without limits, isolation, deadline or counts, like the first
/// version of many services.
pub(crate) fn by_hand(ran: &Ran) -> Router {
    async fn receive(State(ran): State<Ran>, Json(envelope): Json<Envelope>) -> StatusCode {
        match envelope.event_type.as_str() {
            "connection.stream.started" | "connection.stream.started.twitch" => {
                tokio::spawn(started(ran, envelope.data));
            }
            "account.updated" => {
                tokio::spawn(async move { drop(envelope.data) });
            }
            _ => {}
        }
        StatusCode::OK
    }
    async fn started(ran: Ran, data: Value) {
        std::hint::black_box(&data);
        ran.one();
    }
    Router::new()
        .route(PATH, post(receive))
        .with_state(ran.clone())
}

/// Returns an event of about `size` bytes, whose `data` is a list of small objects.
pub(crate) fn event(id: u64, size: usize) -> String {
    let item =
        r#"{"id":10482,"name":"ada","title":"a stream about nothing","live":true,"viewers":1250},"#;
    let items = item.repeat((size / item.len()).max(1));
    let items = items.trim_end_matches(',');
    format!(
        r#"{{"messageId":"20612112-0305-46a9-a67a-{id:012x}","timestamp":1674489999154,"eventType":"connection.stream.started.twitch","data":{{"items":[{items}]}}}}"#
    )
}

pub(crate) fn request(body: String) -> Request<Full<Bytes>> {
    let request = Request::post(PATH)
        .header("content-type", "application/json")
        .header("content-length", body.len());
    request.body(Full::from(body)).expect("the parts are valid")
}

/// Sends one event, and waits until its handler has run.
pub(crate) async fn deliver<S, B>(service: &mut S, ran: &Ran, body: String) -> Response<B>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
{
    let before = ran.count();
    let response = service.call(request(body)).await;
    ran.reaches(before + 1).await;
    response.unwrap_or_else(|never| match never {})
}
