//! Receives webhooks in some processes and runs their handlers in others, over a NATS JetStream stream.
//!
//! ```text
//! nats-server -js -sd /tmp/botisimo-nats
//! cargo run --example jetstream --features jetstream -- receive
//! cargo run --example jetstream --features jetstream -- work
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "poll.created", "data": {"question": "cats or dogs?", "seconds": 20}}'
//! ```
//!
//! Start any number of receivers and workers. Each receiver needs its own `ADDR`. If you kill the worker within 20 s, another
//! worker runs the handler of the poll 30 s after the last heartbeat. `NATS_URL` lists the servers, separated by commas.
//! `REPLICAS` sets the number of servers that store an event before the receiver answers.

mod common;

use std::env;
use std::error::Error;

use async_nats::jetstream::{self, Context};
use axum::Router;
use axum::routing::get;
use botisimo_webhooks::{
    EventRouter, JetStreamInbox, JetStreamWorker, SharedSecret, StreamSettings, WebhookLayer,
};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome {
    common::log_to_stderr();
    match env::args().nth(1).as_deref() {
        Some("receive") => receive().await,
        Some("work") => work().await,
        _ => Err("the argument is `receive` or `work`".into()),
    }
}

async fn connect() -> Result<Context, Box<dyn Error + Send + Sync>> {
    let urls = env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".to_owned());
    // Set credentials and TLS here.
    let client = async_nats::connect(urls.split(',').collect::<Vec<_>>()).await;
    let client = client.map_err(|error| format!("no server at {urls}: {error}; set NATS_URL"))?;
    Ok(jetstream::new(client))
}

/// The settings of the stream, which are the same for receivers and workers.
fn stream() -> Result<StreamSettings, Box<dyn Error + Send + Sync>> {
    let replicas = env::var("REPLICAS").unwrap_or_else(|_| "1".to_owned());
    let settings = StreamSettings::new().replicas(replicas.parse()?);
    Ok(settings.max_bytes(256 << 20).create_if_missing())
}

async fn receive() -> Outcome {
    let inbox = JetStreamInbox::builder(connect().await?).stream(stream()?);
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox.open().await?)
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

async fn work() -> Outcome {
    let router = EventRouter::new()
        .on_prefix("connection.stream.started", common::went_live)
        .on("account.updated", common::refresh)
        .on("poll.*", common::poll);
    let worker = JetStreamWorker::builder(connect().await?, "example")
        .stream(stream()?)
        .start(router)
        .await?;
    println!("working");
    let ended = worker.shutdown_on_signal().await?;
    println!("{} events remain\n{}", ended.remaining, worker.stats());
    for letter in worker.dead_letters().list(None, 10).await? {
        println!("{letter}");
    }
    Ok(())
}
