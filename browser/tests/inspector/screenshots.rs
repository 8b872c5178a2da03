//! The pictures of the guide.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use botisimo_webhooks::testing::MockRequest;
use serde_json::json;

use crate::browser::{Browser, Options};
use crate::site::Site;

/// Takes a picture of each page. With `UPDATE_PICTURES=1`, also replaces the pictures of the guide.
#[tokio::test(flavor = "multi_thread")]
async fn each_page_has_a_picture_in_the_guide() {
    let site = Site::start().await;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let event = |event_type: &str, id: &str| {
        MockRequest::event(event_type)
            .message_id(id)
            .member("timestamp", now)
    };
    for number in 1..=9 {
        let title =
            json!({ "title": "Any% speedrun, day 3", "platform": "twitch", "viewers": 128 });
        let event = event(
            "connection.stream.started.twitch",
            &format!("7f3c0a1e-{number}"),
        );
        site.accept_event(event.data(title).to_event()).await;
    }
    for number in 1..=3 {
        let event = event("account.updated", &format!("b81d44f0-{number}"));
        site.accept_event(event.data(json!({ "name": "kit" })).to_event())
            .await;
    }
    let event = event("poll.created", "c02e9d35-1");
    site.accept_event(
        event
            .data(json!({ "question": "Which game next?", "seconds": 60 }))
            .to_event(),
    )
    .await;
    let browser = Browser::open(Options::default()).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/guide/images");
    let mut definitions = String::new();
    for (name, query) in [
        ("overview", ""),
        ("events", "?page=events"),
        ("event", "?page=event&event=13"),
        ("dead-letters", "?page=dead-letters"),
        ("routes", "?page=routes&type=account.updated"),
    ] {
        browser.go(&site.url(query)).await;
        if query != "?page=dead-letters" {
            browser.until("#live", "Live").await;
        }
        let picture = browser.picture().await;
        let bytes = STANDARD.decode(&picture).unwrap();
        assert!(
            bytes.starts_with(b"RIFF") && bytes.len() > 5_000,
            "{name} has {} bytes",
            bytes.len()
        );
        let file = folder.join(format!("{name}.webp"));
        if std::env::var_os("UPDATE_PICTURES").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, bytes).unwrap();
        }
        assert!(
            file.exists(),
            "{name} has no picture: set UPDATE_PICTURES=1"
        );
        writeln!(definitions, "[{name}]: data:image/webp;base64,{picture}").unwrap();
    }
    if std::env::var_os("UPDATE_PICTURES").is_some() {
        fs::write(folder.join("inspector.txt"), definitions).unwrap();
    }
    browser.close().await;
}
