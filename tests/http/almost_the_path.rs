//! Requests whose path is almost the layer's path: they pass through, and one warning for each form names the cure.

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use tower::Layer;

use crate::support::receiver::{ask, good, teapot};
use crate::support::subscriber::{Captured, capture};

const TEXT: &str = "a request passed through, because its path differs from the layer's path";

fn layer(path: &str) -> WebhookLayer {
    WebhookLayer::new(path, EventRouter::new().on_any(|_: Event| async {}))
        .verify(SharedSecret::in_query("token", "s3cret"))
}

/// Sends requests to a layer with this path, and returns the log of warnings.
async fn log_of(path: &str, requests: impl IntoIterator<Item = MockRequest>) -> Captured {
    let (log, _guard) = capture("warn");
    let webhooks = layer(path);
    for request in requests {
        // axum calls `layer` for each request.
        let service = webhooks.layer(teapot());
        let answer = ask(&service, request.build::<Full<Bytes>>()).await;
        assert_eq!(
            (answer.status().as_u16(), &**answer.body()),
            (418, &b"inner"[..])
        );
    }
    log
}

#[tokio::test]
async fn each_form_causes_one_warning_with_both_paths_and_the_cure() {
    for (own, other, difference, cure) in [
        (
            "/webhooks/botisimo",
            "/webhooks/botisimo/",
            "a trailing slash",
            "use the same path",
        ),
        (
            "/webhooks/botisimo/",
            "/webhooks/botisimo",
            "a trailing slash",
            "use the same path",
        ),
        (
            "/webhooks/botisimo",
            "/Webhooks/Botisimo",
            "upper or lower case",
            "use the same path",
        ),
        (
            "/webhooks/botisimo",
            "/WEBHOOKS/botisimo/",
            "upper or lower case",
            "use the same path",
        ),
        (
            "/webhooks/botisimo",
            "/botisimo",
            "a missing prefix",
            "remove it from the layer's path",
        ),
        (
            "/webhooks/botisimo",
            "/app/webhooks/botisimo",
            "an additional prefix",
            "add the prefix",
        ),
    ] {
        let log = log_of(own, vec![good().path(other); 3]).await;
        let line = log.line(TEXT);
        let expected =
            format!("path={own:?} request_path={other:?} difference={difference:?} cure=");
        assert!(
            line.contains("WARN") && line.contains(&expected) && line.contains(cure),
            "{line}"
        );
    }
}

#[tokio::test]
async fn each_form_has_its_own_warning() {
    let paths = ["/hooks/ours/", "/HOOKS/ours", "/ours", "/app/hooks/ours"];
    let log = log_of("/hooks/ours", paths.map(|path| good().path(path))).await;
    assert_eq!(log.text().matches(TEXT).count(), 4, "{}", log.text());
}

#[tokio::test]
async fn clones_of_a_layer_share_the_warning() {
    let (log, _guard) = capture("warn");
    let webhooks = layer("/webhooks/botisimo");
    for _ in 0..2 {
        let service = webhooks.clone().max_body_bytes(500).layer(teapot());
        let request = good().path("/webhooks/botisimo/").build::<Full<Bytes>>();
        assert_eq!(ask(&service, request).await.status(), 418);
    }
    log.line(TEXT);
}

#[tokio::test]
async fn other_requests_cause_no_warning() {
    let almost = || good().path("/webhooks/botisimo/");
    let log = log_of(
        "/webhooks/botisimo",
        [
            almost().method(Method::GET),
            almost().method(Method::PUT),
            almost().header("content-type", "application/x-www-form-urlencoded"),
            good().path("/"),
            good().path("/webhooks"),
            good().path("/simo"),
            good().path("/webhooks/botisimo/2"),
            good().path("/webhooks/botisimo2"),
            good().path("/mywebhooks/botisimo"),
            good().path("/webhooks//botisimo"),
        ],
    )
    .await;
    assert_eq!(log.text(), "");
    let log = log_of(
        "/",
        ["/a", "/a/", "/webhooks"].map(|path| good().path(path)),
    )
    .await;
    assert_eq!(log.text(), "");
}

#[tokio::test]
async fn the_warning_shows_no_query_and_a_long_path_is_cut() {
    let long = format!("/{}/webhooks/botisimo", "x".repeat(1000));
    let requests = [
        good().path("/webhooks/botisimo/").query("token", "s3cret"),
        good().path(long).query("token", "s3cret"),
    ];
    let log = log_of("/webhooks/botisimo", requests).await;
    let text = log.text();
    assert_eq!(text.matches(TEXT).count(), 2, "{text}");
    assert!(
        !text.contains("s3cret") && !text.contains("token"),
        "{text}"
    );
    let line = log.line("an additional prefix");
    let path = line
        .split("request_path=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    assert!(path.len() <= 256 && path.ends_with('…'), "{path}");
}
