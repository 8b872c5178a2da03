//! Receives webhooks in front of an axum app, in any number of processes that share a PostgreSQL database.
//!
//! ```text
//! export DATABASE_URL=postgresql://postgres@127.0.0.1/postgres
//! cargo run --example postgres --features postgres
//! ADDR=127.0.0.1:3001 cargo run --example postgres --features postgres
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "poll.created", "data": {"question": "cats or dogs?", "seconds": 20}}'
//! ```
//!
//! Kill the first process within 20 s, with `kill -9` or Ctrl-\. The second process then runs the handler of the poll. Send the
//! same event to the second process: no handler runs, because the inbox recognizes the duplicate.

mod common;

use std::env;
use std::error::Error;

use axum::Router;
use axum::routing::get;
use botisimo_webhooks::{EventRouter, PostgresInbox, SharedSecret, WebhookLayer};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    common::log_to_stderr();
    let router = EventRouter::new()
        .on_prefix("connection.stream.started", common::went_live)
        .on("account.updated", common::refresh)
        .on("poll.*", common::poll);
    let url = env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL to a PostgreSQL database")?;
    // Set TLS here.
    let pool = Pool::builder(Manager::new(url.parse()?, NoTls)).build()?;
    let webhooks = WebhookLayer::new(
        "/webhooks/botisimo",
        PostgresInbox::open(pool, router).await?,
    )
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
