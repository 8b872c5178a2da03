//! The receiver accepts verified requests, answers all other requests with 401, and never shows a secret.

#[cfg(feature = "tracing")]
use std::sync::{Arc, Mutex};

use crate::support::malformed::Malformed;
use crate::support::panics::catch_panic;
use crate::support::receiver::{PATH, Script, Step, ask, good, idle, teapot};
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Endpoint, Event, EventRouter, SharedSecret, Unverified, Verify, WebhookLayer,
};
#[cfg(feature = "tracing")]
use botisimo_webhooks::{HandlerError, MemoryInbox, RetryPolicy};
use http::request::Parts;
use tower::Layer;

const SECRET: &str = "hush-hush-secret";
const PAYLOAD: &str = "private-payload";

/// Sends the request to an endpoint with this secret, and returns the status.
async fn status(secret: SharedSecret, request: MockRequest) -> u16 {
    let webhooks = WebhookLayer::new("/", idle()).verify(secret).endpoint();
    let answer = ask(&webhooks, request.build::<Script>()).await;
    answer.status().as_u16()
}

#[tokio::test]
async fn only_the_right_secret_in_the_query_is_accepted() {
    let secret = || SharedSecret::in_query("token", "s3 cret&=%/é");
    for (query, expected) in [
        // Browsers and `encodeURIComponent` encode a secret differently. Users may encode only part of a secret,
        // or none of it.
        ("?token=s3+cret%26%3D%25%2F%C3%A9", 200),
        ("?token=s3%20cret%26%3d%25/%c3%a9", 200),
        ("?%74oken=s3%20cret%26%3D%25%2F%C3%A9", 200),
        ("?a=b&token=s3+cret%26%3D%25%2F%C3%A9&c=d", 200),
        ("?token=wrong&token=s3+cret%26%3D%25%2F%C3%A9", 200),
        ("", 401),
        ("?", 401),
        ("?token", 401),
        ("?token=", 401),
        ("?token=s3+cret%26%3D%25%2F", 401),
        ("?token=s3+cret%26%3D%25%2F%C3%A9x", 401),
        ("?token=S3+CRET%26%3D%25%2F%C3%A9", 401),
        ("?token=s3+cret&=%25%2F%C3%A9", 401),
        ("?Token=s3+cret%26%3D%25%2F%C3%A9", 401),
        ("?tokens=s3+cret%26%3D%25%2F%C3%A9", 401),
        ("?other=s3+cret%26%3D%25%2F%C3%A9", 401),
        ("?s3+cret%26%3D%25%2F%C3%A9", 401),
    ] {
        let request = good().path(format!("{PATH}{query}"));
        assert_eq!(status(secret(), request).await, expected, "{query}");
    }
}

#[tokio::test]
async fn only_the_right_secret_in_a_header_is_accepted() {
    let secret = || SharedSecret::in_header("X-Secret", "s3cret");
    assert_eq!(
        status(secret(), good().header("x-secret", "s3cret")).await,
        200
    );
    for wrong in [
        "",
        "s3cre",
        "s3crets",
        "S3CRET",
        "Bearer s3cret",
        "s3cret,s3cret",
    ] {
        assert_eq!(
            status(secret(), good().header("x-secret", wrong)).await,
            401,
            "{wrong}"
        );
    }
    assert_eq!(status(secret(), good()).await, 401);
    assert_eq!(
        status(secret(), good().query("X-Secret", "s3cret")).await,
        401
    );
    assert_eq!(
        status(secret(), good().header("x-other", "s3cret")).await,
        401
    );
}

#[tokio::test]
async fn a_secret_in_a_header_may_be_non_utf_8_bytes() {
    let secret = SharedSecret::in_header("x-secret", b"\xff\xfe");
    assert_eq!(
        status(secret.clone(), good().header("x-secret", &b"\xff\xfe"[..])).await,
        200
    );
    assert_eq!(
        status(secret, good().header("x-secret", &b"\xff\xff"[..])).await,
        401
    );
}

