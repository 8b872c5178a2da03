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
use tokio::sync::mpsc;

const PATH: &str = "/webhooks/botisimo";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let router = EventRouter::new()
        .on_prefix("connection.stream.started", common::went_live)
        .on("account.updated", common::refresh)
        .on("poll.*", common::poll);
    println!("routes:\n{router}\n");

    let webhooks = WebhookLayer::new(PATH, router)
        .verify(SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET"));
    let handle = webhooks.handle();
    let app = Router::new()
        .route("/", get(async || "this is the app\n"))
        .layer(webhooks);

    let listener = common::listen().await?;
    let url = format!("http://{}{PATH}", listener.local_addr()?);
    let demo = tokio::spawn(deliver(url, handle.clone()));
    let shutdown = match once() {
        true => handle.shutdown_on(async { drop(demo.await) }),
        false => handle.shutdown_on_signal(),
    };
    // The server closes after the drain: the sender retries after a 503, but a closed port may lose events.
    let ended = shutdown
        .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
        .await?;
    println!("{} events remain\n{}", ended.remaining, handle.stats());
    Ok(())
}

fn once() -> bool {
    env::args().any(|argument| argument == "--once")
}

fn secret() -> String {
    env::var("BOTISIMO_SECRET").unwrap_or_default()
}

fn show_curl(url: &str) {
    // Prints the name of the variable, so the secret doesn't appear on the screen.
    let token = match secret().is_empty() {
        true => "",
        false => "?token=$BOTISIMO_SECRET",
    };
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
async fn deliver(url: String, handle: Handle) {
    show_curl(&url);
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
        let request = request.path(&*url).query("token", secret());
        let response = client.request(request.build::<Full<Bytes>>()).await;
        let response = response.expect("the server answers");
        let status = response.status().as_u16();
        let text = response.into_body().collect().await;
        let text = text.expect("the answer has a body").to_bytes();
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
    if !once() {
        println!("{}\n\nserving; press Ctrl-C to stop", handle.stats());
    }
}
