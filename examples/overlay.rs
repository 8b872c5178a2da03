//! Serves the latest state of each stream to an overlay. An older event never replaces a newer state, in any order of arrival.
//! The environment variable `INBOX` sets the path of the inbox's file.
//!
//! ```text
//! cargo run --example overlay
//! curl -i http://127.0.0.1:3000/webhooks/botisimo -H 'content-type: application/json' -d '{"messageId": "m-1",
//!   "timestamp": '$(date +%s)000', "eventType": "connection.stream.started", "data": {"account": "ada", "title": "Any%"}}'
//! curl http://127.0.0.1:3000/
//! ```

mod common;

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::routing::get;
use axum::{Json, Router};
use botisimo_webhooks::{
    Event, EventFilter, EventLog, EventRouter, Handle, HandlerResult, Inbox, Pattern, SharedSecret,
    SqliteInbox, WebhookLayer,
};
use serde::{Deserialize, Serialize};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Deserialize)]
struct Stream {
    account: String,
    #[serde(default)]
    title: String,
}

/// The state of a stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Status {
    /// The sender's time of the event that set this state, in milliseconds since the Unix epoch.
    since: i64,
    is_live: bool,
    title: String,
}

/// The latest state of each account's stream.
#[derive(Clone, Default)]
pub(crate) struct Overlay {
    streams: Arc<Mutex<BTreeMap<String, Status>>>,
}

impl Overlay {
    pub(crate) fn streams(&self) -> MutexGuard<'_, BTreeMap<String, Status>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the state, unless a newer event has set it.
    fn update(&self, event: &Event, stream: Stream) {
        let since = event.timestamp_millis();
        let is_live = event
            .event_type()
            .as_str()
            .starts_with("connection.stream.started");
        let Stream { account, title } = stream;
        let mut streams = self.streams();
        if streams
            .get(&account)
            .is_none_or(|status| status.since <= since)
        {
            streams.insert(
                account,
                Status {
                    since,
                    is_live,
                    title,
                },
            );
        }
    }

    /// Restores the states from the events that the inbox has kept.
    pub(crate) async fn restore(&self, events: &EventLog) -> Result<(), botisimo_webhooks::Error> {
        let filter = EventFilter::new().event_type(Pattern::prefix("connection.stream")?);
        for record in events.list(&filter, 1000).await? {
            if let Ok(event) = record.event()
                && let Ok(stream) = event.decode()
            {
                self.update(event, stream);
            }
        }
        Ok(())
    }
}

pub(crate) fn router(overlay: &Overlay) -> EventRouter {
    let overlay = overlay.clone();
    let update = async move |event: Event| {
        let stream = event.decode()?;
        overlay.update(&event, stream);
        HandlerResult::Ok(())
    };
    EventRouter::new()
        .on_prefix("connection.stream.started", update.clone())
        .named("started")
        // After an outage, yesterday's state doesn't matter.
        .fresh_within(DAY)
        .on_prefix("connection.stream.ended", update)
        .named("ended")
        .fresh_within(DAY)
}

pub(crate) fn app(overlay: Overlay, inbox: impl Inbox, secret: SharedSecret) -> (Router, Handle) {
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox).verify(secret);
    let handle = webhooks.handle();
    let streams = get(async move || Json(overlay.streams().clone()));
    (Router::new().route("/", streams).layer(webhooks), handle)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    common::log_to_stderr();
    let path = env::var_os("INBOX").map(PathBuf::from);
    let path = path.unwrap_or_else(|| env::temp_dir().join("botisimo-overlay.db"));
    let overlay = Overlay::default();
    let inbox = SqliteInbox::builder(&path)
        .lock_timeout(Duration::from_secs(30))
        .keep_handled(DAY)
        .open(router(&overlay))
        .await?;
    overlay.restore(&inbox.handle().events()).await?;
    let secret = SharedSecret::from_env_or_accept_all("BOTISIMO_SECRET");
    let (app, handle) = app(overlay, inbox, secret);
    let listener = common::listen().await?;
    let server = |drained| axum::serve(listener, app).with_graceful_shutdown(drained);
    handle.shutdown_on_signal().serve(server).await?;
    Ok(())
}
