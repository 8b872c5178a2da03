//! The answers for programs: `format=json`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use botisimo_webhooks::{Access, EventFilter, InspectorBody, Permission, Replay};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::site::{Answer, Site, get, open_access, post};
use crate::support::subscriber::capture;

fn parsed(answer: &Answer) -> Value {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.header("content-type"), "application/json");
    serde_json::from_str(&answer.body).unwrap()
}

async fn watch(site: &Site, query: &str) -> InspectorBody {
    let query = format!("?page=feed&format=json{query}");
    site.call(get(&query)).await.into_body()
}

/// Returns the data of the next message.
async fn next(feed: &mut InspectorBody) -> Value {
    loop {
        let frame = feed.frame().await.unwrap().unwrap().into_data().unwrap();
        let message = String::from_utf8(frame.to_vec()).unwrap();
        if message == ": ping\n\n" {
            continue;
        }
        let data = message.strip_prefix("event: events\ndata: ").unwrap();
        return serde_json::from_str(data.strip_suffix("\n\n").unwrap()).unwrap();
    }
}

/// Sends a form with the answer as JSON, as a program does.
async fn act(site: &Site, form: &str) -> Answer {
    let mut request = post(form);
    *request.uri_mut() = "/admin?format=json".parse().unwrap();
    site.send(request).await
}

#[tokio::test(start_paused = true)]
async fn the_json_of_an_event_is_its_serialized_record_and_its_body() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    let events = site.handle().events();
    let record = events.get(1).await.unwrap().unwrap();
    let serialized = serde_json::to_value(&record).unwrap();

    let one = parsed(&site.get("?page=event&event=1&format=json").await);
    assert_eq!(one, json!({ "event": serialized, "body": record.body() }));
    for page in ["events", "dead-letters"] {
        let list = parsed(&site.get(&format!("?page={page}&format=json")).await);
        assert_eq!(list, json!({ "events": [serialized] }));
    }
    let none = site.get("?page=events&format=json&state=handled").await;
    assert_eq!(parsed(&none), json!({ "events": [] }));
    let mut feed = watch(&site, "").await;
    let message = next(&mut feed).await;
    assert_eq!(
        message,
        json!({ "from": 0, "ids": [1], "events": [serialized] })
    );
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_is_hidden_on_the_page_is_hidden_in_json() {
    let access = Access::from_fn(|_| Permission::read("ben")).hide_payloads_from_readers();
    let site = Site::new(access);
    site.accept("connection.stream.started", "1").await;
    let one = parsed(&site.get("?page=event&event=1&format=json").await);
    assert_eq!(one["body"], Value::Null);
    assert_eq!(one["event"]["message_id"], "1");
}

#[tokio::test(start_paused = true)]
async fn the_feed_has_each_change_and_the_ids_that_are_left() {
    let site = Site::new(open_access());
    for id in 1..=3 {
        site.accept("account.updated", &id.to_string()).await;
    }
    let mut feed = watch(&site, "&state=dead").await;
    let first = next(&mut feed).await;
    assert_eq!(first["ids"], json!([3, 2, 1]));
    assert_eq!(first["events"].as_array().unwrap().len(), 3);
    assert!(feed.frame().now_or_never().is_none(), "nothing has changed");

    let events = site.handle().events();
    events.delete(2).await.unwrap();
    let deleted = next(&mut feed).await;
    assert_eq!(deleted, json!({ "from": 0, "ids": [3, 1], "events": [] }));

    site.is_fixed.store(true, Ordering::SeqCst);
    events.replay(3, Replay::Remaining).await.unwrap();
    site.handle().wait_idle().await;
    let handled = next(&mut feed).await;
    assert_eq!(handled, json!({ "from": 0, "ids": [1], "events": [] }));
}

