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
    let mut webhooks = WebhookLayer::new("/webhooks/botisimo", router);
    if let Some(secret) = common::secret() {
        webhooks = webhooks.verify(SharedSecret::in_query("token", secret));
    }
    let handle = webhooks.handle();
    let app = Router::new()
        .route("/", get(async || "this is the app\n"))
        .layer(webhooks);

    // The server stops after the drain, because the sender retries after a 503, but might not retry after a refused connection.
    let (stopped, overdue) = common::shutdown(&handle)?;
    let server = axum::serve(common::listen().await?, app).with_graceful_shutdown(stopped);
    tokio::select! {
        served = server.into_future() => served?,
        () = overdue => {}
    }
    println!("{}", handle.stats());
    Ok(())
}