#[tokio::test]
async fn several_secrets_are_accepted_during_a_rotation() {
    let secret = SharedSecret::in_query("token", "new").or("old").or("older");
    for (given, expected) in [("new", 200), ("old", 200), ("older", 200), ("oldest", 401)] {
        assert_eq!(
            status(secret.clone(), good().query("token", given)).await,
            expected,
            "{given}"
        );
    }
}

#[tokio::test]
async fn a_second_verify_replaces_the_first() {
    let webhooks = WebhookLayer::new("/", idle())
        .verify(SharedSecret::in_query("token", "first"))
        .verify(SharedSecret::in_query("token", "second"))
        .endpoint();
    for (given, expected) in [("first", 401), ("second", 200)] {
        let request = good().query("token", given).build::<Script>();
        assert_eq!(ask(&webhooks, request).await.status(), expected);
    }
}

#[tokio::test]
async fn a_missing_secret_is_answered_401_before_the_body_is_read() {
    let webhooks = WebhookLayer::new("/", idle())
        .verify(SharedSecret::in_query("token", SECRET))
        .endpoint();
    // If a client expects a 100, the receiver drains nothing, so nothing may poll the body.
    let request = good().header("expect", "100-continue").build::<Script>();
    let request = request.map(|_| Script::new([Step::Panic]));
    assert_eq!(ask(&webhooks, request).await.status(), 401);
    // The answer doesn't depend on the body.
    let request = good()
        .truncated()
        .header("content-type", "text/plain")
        .build::<Script>();
    assert_eq!(ask(&webhooks, request).await.status(), 401);
}

#[tokio::test]
async fn a_request_with_a_wrong_secret_is_counted_and_reaches_no_handler() {
    let webhooks = WebhookLayer::new(
        "/",
        EventRouter::new().on_any(|_: Event| async { panic!("ran") }),
    )
    .verify(SharedSecret::in_query("token", SECRET))
    .endpoint();
    let handle = webhooks.handle();
    let request = good().query("token", "wrong").build::<Script>();
    assert_eq!(ask(&webhooks, request).await.status(), 401);
    handle.wait_idle().await;
    assert_eq!((handle.stats().unverified, handle.stats().accepted), (1, 0));
}

#[tokio::test]
async fn requests_for_other_paths_need_no_secret() {
    let layer = WebhookLayer::new(PATH, idle()).verify(SharedSecret::in_query("token", SECRET));
    let request = good().path("/").build::<Script>();
    assert_eq!(ask(&layer.layer(teapot()), request).await.status(), 418);
}

/// A verifier that requires the body's length in a header.
struct Length;

impl Length {
    fn declared(parts: &Parts) -> Option<usize> {
        parts.headers.get("x-length")?.to_str().ok()?.parse().ok()
    }
}

impl Verify for Length {
    fn verify_head(&self, parts: &Parts) -> Result<(), Unverified> {
        Self::declared(parts).map(|_| ()).ok_or(Unverified)
    }

    fn verify_body(&self, parts: &Parts, body: &[u8]) -> Result<(), Unverified> {
        if Self::declared(parts) == Some(body.len()) {
            Ok(())
        } else {
            Err(Unverified)
        }
    }
}

#[tokio::test]
async fn a_custom_verifier_receives_the_head_and_the_whole_body() {
    let webhooks = WebhookLayer::new("/", idle()).verify(Length).endpoint();
    let body = good().body_bytes();
    let (all, less) = (body.len().to_string(), (body.len() - 1).to_string());
    for (length, expected) in [(all.as_str(), 200), (&less, 401), ("no number", 401)] {
        let request = good().body(body.clone()).header("x-length", length);
        let halves = [body.slice(..9), body.slice(9..)].map(Step::Data);
        let request = request.build::<Script>().map(|_| Script::new(halves));
        assert_eq!(ask(&webhooks, request).await.status(), expected, "{length}");
    }
    // The verifier runs before the receiver decodes the body.
    let request = good()
        .body("not JSON")
        .header("x-length", "1")
        .build::<Script>();
    assert_eq!(ask(&webhooks, request).await.status(), 401);
}

