//! Webhooks in front of an axum app, kept on disk until their handlers have run.
//!
//! ```text
//! cargo run --example durable
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "poll.created", "data": {"question": "cats or dogs?", "seconds": 20}}'
//! ```
//!
//! Kill it within these 20 s, with `kill -9` or Ctrl-\, and start it again: the poll's handler runs. Send the same once more: it
//! doesn't. `INBOX` is the path of the file.

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
        // Of a process that is being drained while this one is started.
        .lock_timeout(Duration::from_secs(30))
        .open(router)
        .await?;
    let mut webhooks = WebhookLayer::new("/webhooks/botisimo", inbox);
    if let Some(secret) = common::secret() {
        webhooks = webhooks.verify(SharedSecret::in_query("token", secret));
    }
    let handle = webhooks.handle();
    let recovered = handle.stats().recovered;
    println!("{recovered} events recovered from {}", path.display());
    let app = Router::new()
        .route("/", get(async || "this is the app\n"))
        .layer(webhooks);

    // It stops after the drain: a 503 makes the sender try again, a closed port may not.
    let (stopped, overdue) = common::shutdown(&handle)?;
    let server = axum::serve(common::listen().await?, app).with_graceful_shutdown(stopped);
    tokio::select! {
        served = server.into_future() => served?,
        () = overdue => {}
    }
    println!("{}", handle.stats());
    Ok(())
}
