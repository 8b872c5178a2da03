//! The mock kit: the requests that mocks build, and the messages of failed assertions.

use std::panic::{AssertUnwindSafe, catch_unwind};

use axum::body::Body;
use botisimo_webhooks::testing::{DeliveryResult, Harness, MockRequest};
use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

fn json(mock: &MockRequest) -> Value {
    serde_json::from_slice(&mock.body_bytes()).unwrap()
}

#[test]
fn a_mock_builds_the_senders_request() {
    let mock = MockRequest::event("account.updated")
        .message_id("m-1")
        .data(json!({"name": "ada"}));
    let request: Request<Full<Bytes>> = mock.build();
    assert_eq!(
        (request.method(), request.uri().path()),
        (&Method::POST, "/webhooks/botisimo")
    );
    assert_eq!(request.headers()["content-type"], "application/json");
    let expected = json!({
        "messageId": "m-1",
        "timestamp": 1_674_489_999_154_i64,
        "eventType": "account.updated",
        "data": {"name": "ada"},
    });
    assert_eq!(json(&mock), expected);
    assert_eq!(mock.to_event().id(), "m-1");
}

#[test]
fn each_mock_has_its_own_id_by_default() {
    let (one, two) = (MockRequest::event("a"), MockRequest::event("a"));
    assert_ne!(one.to_event().id(), two.to_event().id());
    assert_eq!(one.to_event().id(), one.clone().to_event().id());
}

/// The bug: ids started at `mock-1` in each process, so a durable inbox treated the second run's events as duplicates.
#[test]
fn mocks_of_two_processes_have_different_ids() {
    const CHILD: &str = "PRINT_A_MOCKS_ID";
    if std::env::var_os(CHILD).is_some() {
        println!("\nid={}", MockRequest::event("a").to_event().id());
        return;
    }
    let id = || {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "testing_kit::mocks_of_two_processes_have_different_ids",
            ])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let output = String::from_utf8(child.stdout).unwrap();
        let id = output.lines().find_map(|line| line.strip_prefix("id="));
        id.expect("the child prints an id").to_owned()
    };
    assert_ne!(id(), id());
}

/// The bug: the mock escaped names as Rust strings, not as JSON.
#[test]
fn member_names_are_json() {
    let name = "\u{1f469}\u{200d}\u{1f4bb} \"\\\u{7f}\n";
    let mock = MockRequest::event("a").member(name, 1);
    assert_eq!(json(&mock)[name], 1);
}

/// The bug: if the path already contained a `?`, the mock wrote a second one.
#[test]
fn query_parameters_are_appended_to_a_query_in_the_path() {
    for (path, uri) in [
        ("/hook", "/hook?token=s&a=b"),
        ("/hook?", "/hook?token=s&a=b"),
        ("/hook?v=1", "/hook?v=1&token=s&a=b"),
        (
            "https://example.com/hook?v=1",
            "https://example.com/hook?v=1&token=s&a=b",
        ),
    ] {
        let mock = MockRequest::event("a")
            .path(path)
            .query("token", "s")
            .query("a", "b");
        assert_eq!(mock.build::<Full<Bytes>>().uri(), uri);
    }
}

#[test]
fn a_mock_can_be_malformed_on_purpose() {
    let mock = || MockRequest::event("account.updated");
    assert_eq!(
        json(&mock().member("timestamp", "late"))["timestamp"],
        "late"
    );
    assert_eq!(json(&mock().member("new", 1))["new"], 1);
    assert_eq!(mock().body("{").body_bytes(), "{");
    assert_eq!(mock().padded(2000).body_bytes().len(), 2000);
    assert_eq!(
        mock().padded(2000).to_event().event_type(),
        mock().to_event().event_type()
    );
    let request: Request<Full<Bytes>> = mock()
        .method(Method::PUT)
        .path("/elsewhere")
        .query("token", "a b&c")
        .header("x-secret", "s3cret")
        .header("content-type", "text/plain")
        .build();
    assert_eq!(
        (request.method(), request.uri()),
        (&Method::PUT, &"/elsewhere?token=a+b%26c".parse().unwrap())
    );
    assert_eq!(
        (
            &request.headers()["x-secret"],
            &request.headers()["content-type"]
        ),
        (&"s3cret".parse().unwrap(), &"text/plain".parse().unwrap())
    );
}