// Panics name the line of the caller

/// Returns the file and the line that the panic of `code` names.
fn panicked_at(code: impl FnOnce()) -> Option<(String, u32)> {
    catch_panic(code).map(|panic| (panic.file, panic.line))
}

#[test]
#[rustfmt::skip] // one line per case
fn an_empty_secret_panics_at_the_callers_line() {
    let first = line!() + 2;
    let cases = [
        panicked_at(|| drop(SharedSecret::in_query("token", ""))),
        panicked_at(|| drop(SharedSecret::in_header("x-secret", ""))),
        panicked_at(|| drop(SharedSecret::in_query("token", "s3cret").or(""))),
        panicked_at(|| drop(SharedSecret::in_header("no header", "s3cret"))),
    ];
    for (line, case) in (first..).zip(cases) {
        assert_eq!(case, Some((file!().to_owned(), line)));
    }
    assert_eq!(panicked_at(|| drop(SharedSecret::in_query("token", "s3cret"))), None);
}

// Secrets and payloads stay hidden

#[cfg(feature = "tracing")]
use crate::support::subscriber::capture;

#[track_caller]
fn assert_hidden(text: &str) {
    for hidden in [SECRET, PAYLOAD] {
        assert!(!text.contains(hidden), "{hidden} appears in {text}");
    }
}

#[tokio::test]
async fn no_debug_output_shows_a_secret() {
    let secret = SharedSecret::in_query("token", SECRET).or(format!("old-{SECRET}"));
    let layer = WebhookLayer::new(PATH, idle()).verify(secret.clone());
    let service = layer.layer(());
    for debug in [
        format!("{secret:?}"),
        format!("{layer:?} {layer:#?}"),
        format!("{:?}", layer.endpoint()),
        format!("{service:?}"),
        format!(
            "{:?} {:?}",
            layer.handle(),
            SharedSecret::in_header("x", SECRET)
        ),
    ] {
        assert_hidden(&debug);
        assert!(
            !debug.contains(&format!("{:?}", SECRET.as_bytes())[1..20]),
            "{debug}"
        );
    }
}

#[tokio::test(start_paused = true)]
#[cfg(feature = "tracing")]
async fn logs_errors_and_rejections_show_no_secret_and_no_payload() {
    #[derive(serde::Deserialize)]
    struct Number {
        #[expect(dead_code, reason = "it never fits")]
        number: u64,
    }
    let (log, _guard) = capture("trace");
    let router = EventRouter::new()
        .on("account.updated", |_: Event<Number>| async {})
        .on("account.created", |event: Event| async move {
            Err::<(), _>(HandlerError::permanent(event.raw_data().to_owned()))
        })
        .on("poll.created", |event: Event| async move {
            panic!("{}", event.raw_data())
        });
    let told = Arc::new(Mutex::new(String::new()));
    let tell = Arc::clone(&told);
    let webhooks = WebhookLayer::new(
        "/",
        MemoryInbox::builder()
            .delivery(
                DeliverySettings::new()
                    .retry(RetryPolicy::no_retry())
                    .redact_handler_errors(), // these handlers quote payloads
            )
            .build(router),
    )
    .verify(SharedSecret::in_query("token", SECRET).or(format!("old-{SECRET}")))
    .max_body_bytes(1000)
    .on_rejection(move |rejection| {
        let mut told = tell
            .lock()
            .expect("no thread panics while it holds the lock");
        *told += &format!("{rejection} {rejection:?} {:?}\n", rejection.error());
    })
    .endpoint();
    let handle = webhooks.handle();
    let good = |event: &str| {
        let data = serde_json::json!({ "number": PAYLOAD });
        MockRequest::event(event).data(data).query("token", SECRET)
    };
    let near = format!("{SECRET}-2");
    for request in [
        good("account.updated"),
        good("account.created"),
        good("poll.created"),
        good("not.documented"),
        good("account.updated").without("timestamp"),
        good("account.updated").twice("timestamp", format!("{PAYLOAD:?}")),
        good("account.updated").member("timestamp", PAYLOAD),
        good("account.updated").truncated(),
        good("account.updated").body(format!("[{PAYLOAD:?}]")),
        good("account.updated").body(PAYLOAD),
        good("account.updated").padded(1001),
        good("account.updated").method(http::Method::PUT),
        good("account.updated").header("content-type", "text/plain"),
        MockRequest::event("account.updated").data(PAYLOAD),
        MockRequest::event("account.updated")
            .query("token", near)
            .data(PAYLOAD),
    ] {
        let answer = ask(&webhooks, request.build::<Script>()).await;
        assert_hidden(&format!("{answer:?}"));
    }
    let stalled = good("account.updated").build::<Script>();
    let stalled = stalled.map(|_: Script| Script::new([Step::Stall]));
    assert_eq!(ask(&webhooks, stalled).await.status(), 408);
    handle.wait_idle().await;
    let _ = handle.drain(std::time::Duration::ZERO).await;
    let refused = ask(&webhooks, good("account.updated").build::<Script>()).await;
    assert_eq!(refused.status(), 503);

    let log = log.text();
    assert_hidden(&log);
    assert_hidden(
        &told
            .lock()
            .expect("no thread panics while it holds the lock"),
    );
    // Every message was logged, so the assertions above checked real output.
    for (text, times) in [
        ("event accepted", 4),
        ("attempt failed", 3),
        ("event unhandled", 1),
        ("webhook rejected", 13),
    ] {
        assert_eq!(log.matches(text).count(), times, "{text} in {log}");
    }
    assert_eq!(
        told.lock()
            .expect("no thread panics while it holds the lock")
            .lines()
            .count(),
        13
    );
}

