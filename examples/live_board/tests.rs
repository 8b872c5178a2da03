//! Tests the example `live_board` through its router and inbox.

#[path = "../live_board.rs"]
#[allow(dead_code)] // `main` isn't called here
mod live_board;

use std::fs;
use std::path::Path;

use axum::Router;
use axum::body::Body;
use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{DeliverySettings, RetryPolicy, SharedSecret, SqliteInbox};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Returns the service over a folder, and a harness that delivers events to the service.
async fn open(folder: &Path) -> (Router, Harness) {
    let board = live_board::Board::open(folder.join("board/titles.json")).await;
    let board = board.expect("the file can be read");
    let inbox = SqliteInbox::builder(folder.join("inbox.db"))
        .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
        .open(live_board::router(&board))
        .await
        .expect("the inbox opens");
    let (app, handle) = live_board::app(board, inbox, SharedSecret::in_query("token", "s3cret"));
    (app.clone(), Harness::service(app, handle))
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for the files");
    fs::create_dir(folder.path().join("board")).expect("a folder for the board");
    folder
}

fn started(channel: &str, title: &str) -> MockRequest {
    let data = json!({ "channel": channel, "title": title, "viewers": 3 });
    let request = MockRequest::event("connection.stream.started.twitch").data(data);
    request.query("token", "s3cret")
}

async fn request(app: &Router, method: Method, path: &str, token: &str) -> (StatusCode, Vec<u8>) {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("x-admin-token", token).body(Body::empty());
    let response = app.clone().oneshot(request.expect("a valid request")).await;
    let (head, body) = response.expect("axum never fails").into_parts();
    let body = body
        .collect()
        .await
        .expect("the body is complete")
        .to_bytes();
    (head.status, body.to_vec())
}

async fn get(app: &Router, path: &str) -> Value {
    let (status, body) = request(app, Method::GET, path, "s3cret").await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_slice(&body).expect("the body is JSON")
}

#[tokio::test]
async fn a_channel_is_listed_from_its_start_to_its_end() {
    let folder = folder();
    let (app, harness) = open(folder.path()).await;
    harness
        .deliver(started("ada", "Any%"))
        .await
        .assert_handled("connection.stream.started[.*]");
    assert_eq!(get(&app, "/").await, json!({ "ada": "Any%" }));

    let ended = MockRequest::event("connection.stream.ended").data(json!({ "channel": "ada" }));
    harness
        .deliver(ended.query("token", "s3cret"))
        .await
        .assert_handled("connection.stream.ended[.*]");
    assert_eq!(get(&app, "/").await, json!({}));
}

#[tokio::test]
async fn an_event_without_the_secret_is_rejected() {
    let folder = folder();
    let (app, harness) = open(folder.path()).await;
    let forged = MockRequest::event("connection.stream.started").data(json!({ "channel": "ada" }));
    harness.deliver(forged).await.assert_status(401);
    assert_eq!(get(&app, "/").await, json!({}));
}

#[tokio::test]
async fn the_titles_survive_a_restart() {
    let folder = folder();
    let (_, harness) = open(folder.path()).await;
    harness
        .deliver(started("ada", "Any%"))
        .await
        .assert_status(200);
    let board = live_board::Board::open(folder.path().join("board/titles.json")).await;
    let board = board.expect("the file can be read");
    let (app, _) = live_board::app(
        board,
        botisimo_webhooks::MemoryInbox::new(botisimo_webhooks::EventRouter::new()),
        SharedSecret::in_query("token", "s3cret"),
    );
    assert_eq!(get(&app, "/").await, json!({ "ada": "Any%" }));
}

#[tokio::test]
async fn a_failed_event_is_listed_and_replayed_over_http() {
    let folder = folder();
    let (app, harness) = open(folder.path()).await;
    fs::remove_dir_all(folder.path().join("board")).expect("the folder can be removed");
    let delivered = harness
        .deliver(started("ada", "Any%").message_id("m-1"))
        .await;
    delivered.assert_status(200);
    let letters = get(&app, "/dead-letters").await;
    let id = letters[0]["id"].as_u64().expect("the letter has an id");
    assert_eq!(letters[0]["message_id"], "m-1");
    let reason = letters[0]["routes"][0]["reason"].as_str();
    assert!(
        reason.is_some_and(|reason| reason.starts_with("failed: ")),
        "{letters}"
    );

    fs::create_dir(folder.path().join("board")).expect("the folder can be created again");
    let path = format!("/dead-letters/{id}/replay");
    assert_eq!(
        request(&app, Method::POST, &path, "wrong").await.0,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        request(&app, Method::GET, "/dead-letters", "").await.0,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        request(&app, Method::POST, &path, "s3cret").await.0,
        StatusCode::OK
    );
    // Waits until the replayed event has also finished.
    harness
        .deliver(started("bob", "100%"))
        .await
        .assert_status(200);
    assert_eq!(
        get(&app, "/").await,
        json!({ "ada": "Any%", "bob": "100%" })
    );
    assert_eq!(get(&app, "/dead-letters").await, json!([]));
    assert_eq!(
        request(&app, Method::POST, &path, "s3cret").await.0,
        StatusCode::NOT_FOUND
    );
}
