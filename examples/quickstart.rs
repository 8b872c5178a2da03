//! Sends webhooks to itself, and prints each answer and the routes that ran.
//!
//! ```text
//! cargo run --example quickstart            # keeps serving
//! cargo run --example quickstart -- --once  # exits
//! ```

mod common;

use std::env;
use std::error::Error;

use axum::Router;
use axum::routing::get;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{EventRouter, Handle, SharedSecret, WebhookLayer};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

const PATH: &str = "/webhooks/botisimo";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let router = EventRouter::new()
        .on_prefix("connection.stream.started", common::went_live)
        .on("account.updated", common::refresh)
        .on("poll.*", common::poll);
    println!("routes:\n{router}\n");

    let mut webhooks = WebhookLayer::new(PATH, router);
    if let Some(secret) = common::secret() {
        webhooks = webhooks.verify(SharedSecret::in_query("token", secret));
    }
    let handle = webhooks.handle();
    let app = Router::new()
        .route("/", get(async || "this is the app\n"))
        .layer(webhooks);

    let stop = common::stop_signal()?;
    let listener = common::listen().await?;
    let url = format!("http://{}{PATH}", listener.local_addr()?);
    let (close, closed) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(closed.await) });
    let server = tokio::spawn(server.into_future());

    show_curl(&url);
    deliver(&url, &handle).await?;
    if !env::args().any(|argument| argument == "--once") {
        println!("{}\n\nserving; press Ctrl-C to stop", handle.stats());
        stop.await;
    }
    // Drain before the port closes, because the sender retries after a 503, but might not retry after a refused connection.
    common::drain(&handle).await;
    drop(close);
    if let Ok(served) = timeout(common::CLOSE_WITHIN, server).await {
        served??;
    }
    println!("{}", handle.stats());
    Ok(())
}

fn show_curl(url: &str) {
    // Prints the name of the variable, so the secret doesn't appear on the screen.
    let token = common::secret().map_or("", |_| "?token=$BOTISIMO_SECRET");
    let body = mock("account.updated", "m-0", "name", "grace").body_bytes();
    let body = String::from_utf8_lossy(&body);
    println!("\nto send an event yourself (use a new messageId each time):");
    println!("curl -i \"{url}{token}\" -H 'content-type: application/json' -d '{body}'");
}

fn mock(event_type: &str, id: &str, member: &str, value: &str) -> MockRequest {
    let data = json!({ member: value });
    MockRequest::event(event_type).message_id(id).data(data)
}

/// Sends the events one by one, waits until each has finished, and prints a table.
async fn deliver(url: &str, handle: &Handle) -> Result<(), Box<dyn Error + Send + Sync>> {
    let started = mock("connection.stream.started.twitch", "m-1", "title", "Any%");
    let updated = mock("account.updated", "m-2", "name", "ada");
    let poll = mock("poll.created", "m-3", "question", "cats or dogs?");
    let nameless = mock("account.updated", "m-6", "name", "");
    let webhooks = [
        ("a stream starts", started),
        ("an account changes", updated.clone()),
        ("the same messageId again", updated.clone()),
        ("a poll starts", poll),
        (
            "a type without a route",
            mock("video.created", "m-4", "", ""),
        ),
        ("an unknown event type", mock("moon.full", "m-5", "", "")),
        ("a handler that fails", nameless),
        ("a truncated body", updated.body("{")),
    ];
    println!("\nsending {} webhooks; the handlers print:", webhooks.len());

    let (ended, mut reports) = mpsc::unbounded_channel();
    handle.on_attempt(move |attempt| drop(ended.send(attempt.report().to_string())));
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut table = Vec::new();
    for (what, request) in webhooks {
        let request = match common::secret() {
            Some(secret) => request.query("token", String::from_utf8(secret)?),
            None => request,
        };
        let request = request.path(url).build::<Full<Bytes>>();
        let response = client.request(request).await?;
        let status = response.status().as_u16();
        let text = response.into_body().collect().await?.to_bytes();
        let answer = format!("{status} {}", String::from_utf8_lossy(&text));
        handle.wait_idle().await;
        let ran = reports.try_recv().unwrap_or_else(|_| "nothing".to_owned());
        table.push((what, answer, ran));
    }

    println!("\n{:<30}{:<26}what ran", "webhook", "answer");
    for (what, answer, ran) in table {
        println!("{what:<30}{answer:<26}{ran}");
    }
    println!("\nThe receiver answers 200 to a copy of an accepted event, and no handler runs.\n");
    Ok(())
}