#[tokio::test(start_paused = true)]
async fn the_feed_says_which_events_it_covers() {
    let site = Site::new(open_access());
    for id in 1..=60 {
        site.accept("account.updated", &id.to_string()).await;
    }
    let mut feed = watch(&site, "").await;
    let first = next(&mut feed).await;
    assert_eq!(first["from"], 11);
    assert_eq!(first["ids"].as_array().unwrap().len(), 50);
    site.accept("account.updated", "61").await;
    let second = next(&mut feed).await;
    assert_eq!(
        (&second["from"], &second["ids"][0]),
        (&json!(12), &json!(61))
    );
    assert_eq!(second["events"].as_array().unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_action_answers_with_its_count_and_has_its_audit_line() {
    let (log, _guard) = capture("info");
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    let form = "do=replay-event&event=1&routes=remaining";
    assert_eq!(parsed(&act(&site, form).await), json!({ "count": 1 }));
    site.handle().wait_idle().await;
    log.line("replay remaining routes");
    let unknown = act(&site, "do=replay-event&event=99").await;
    assert_eq!(parsed(&unknown), json!({ "count": 0 }));
    let asked = act(&site, "do=delete-event&event=1").await;
    assert_eq!(asked.status, StatusCode::BAD_REQUEST);
    assert!(asked.body.contains("send `sure=yes`"), "{}", asked.body);
    let kept = site.handle().events().list(&EventFilter::new(), 9).await;
    assert_eq!(kept.unwrap().len(), 1);
    let deleted = act(&site, "do=delete-event&event=1&sure=yes").await;
    assert_eq!(parsed(&deleted), json!({ "count": 1 }));
}

#[tokio::test(start_paused = true)]
async fn json_changes_no_access_rule() {
    let reader = Site::new(Access::from_fn(|_| Permission::read("ben")));
    let refused = act(&reader, "do=replay-event&event=1").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);

    let site = Arc::new(Site::new(open_access()));
    site.accept("account.updated", "1").await;
    let form = "do=replay-event&event=1";
    let uri = "/admin?format=json";
    // A page of another site can't set `Sec-Fetch-Site`, and a client without it needs the token.
    for header in [
        Some(("sec-fetch-site", "cross-site")),
        Some(("origin", "http://evil.example")),
        None,
    ] {
        let mut request = Request::post(uri)
            .header("host", "localhost:3000")
            .header("content-type", "application/x-www-form-urlencoded");
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(form)).unwrap();
        assert_eq!(site.send(request).await.status, StatusCode::FORBIDDEN);
    }
    let request = Request::get("/admin?page=events&format=json").header("host", "evil.example");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    assert_eq!(site.send(request).await.status, StatusCode::FORBIDDEN);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(site.handle().stats().replayed, 0);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_plain_text() {
    let site = Site::new(open_access());
    for (query, status) in [
        ("?page=event&event=9&format=json", StatusCode::NOT_FOUND),
        ("?page=event&format=json", StatusCode::BAD_REQUEST),
        (
            "?page=events&format=json&since=never",
            StatusCode::BAD_REQUEST,
        ),
        ("?page=feed&format=json&state=gone", StatusCode::BAD_REQUEST),
        ("?page=overview&format=json", StatusCode::BAD_REQUEST),
        ("?page=nothing&format=json", StatusCode::NOT_FOUND),
    ] {
        let answer = site.get(query).await;
        assert_eq!(answer.status, status, "{query}");
        assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_message_is_not_older_than_the_connection() {
    let site = Site::new(open_access());
    site.accept("account.updated", "1").await;
    let mut first = watch(&site, "").await;
    assert_eq!(next(&mut first).await["ids"], json!([1]));
    // The bug: the rows of the last read were sent, so a client that had just listed the events lost event 2.
    site.accept("account.updated", "2").await;
    let mut second = watch(&site, "").await;
    assert_eq!(next(&mut second).await["ids"], json!([2, 1]));
    drop((first, second));
    tokio::time::sleep(Duration::from_secs(5)).await;
    site.accept("account.updated", "3").await;
    let mut third = watch(&site, "").await;
    assert_eq!(next(&mut third).await["ids"], json!([3, 2, 1]));
}

#[tokio::test(start_paused = true)]
async fn the_first_message_of_an_empty_inbox_has_no_ids() {
    let site = Site::new(open_access());
    let message = next(&mut watch(&site, "").await).await;
    assert_eq!(message, json!({ "from": 0, "ids": [], "events": [] }));
}