// The warning about a missing verifier

#[cfg(feature = "tracing")]
const WARNING: &str = "webhooks are accepted from any client";

#[tokio::test]
#[cfg(feature = "tracing")]
async fn a_layer_without_verify_warns_exactly_once() {
    let (log, _guard) = capture("trace");
    let layer = WebhookLayer::new(PATH, idle()).max_body_bytes(500);
    let clone = layer
        .clone()
        .response_timeout(std::time::Duration::from_secs(1));
    for layer in [&layer, &layer, &clone] {
        let service = layer.layer(teapot());
        for service in [&service, &service.clone()] {
            assert_eq!(ask(service, good().build::<Script>()).await.status(), 200);
        }
    }
    assert_eq!(
        ask(&layer.endpoint(), good().build::<Script>())
            .await
            .status(),
        200
    );
    assert_eq!(log.text().matches(WARNING).count(), 1, "{}", log.text());
    assert!(log.text().contains("WARN"));
    assert_hidden(&log.text());

    // Each further layer warns once.
    let _ = WebhookLayer::new(PATH, idle()).layer(());
    assert_eq!(log.text().matches(WARNING).count(), 2);
}

#[tokio::test]
#[cfg(feature = "tracing")]
async fn an_endpoint_without_verify_warns_exactly_once() {
    let (log, _guard) = capture("trace");
    let webhooks = Endpoint::new(idle());
    for endpoint in [&webhooks, &webhooks.clone(), &webhooks] {
        assert_eq!(ask(endpoint, good().build::<Script>()).await.status(), 200);
    }
    assert_eq!(log.text().matches(WARNING).count(), 1, "{}", log.text());
}

