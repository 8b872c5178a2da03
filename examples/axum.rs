//! Receives webhooks in front of an axum app.
//!
//! ```text
//! cargo run --example axum
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "account.updated", "data": {"name": "ada"}}'
//! ```

mod common;

use std::error::Error;

use axum::Router;
use axum::routing::get;
use botisimo_webhooks::{EventRouter, SharedSecret, WebhookLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    common::log_to_stderr();
    let router = EventRouter::new()
        .on_prefix("connection.stream.started", common::went_live)
        .on("account.updated", common::refresh)
        .on("poll.*", common::poll);
    let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
        .verify(SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET"));
    let handle = webhooks.handle();
    let app = Router::new()
        .route("/", get(async || "this is the app\n"))
        .layer(webhooks);

    let listener = common::listen().await?;
    let ended = handle
        .shutdown_on_signal()
        .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
        .await?;
    println!("{} events remain\n{}", ended.remaining, handle.stats());
    Ok(())
}
