//! Announces each stream once, and never late. With `CHAT_URL`, it posts to a chat service, as to a webhook of Discord.
//!
//! ```text
//! cargo run --example going_live
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' -d '{"messageId": "m-1",
//!   "timestamp": '$(date +%s)000', "eventType": "connection.stream.started", "data": {"account": "ada", "stream": "s-1", "title": "Any%"}}'
//! ```
//!
//! Send the event again with another `messageId`, or with the type `connection.stream.started.twitch`: nothing is announced,
//! even if you restart the process. `INBOX` is the path of the file.

mod common;

use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::http::{Request, StatusCode, Uri, header};
use botisimo_webhooks::{
    Event, EventRouter, HandlerError, HandlerResult, RetryPolicy, SharedSecret, SqliteInbox,
    WebhookLayer,
};
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;

const MINUTE: Duration = Duration::from_secs(60);

/// The data of a stream's start.
#[derive(Deserialize)]
struct Stream {
    account: String,
    stream: String,
    title: String,
}

/// The chat service to which the example posts.
#[derive(Clone)]
pub(crate) struct Chat {
    url: Uri,
    client: Client<HttpConnector, Full<bytes::Bytes>>,
}

impl Chat {
    pub(crate) fn new(url: Uri) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { url, client }
    }

    /// Posts a message. The inbox retries after every error except a permanent one.
    async fn post(&self, text: &str) -> HandlerResult {
        let body = serde_json::json!({ "content": text }).to_string();
        let request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        let response = self.client.request(request).await?;
        let error = format!("the chat service answered {}", response.status());
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        match (response.status(), retry_after) {
            (status, _) if status.is_success() => Ok(()),
            (StatusCode::TOO_MANY_REQUESTS, Some(seconds)) => {
                let delay = Duration::from_secs(seconds);
                Err(HandlerError::retry_after(delay, error))
            }
            (status, _) if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                Err(error.into())
            }
            // The same request would fail again.
            _ => Err(HandlerError::permanent(error)),
        }
    }
}

/// Returns the routes. Without a chat service, the announcement is only printed.
pub(crate) fn router(chat: Option<Chat>) -> EventRouter {
    let announce = async move |event: Event<Stream>| {
        let Stream { account, title, .. } = event.data();
        if let Some(chat) = &chat {
            chat.post(&format!("{account} is live: {title}")).await?;
        }
        println!("announce {account} {title}");
        HandlerResult::Ok(())
    };
    EventRouter::new()
        .on_prefix("connection.stream.started", announce)
        .named("announce")
        // After an outage, the inbox delivers old events too.
        .fresh_within(10 * MINUTE)
        // The same start may arrive for each platform, and again after a lost connection.
        .once_per(24 * 60 * MINUTE, |event| {
            let Stream {
                account, stream, ..
            } = event.decode().ok()?;
            Some(format!("{account}\n{stream}"))
        })
        .timeout(Duration::from_secs(10))
        .retry(RetryPolicy::new().max_attempts(20).max_delay(MINUTE))
        // A slow chat service holds up no other route.
        .concurrency(4)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    common::log_to_stderr();
    let path = env::var_os("INBOX").map(PathBuf::from);
    let path = path.unwrap_or_else(|| env::temp_dir().join("botisimo-going-live.db"));
    let chat = env::var("CHAT_URL").ok();
    let chat = chat.map(|url| url.parse()).transpose()?.map(Chat::new);
    let inbox = SqliteInbox::builder(&path)
        // While this process starts, an older process may still be draining.
        .lock_timeout(Duration::from_secs(30))
        .open(router(chat))
        .await?;
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox)
        .verify(SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET"));
    let handle = webhooks.handle();
    let app = Router::new().layer(webhooks);

    let listener = common::listen().await?;
    let ended = handle
        .shutdown_on_signal()
        .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
        .await?;
    println!("{} events remain\n{}", ended.remaining, handle.stats());
    Ok(())
}
