//! Receives webhooks in front of an axum app, and stores each event on disk until its handlers have run.
//!
//! ```text
//! cargo run --example durable
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "poll.created", "data": {"question": "cats or dogs?", "seconds": 20}}'
//! ```
//!
//! Kill the process within 20 s, with `kill -9` or Ctrl-\, and start it again. The handler of the poll then runs. Send the same
//! event again: no handler runs, because the inbox recognizes the duplicate. `INBOX` is the path of the file.

mod common;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use botisimo_webhooks::{EventRouter, SharedSecret, SqliteInbox, WebhookLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    common::log_to_stderr();
    let router = EventRouter::new()
        .on_prefix("connection.stream.started", common::went_live)
        .on("account.updated", common::refresh)
        .on("poll.*", common::poll);
    let path = env::var_os("INBOX").map(PathBuf::from);
    let path = path.unwrap_or_else(|| env::temp_dir().join("botisimo-inbox.db"));
    let inbox = SqliteInbox::builder(&path)
        // While this process starts, an older process may still be draining.
        .lock_timeout(Duration::from_secs(30))
        .open(router)
        .await?;
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox)
        .verify(SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET"));
    let handle = webhooks.handle();
    let recovered = handle.stats().recovered;
    println!("{recovered} events recovered from {}", path.display());
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