#[test]
fn setting_a_member_after_the_whole_body_panics() {
    let message = panic_of(|| drop(MockRequest::event("a").body("{}").message_id("m-1")));
    assert!(message.contains("set members before"), "{message}");
}

#[tokio::test]
async fn a_mock_works_with_oneshot_on_the_real_service() {
    let router = EventRouter::new().on("account.updated", |_: Event| async {});
    let webhooks =
        WebhookLayer::new("/hook", router).verify(SharedSecret::in_header("x-secret", "s3cret"));
    let app: axum::Router = axum::Router::new().layer(webhooks);
    let mock = MockRequest::event("account.updated").path("/hook");
    let answer = app.clone().oneshot(mock.build::<Body>()).await.unwrap();
    assert_eq!(answer.status(), 401);
    let answer = app
        .oneshot(mock.header("x-secret", "s3cret").build::<Body>())
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert!(
        answer
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}

/// Returns the message of the panic of `code`.
fn panic_of(code: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(code)).expect_err("it should have panicked");
    let text = payload.downcast_ref::<String>().cloned();
    text.or_else(|| {
        payload
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
    })
    .unwrap()
}

async fn deliver(mock: MockRequest) -> DeliveryResult {
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {})
        .on_prefix("account", |_: Event| async {
            Err::<(), _>("no such account")
        })
        .on_any(|_: Event<u8>| async {});
    Harness::new(router).deliver(mock).await
}

#[tokio::test]
async fn an_assertion_that_holds_prints_nothing() {
    let delivered = deliver(MockRequest::event("account.updated").data(7)).await;
    delivered.assert_status(200);
    delivered.assert_handled("account.updated");
    delivered.assert_handled("*");
    delivered.assert_failed("account[.*]", "no such account");
    assert!(delivered.outcome("fallback").is_none());
    assert_eq!(delivered.attempts().len(), 1);
    deliver(MockRequest::event("poll.created").data(7))
        .await
        .assert_unhandled();
}

#[tokio::test]
async fn a_failed_assertion_names_the_actual_result() {
    let delivered = deliver(MockRequest::event("account.updated").data("text")).await;
    let story = "the answer was 200 OK and this ran: account.updated handled, \
        account[.*] failed: no such account, * mismatched: `data` doesn't fit";
    for (message, expected) in [
        (
            panic_of(|| delivered.assert_status(400)),
            "expected the answer 400",
        ),
        (
            panic_of(|| delivered.assert_handled("account[.*]")),
            "expected `account[.*]` to handle the event",
        ),
        (
            panic_of(|| delivered.assert_handled("poll.created")),
            "expected `poll.created` to handle the event",
        ),
        (
            panic_of(|| delivered.assert_failed("account[.*]", "timed out")),
            "to fail with \"timed out\"",
        ),
        (
            panic_of(|| delivered.assert_failed("account.updated", "")),
            "expected `account.updated` to fail",
        ),
        (
            panic_of(|| delivered.assert_unhandled()),
            "expected no route to match",
        ),
    ] {
        assert!(message.contains(expected), "{message}");
        assert!(message.contains(story), "{message}");
    }
    let refused = deliver(MockRequest::event("account.updated").body("{")).await;
    let message = panic_of(|| refused.assert_handled("account.updated"));
    assert!(
        message.contains("the answer was 400 Bad Request (the body is not JSON) and no route ran"),
        "{message}"
    );
}

