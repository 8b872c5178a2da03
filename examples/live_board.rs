//! A board of the channels that are live now. `DATA` is the folder of the board's files.
//!
//! ```text
//! BOTISIMO_SECRET=s3cret cargo run --example live_board
//! curl -i 'http://127.0.0.1:3000/webhooks/botisimo?token=s3cret' -H 'content-type: application/json' \
//!   -d '{"messageId": "m-1", "timestamp": 1674489999154, "eventType": "connection.stream.started", "data": {"channel": "ada"}}'
//! curl http://127.0.0.1:3000/dead-letters -H 'x-admin-token: s3cret'
//! ```

mod common;

use std::{collections::BTreeMap, env, io, path::PathBuf, sync::Arc, time::Duration};

use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{Response, Result};
use axum::routing::{get, post};
use axum::{Json, Router, http::StatusCode};
use botisimo_webhooks::{DeadLetter, DeadLetters, DeliverySettings, Event, EventRouter, Verify};
use botisimo_webhooks::{Handle, HandlerResult, Inbox, SharedSecret, SqliteInbox, WebhookLayer};
use tokio::{fs, sync::Mutex};

#[derive(serde::Deserialize)]
struct Stream {
    channel: String,
    #[serde(default)]
    title: String,
}

/// The titles of the live channels, in memory and in a file.
pub(crate) struct Board {
    path: PathBuf,
    titles: Mutex<BTreeMap<String, String>>,
}

impl Board {
    pub(crate) async fn open(path: PathBuf) -> io::Result<Arc<Self>> {
        if !fs::try_exists(&path).await? {
            fs::write(&path, "{}").await?;
        }
        let titles = Mutex::new(serde_json::from_slice(&fs::read(&path).await?)?);
        Ok(Arc::new(Self { path, titles }))
    }

    /// Adds or removes a channel. If the file can't be written, the inbox retries the route.
    async fn set(self: Arc<Self>, event: Event<Stream>, live: bool) -> HandlerResult {
        let Stream { channel, title } = event.into_data();
        let mut titles = self.titles.lock().await;
        match live {
            true => titles.insert(channel, title),
            false => titles.remove(&channel),
        };
        Ok(fs::write(&self.path, serde_json::to_vec(&*titles)?).await?)
    }
}

pub(crate) fn router(board: &Arc<Board>) -> EventRouter {
    let (on, off) = (Arc::clone(board), Arc::clone(board));
    let started = move |event| on.set(event, true);
    let ended = move |event| off.set(event, false);
    EventRouter::new()
        .on_prefix("connection.stream.started", started)
        .on_prefix("connection.stream.ended", ended)
}

/// Returns the service, and the handle to drain it.
pub(crate) fn app(board: Arc<Board>, inbox: impl Inbox, secret: SharedSecret) -> (Router, Handle) {
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox).verify(secret.clone());
    let (handle, admin) = (webhooks.handle(), secret.header("x-admin-token"));
    let titles = get(async move || Json(board.titles.lock().await.clone()));
    let app = Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/{id}/replay", post(replay))
        .route_layer(from_fn_with_state(admin, guard)) // dead-letter reasons may quote payloads
        .with_state(handle.dead_letters().expect("a SQLite inbox keeps them"))
        .route("/", titles)
        .layer(webhooks);
    (app, handle)
}

async fn guard(admin: State<SharedSecret>, request: Request, next: Next) -> Result<Response> {
    let (parts, body) = request.into_parts();
    let verified = admin.verify_head(&parts);
    verified.map_err(|_| StatusCode::UNAUTHORIZED)?;
    Ok(next.run(Request::from_parts(parts, body)).await)
}

async fn list(letters: State<DeadLetters>) -> Result<Json<Vec<DeadLetter>>> {
    Ok(Json(letters.list(None, 100).await.map_err(unavailable)?))
}

async fn replay(letters: State<DeadLetters>, id: Path<u64>) -> Result<&'static str> {
    let found = letters.replay(*id).await.map_err(unavailable)?;
    Ok(found.then_some("replayed").ok_or(StatusCode::NOT_FOUND)?)
}

#[allow(clippy::needless_pass_by_value)] // `map_err` passes the error by value
fn unavailable(error: botisimo_webhooks::Error) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    common::log_to_stderr();
    let secret = SharedSecret::from_env("BOTISIMO_SECRET")?;
    let folder = env::var_os("DATA").map_or_else(env::temp_dir, PathBuf::from);
    let board = Board::open(folder.join("live-board.json")).await?;
    let key = |event: &Event| Some(event.decode::<Stream>().ok()?.channel);
    let delivery = DeliverySettings::new().ordering_key(key);
    let inbox = SqliteInbox::builder(folder.join("live-board.db"))
        .lock_timeout(Duration::from_secs(30)) // the old process drains while the new process starts
        .delivery(delivery.block_key_on_dead_letter()) // a replayed start must not run after its end
        .open(router(&board))
        .await?;
    let (app, handle) = app(board, inbox, secret);
    let listener = common::listen().await?;
    let server = |drained| axum::serve(listener, app).with_graceful_shutdown(drained);
    handle.shutdown_on_signal().serve(server).await?;
    Ok(())
}
