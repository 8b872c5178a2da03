//! Receives webhooks over HTTP/1.1 and serves gRPC over HTTP/2, on one port.
//!
//! ```text
//! cargo run --example tonic
//! printf '\0\0\0\0\0' | curl -v --http2-prior-knowledge http://127.0.0.1:3000/grpc.health.v1.Health/Check \
//!   -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- -o reply
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "account.updated", "data": {"name": "ada"}}'
//! ```

mod common;

use std::error::Error;

use botisimo_webhooks::{EventRouter, SharedSecret, WebhookLayer};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

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

    let listener = TcpIncoming::from(common::listen().await?);
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .accept_http1(true) // webhooks arrive over HTTP/1.1
        .layer(webhooks)
        .add_service(health);
    let ended = handle
        .shutdown_on_signal()
        .serve(|drained| server.serve_with_incoming_shutdown(listener, drained))
        .await?;
    println!("{} events remain\n{}", ended.remaining, handle.stats());
    Ok(())
}