#[tokio::test]
async fn a_clone_of_a_mock_is_a_copy_of_its_event_and_a_failed_assertion_names_it() {
    let harness = Harness::new(EventRouter::new().on_any(|_: Event| async {}));
    let mock = MockRequest::event("account.updated");
    harness.deliver(mock.clone()).await.assert_handled("*");
    let copy = harness.deliver(mock).await;
    let message = panic_of(|| copy.assert_handled("*"));
    assert!(
        message.contains("no route ran, as for a duplicate messageId"),
        "{message}"
    );
}

#[tokio::test]
async fn reports_of_concurrent_events_stay_separate() {
    let harness = Harness::new(EventRouter::new().on("account.*", |_: Event| async {
        tokio::task::yield_now().await;
    }));
    let deliveries = (0..20).map(|i| {
        let harness = harness.clone();
        let mock = MockRequest::event(if i % 2 == 0 {
            "account.updated"
        } else {
            "poll.created"
        });
        async move { harness.deliver(mock).await }
    });
    for (i, delivered) in futures_util::future::join_all(deliveries)
        .await
        .iter()
        .enumerate()
    {
        assert_eq!(delivered.attempts().len(), 1);
        if i % 2 == 0 {
            delivered.assert_handled("account.*");
        } else {
            delivered.assert_unhandled();
        }
    }
}

#[tokio::test]
async fn a_recorded_delivery_becomes_a_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("000001-account.updated.json");
    let body =
        r#"{"messageId":"m-1","timestamp":1,"eventType":"account.updated","data":{"name":"ada"}}"#;
    let recording = json!({
        "version": 1,
        "received_at": "2026-11-27T16:00:00.000Z",
        "method": "POST",
        "path": "/hooks",
        "headers": [["content-type", "application/json"], ["content-length", "1"], ["host", "a"], ["x-twice", "1"], ["x-twice", "2"]],
        "body": body,
        "answer": { "status": 200, "headers": [], "body": "", "took_ms": 1.0 },
    });
    std::fs::write(&path, recording.to_string()).unwrap();
    let request = MockRequest::from_recording(&path).unwrap();
    assert_eq!(request.body_bytes(), body);
    let built: Request<Bytes> = request.build();
    assert_eq!(built.uri(), "/hooks");
    assert_eq!(built.headers().len(), 3, "{:?}", built.headers());
    assert_eq!(request.clone().message_id("m-2").to_event().id(), "m-2");
    let harness = Harness::new(EventRouter::new().on("account.updated", |_: Event| async {}));
    let request = request.path("/webhooks/botisimo");
    harness
        .deliver(request)
        .await
        .assert_handled("account.updated");
}

#[test]
fn a_recorded_body_keeps_its_bytes_and_a_wrong_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    let read = |file: Value| {
        std::fs::write(&path, file.to_string()).unwrap();
        MockRequest::from_recording(&path)
    };
    let file = |name: &str, value: Value| {
        let mut file =
            json!({ "version": 1, "method": "POST", "path": "/", "headers": [], "body": "{ }" });
        file[name] = value;
        file
    };
    assert_eq!(
        read(file("body", json!("{ \"a\": 1 }")))
            .unwrap()
            .body_bytes(),
        "{ \"a\": 1 }"
    );
    let mut hex = file("body_hex", json!("7bff"));
    hex["body"] = json!(null);
    assert_eq!(read(hex).unwrap().body_bytes(), &b"{\xff"[..]);
    for (name, value, expected) in [
        ("version", json!(2), "version 2"),
        ("version", json!(null), "`version` is missing"),
        ("body", json!(null), "was not recorded"),
        ("body_hex", json!("7"), "{ }"),
        ("method", json!("P T"), "`method`"),
        ("path", json!(1), "`path`"),
        ("headers", json!([["a b", "c"]]), "`headers`"),
    ] {
        match read(file(name, value)) {
            // `body` wins over `body_hex`.
            Ok(request) => assert_eq!(request.body_bytes(), expected),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
                assert!(error.to_string().contains(expected), "{error}");
                assert!(error.to_string().contains("a.json"), "{error}");
            }
        }
    }
    let missing = MockRequest::from_recording(folder.path().join("missing.json")).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
}
