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
    let mut webhooks = WebhookLayer::new("/webhooks/botisimo", router);
    if let Some(secret) = common::secret() {
        webhooks = webhooks.verify(SharedSecret::in_query("token", secret));
    }
    let handle = webhooks.handle();

    // The server stops after the drain, because the sender retries after a 503, but might not retry after a refused connection.
    let (stopped, overdue) = common::shutdown(&handle)?;
    let listener = TcpIncoming::from(common::listen().await?);
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .accept_http1(true) // webhooks arrive over HTTP/1.1
        .layer(webhooks)
        .add_service(health)
        .serve_with_incoming_shutdown(listener, stopped);
    tokio::select! {
        served = server => served?,
        () = overdue => {}
    }
    println!("{}", handle.stats());
    Ok(())
}
