//! The overlay shows the latest state of each stream.

#[path = "../../examples/overlay.rs"]
#[allow(dead_code)] // `main` isn't called here
mod example;

use std::time::Duration;

use botisimo_webhooks::{Event, Inbox, SqliteInbox};
use serde_json::json;

use self::example::{Overlay, router};
use super::{accept, ago, in_a_process};
use crate::support::sqlite::InboxFile;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn event(id: &str, state: &str, minutes: u64, title: &str) -> Event {
    let data = json!({ "account": "ada", "title": title });
    let age = Duration::from_secs(minutes * 60);
    ago(&format!("connection.stream.{state}"), id, age, data)
}

async fn open(file: &InboxFile, overlay: &Overlay) -> SqliteInbox {
    let builder = file.inbox().keep_handled(DAY);
    builder.open(router(overlay)).await.unwrap()
}

/// Returns the state as JSON, without its time.
fn shown(overlay: &Overlay) -> serde_json::Value {
    let Some(status) = overlay.streams().get("ada").cloned() else {
        return serde_json::Value::Null;
    };
    let status = serde_json::to_value(status).unwrap();
    json!([status["is_live"], status["title"]])
}

#[tokio::test]
async fn an_older_event_changes_nothing_in_any_order_of_arrival() {
    let file = InboxFile::new();
    let overlay = Overlay::default();
    let inbox = open(&file, &overlay).await;
    for (id, state, minutes, title, expected) in [
        ("m-1", "started", 30, "one", json!([true, "one"])),
        // A duplicate and a sibling of the start.
        ("m-1", "started", 30, "one", json!([true, "one"])),
        ("m-2", "started.twitch", 30, "one", json!([true, "one"])),
        ("m-3", "ended", 10, "one", json!([false, "one"])),
        // Two starts that arrive late.
        ("m-4", "started", 20, "two", json!([false, "one"])),
        ("m-5", "started.twitch", 40, "zero", json!([false, "one"])),
        ("m-6", "started", 5, "three", json!([true, "three"])),
    ] {
        accept(&inbox, [event(id, state, minutes, title)]).await;
        assert_eq!(shown(&overlay), expected, "{id}");
    }
}

#[tokio::test]
async fn after_an_outage_of_two_hours_the_latest_state_is_shown() {
    let file = InboxFile::new();
    let overlay = Overlay::default();
    let inbox = open(&file, &overlay).await;
    let missed = [
        event("m-2", "ended", 60, "one"),
        event("m-1", "started", 110, "one"),
        event("m-3", "started", 25 * 60, "of yesterday"),
    ];
    accept(&inbox, missed).await;
    assert_eq!(shown(&overlay), json!([false, "one"]));
    assert_eq!(inbox.handle().stats().skipped, 1);
}

#[test]
fn a_restart_restores_the_latest_state() {
    let file = InboxFile::new();
    in_a_process(async || {
        let overlay = Overlay::default();
        let inbox = open(&file, &overlay).await;
        let events = [
            event("m-1", "started", 20, "one"),
            event("m-2", "ended", 30, "zero"),
        ];
        accept(&inbox, events).await;
        assert_eq!(shown(&overlay), json!([true, "one"]));
    });
    in_a_process(async || {
        let overlay = Overlay::default();
        let inbox = open(&file, &overlay).await;
        assert_eq!(shown(&overlay), json!(null));
        overlay.restore(&inbox.handle().events()).await.unwrap();
        assert_eq!(shown(&overlay), json!([true, "one"]));
    });
}