#[tokio::test]
#[cfg(feature = "tracing")]
async fn layers_and_endpoints_with_verify_dont_warn() {
    let (log, _guard) = capture("trace");
    let layer = WebhookLayer::new(PATH, idle()).verify(SharedSecret::in_query("token", SECRET));
    let request = good().query("token", SECRET);
    assert_eq!(
        ask(&layer.layer(teapot()), request.build::<Script>())
            .await
            .status(),
        200
    );
    assert_eq!(
        ask(&layer.endpoint(), request.build::<Script>())
            .await
            .status(),
        200
    );
    assert!(!log.text().contains("WARN"), "{}", log.text());
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn warnings_about_unverified_requests_become_rarer_and_every_malformed_body_is_logged() {
    let (log, _guard) = capture("trace");
    let webhooks = WebhookLayer::new("/", EventRouter::new())
        .verify(SharedSecret::in_query("token", SECRET))
        .endpoint();
    for _ in 0..9 {
        let request = MockRequest::event("a").query("token", "wrong");
        assert_eq!(
            ask(&webhooks, request.build::<Script>()).await.status(),
            401
        );
    }
    for _ in 0..3 {
        let request = MockRequest::event("a").query("token", SECRET).truncated();
        assert_eq!(
            ask(&webhooks, request.build::<Script>()).await.status(),
            400
        );
    }
    let log = log.text();
    let of = |level: &str, status: &str| {
        let lines = log.lines().filter(|line| line.contains(status));
        lines.filter(|line| line.contains(level)).count()
    };
    // The receiver warns about rejections 1, 2, 4 and 8.
    assert_eq!((of("WARN", "401"), of("DEBUG", "401")), (4, 5), "{log}");
    assert_eq!((of("WARN", "400"), of("DEBUG", "400")), (3, 0), "{log}");
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn a_duplicate_is_logged_as_a_duplicate_and_not_as_accepted() {
    let (log, _guard) = capture("trace");
    let webhooks = Endpoint::new(idle());
    for _ in 0..3 {
        let request = MockRequest::event("account.updated").message_id("m-1");
        assert_eq!(
            ask(&webhooks, request.build::<Script>()).await.status(),
            200
        );
    }
    let log = log.text();
    let of = |text| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(
        (of("event accepted"), of("duplicate event")),
        (1, 2),
        "{log}"
    );
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn line_breaks_in_ids_and_event_types_add_no_lines_to_the_log() {
    let (log, _guard) = capture("trace");
    let webhooks = WebhookLayer::new("/", EventRouter::new())
        .verify(SharedSecret::in_query("token", SECRET))
        .endpoint();
    let request = MockRequest::event("a.b\nWARN forged: a line")
        .message_id("m-1\r\nERROR forged: another")
        .query("token", SECRET);
    assert_eq!(
        ask(&webhooks, request.build::<Script>()).await.status(),
        200
    );
    webhooks.handle().wait_idle().await;

    let log = log.text();
    assert!(log.matches("forged").count() > 1, "{log}");
    for line in log.lines() {
        assert!(line.contains("botisimo_webhooks"), "{line:?} in {log}");
    }
}

/// The bug: if a secret contained a `+`, as base64 can, and the URL contained this `+` unencoded, the receiver decoded
/// the `+` as a space.
#[tokio::test]
async fn a_plus_in_the_query_matches_a_plus_or_a_space() {
    for (secret, query, status) in [
        ("ab+cd=", "token=ab+cd=", 200),
        ("ab+cd=", "token=ab%2Bcd%3D", 200),
        ("ab cd", "token=ab+cd", 200),
        ("ab cd", "token=ab%20cd", 200),
        ("ab+cd", "token=ab%20cd", 401),
        ("ab cd", "token=ab%2Bcd", 401),
    ] {
        let webhooks = WebhookLayer::new("/", EventRouter::new())
            .verify(SharedSecret::in_query("token", secret))
            .endpoint();
        let request = MockRequest::event("account.updated").path(format!("/?{query}"));
        let answer = ask(&webhooks, request.build::<Script>()).await;
        assert_eq!(answer.status(), status, "{secret} by {query}");
    }
}

#[tokio::test]
async fn a_secret_in_the_query_need_not_be_utf_8() {
    let webhooks = WebhookLayer::new("/", EventRouter::new())
        .verify(SharedSecret::in_query("token", b"\xff\x00"))
        .endpoint();
    let request = |query| {
        MockRequest::event("account.updated")
            .path(format!("/?{query}"))
            .build::<Script>()
    };
    assert_eq!(ask(&webhooks, request("token=%FF%00")).await.status(), 200);
    assert_eq!(ask(&webhooks, request("token=%FE%00")).await.status(), 401);
}
