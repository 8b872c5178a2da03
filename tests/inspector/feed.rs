//! The live feed.

use std::time::Duration;

use botisimo_webhooks::InspectorBody;
use futures_util::FutureExt;
use http::StatusCode;
use http_body_util::BodyExt;

use crate::site::{Site, get, open_access};

/// Connects, and returns the connection.
async fn watch(site: &Site, query: &str) -> InspectorBody {
    let response = site.call(get(&format!("?page=feed{query}"))).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body()
}

/// Returns the next message, or `None` if the feed has ended.
async fn next(feed: &mut InspectorBody) -> Option<String> {
    let frame = feed.frame().await?;
    let data = frame.unwrap().into_data().unwrap();
    Some(String::from_utf8(data.to_vec()).unwrap())
}

/// Returns the next message that isn't a comment.
async fn rows(feed: &mut InspectorBody) -> String {
    loop {
        let message = next(feed).await.unwrap();
        if message != ": ping\n\n" {
            return message;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_gets_each_row_once_and_again_when_it_changes() {
    let site = Site::new(open_access());
    site.accept("account.updated", "first").await;
    let mut feed = watch(&site, "").await;
    let message = rows(&mut feed).await;
    assert!(message.starts_with("event: rows\ndata: {"), "{message}");
    assert!(message.contains("first") && message.ends_with("\n\n"));
    assert!(feed.frame().now_or_never().is_none(), "nothing has changed");

    site.accept("connection.stream.started", "second").await;
    let message = rows(&mut feed).await;
    assert!(
        message.contains("second") && !message.contains("first"),
        "{message}"
    );

    site.is_fixed
        .store(true, std::sync::atomic::Ordering::SeqCst);
    site.post("do=replay-event&event=1").await;
    let message = rows(&mut feed).await;
    assert!(
        message.contains("first") && !message.contains("second"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_watcher_gets_only_the_rows_that_match_its_filter() {
    let site = Site::new(open_access());
    site.accept("account.updated", "dead").await;
    site.accept("connection.stream.started", "handled").await;
    let mut feed = watch(&site, "&state=dead").await;
    let message = rows(&mut feed).await;
    assert!(
        message.contains("\"gone\":[2]") && message.contains("dead"),
        "{message}"
    );
    site.is_fixed
        .store(true, std::sync::atomic::Ordering::SeqCst);
    site.post("do=replay-event&event=1").await;
    assert!(
        rows(&mut feed).await.contains("\"gone\":[1]"),
        "the event isn't dead any more"
    );
    assert_eq!(
        site.get("?page=feed&since=never").await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test(start_paused = true)]
async fn too_many_watchers_are_refused_and_a_free_place_is_reused() {
    let site = Site::new(open_access());
    let mut feeds = Vec::new();
    for _ in 0..256 {
        feeds.push(watch(&site, "").await);
    }
    assert_eq!(
        site.get("?page=feed").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    feeds.pop();
    feeds.push(watch(&site, "").await);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_doesnt_read_is_dropped_and_others_stay() {
    let site = Site::new(open_access());
    let (mut slow, mut fast) = (watch(&site, "").await, watch(&site, "").await);
    for _ in 0..8 {
        // Comments keep the connection of a reader alive.
        assert_eq!(next(&mut fast).await.as_deref(), Some(": ping\n\n"));
    }
    assert_eq!(next(&mut slow).await, None);
    site.accept("account.updated", "1").await;
    assert!(rows(&mut fast).await.contains("event-1"));
}

#[tokio::test(start_paused = true)]
async fn after_15_minutes_a_watcher_ends_so_that_its_access_is_checked_again() {
    let site = Site::new(open_access());
    let mut feed = watch(&site, "").await;
    let started = tokio::time::Instant::now();
    while next(&mut feed).await.is_some() {}
    let minutes = started.elapsed().as_secs() / 60;
    assert_eq!(minutes, 15);
}

#[tokio::test(start_paused = true)]
async fn the_feed_ends_when_the_inbox_drains() {
    let site = Site::new(open_access());
    let mut feed = watch(&site, "").await;
    site.handle().drain(Duration::ZERO).await;
    while let Some(message) = next(&mut feed).await {
        assert_eq!(message, ": ping\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn the_feed_stops_reading_without_watchers_and_starts_again() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    for _ in 0..3 {
        let mut feed = watch(&site, "").await;
        assert!(rows(&mut feed).await.contains("event-1"));
        drop(feed);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks(),
            1,
            "only the monitor's task is left"
        );
    }
}

/// In an earlier version, a live list showed a deleted event until the next reload.
#[tokio::test(start_paused = true)]
async fn a_deleted_event_leaves_the_live_list() {
    let site = Site::new(open_access());
    for id in ["1", "2", "3"] {
        site.accept("connection.stream.started", id).await;
    }
    let mut feed = watch(&site, "").await;
    assert!(rows(&mut feed).await.contains("\"gone\":[]"));
    for (id, form) in [(2, "event=2"), (3, "event=3"), (1, "event=1")] {
        site.post(&format!("do=delete-event&sure=yes&{form}")).await;
        let message = rows(&mut feed).await;
        let expected = format!("{{\"rows\":[],\"gone\":[{id}]}}");
        assert!(message.contains(&expected), "{message}");
    }
}

/// In an earlier version, the first watcher after a pause got the rows that the feed had read before the pause.
#[tokio::test(start_paused = true)]
async fn a_new_watcher_gets_no_rows_of_an_earlier_watcher() {
    let site = Site::new(open_access());
    for id in ["old", "new"] {
        site.accept("connection.stream.started", id).await;
    }
    for query in ["", "&format=json"] {
        let mut feed = watch(&site, query).await;
        assert!(rows(&mut feed).await.contains("\"message_id\":\"new\"") || query.is_empty());
        drop(feed);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    site.post("do=delete-event&sure=yes&event=1").await;
    for query in ["", "&format=json"] {
        let mut feed = watch(&site, query).await;
        assert!(feed.frame().now_or_never().is_none(), "nothing is read yet");
        let message = rows(&mut feed).await;
        assert!(
            message.contains("new") && !message.contains("old"),
            "{message}"
        );
        drop(feed);
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
}
