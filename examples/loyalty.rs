//! Counts loyalty points in its own database. Every purchase counts exactly once. `DATA` is the folder of the files.
//!
//! ```text
//! cargo run --example loyalty
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' -d '{"messageId": "m-1",
//!   "timestamp": 1674489999154, "eventType": "shop_item.purchase.redeemed", "data": {"account": "ada", "purchase": "p-1", "points": 5}}'
//! curl http://127.0.0.1:3000/points/ada
//! ```

mod common;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{self, State};
use axum::http::StatusCode;
use axum::routing::get;
use botisimo_webhooks::{
    Event, EventRouter, HandlerResult, Inbox, RetryPolicy, SharedSecret, SqliteInbox, WebhookLayer,
};
use rusqlite::{Connection, params};
use serde::Deserialize;

#[derive(Deserialize)]
struct Purchase {
    account: String,
    purchase: String,
    points: i64,
}

/// The points of all accounts, in a database.
#[derive(Clone)]
pub(crate) struct Points {
    database: Arc<Mutex<Connection>>,
}

impl Points {
    pub(crate) fn open(path: &Path) -> rusqlite::Result<Self> {
        let database = Connection::open(path)?;
        // Each purchase has one row, and the balance is a sum over the rows. So no purchase can count twice.
        database.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
            CREATE TABLE IF NOT EXISTS purchases (id TEXT PRIMARY KEY, account TEXT NOT NULL, points INTEGER NOT NULL) STRICT;
            CREATE INDEX IF NOT EXISTS purchases_by_account ON purchases (account);",
        )?;
        Ok(Self {
            database: Arc::new(Mutex::new(database)),
        })
    }

    /// Runs a query on a thread that may block.
    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Box<dyn Error + Send + Sync>> {
        let database = Arc::clone(&self.database);
        let query = move || query(&database.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(tokio::task::spawn_blocking(query).await??)
    }

    /// Adds a purchase. A purchase that the database has already doesn't count again.
    async fn add(self, event: Event<Purchase>) -> HandlerResult {
        let insert = move |database: &Connection| {
            let Purchase {
                account,
                purchase,
                points,
            } = event.data();
            let sql = "INSERT INTO purchases VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
            database.execute(sql, params![purchase, account, points])
        };
        self.query(insert).await?;
        Ok(())
    }

    pub(crate) async fn of(&self, account: String) -> Result<i64, Box<dyn Error + Send + Sync>> {
        let sql = "SELECT ifnull(sum(points), 0) FROM purchases WHERE account = ?1";
        let sum = move |database: &Connection| database.query_row(sql, [account], |row| row.get(0));
        self.query(sum).await
    }
}

pub(crate) fn router(points: &Points) -> EventRouter {
    let points = points.clone();
    EventRouter::new()
        .on_prefix("shop_item.purchase.redeemed", async move |event| {
            points.add(event).await
        })
        .named("points")
        // The database may be down for hours, and no purchase may be lost.
        .retry(
            RetryPolicy::new()
                .max_attempts(100)
                .max_delay(Duration::from_secs(600)),
        )
}

pub(crate) fn app(
    points: Points,
    inbox: impl Inbox,
    secret: SharedSecret,
) -> (Router, botisimo_webhooks::Handle) {
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox).verify(secret);
    let handle = webhooks.handle();
    let balance = async |State(points): State<Points>,
                         extract::Path(account): extract::Path<String>| {
        let balance = points.of(account).await;
        let balance =
            balance.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
        Ok::<_, (StatusCode, String)>(format!("{balance}\n"))
    };
    let app = Router::new().route("/points/{account}", get(balance));
    (app.with_state(points).layer(webhooks), handle)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    common::log_to_stderr();
    let folder = env::var_os("DATA").map_or_else(env::temp_dir, PathBuf::from);
    let points = Points::open(&folder.join("loyalty-points.db"))?;
    let inbox = SqliteInbox::builder(folder.join("loyalty-inbox.db"))
        .lock_timeout(Duration::from_secs(30))
        .open(router(&points))
        .await?;
    let secret = SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET");
    let (app, handle) = app(points, inbox, secret);
    let listener = common::listen().await?;
    let server = |drained| axum::serve(listener, app).with_graceful_shutdown(drained);
    handle.shutdown_on_signal().serve(server).await?;
    Ok(())
}
