//! Receives webhooks in front of a hyper service, over HTTP/1.1 and HTTP/2.
//!
//! ```text
//! cargo run --example hyper
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "account.updated", "data": {"name": "ada"}}'
//! ```

mod common;

use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use botisimo_webhooks::{BoxFuture, EventRouter, SharedSecret, WebhookLayer};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tower::{Layer, service_fn};

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
    let app = TowerToHyperService::new(webhooks.layer(service_fn(app)));

    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    let listener = common::listen().await?;
    let accept = async |mut drained: BoxFuture<()>| {
        let connections = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut drained => break,
            };
            let Ok((stream, _)) = accepted else {
                // The process has probably run out of file descriptors.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let connection = server.serve_connection(TokioIo::new(stream), app.clone());
            tokio::spawn(connections.watch(connection.into_owned()));
        }
        drop(listener);
        connections.shutdown().await;
        Ok::<_, Infallible>(())
    };
    let ended = handle.shutdown_on_signal().serve(accept).await?;
    println!("{} events remain\n{}", ended.remaining, handle.stats());
    Ok(())
}

async fn app(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let mut response = Response::new("this is the app\n".to_owned());
    if request.uri().path() != "/" {
        response = Response::new(String::new());
        *response.status_mut() = StatusCode::NOT_FOUND;
    }
    Ok(response)
}
