//! Tests every row of the table of answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::malformed::Malformed;
use crate::support::receiver::{
    PATH, Reasons, Script, Scripted, Step, ask, assert_answer, good, idle, scripted, teapot,
};
use crate::support::runtime::TestRuntime;
use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, Endpoint, Event, EventRouter, Inbox, MemoryInbox,
    RejectionReason, Unverified, Verify, WebhookLayer,
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Limited;
use tokio::sync::Notify;
use tower::Layer;

/// Sends a request through a layer with default settings. The inner service answers 418.
async fn answer(request: MockRequest) -> Response<Bytes> {
    let webhooks = WebhookLayer::new(PATH, idle()).layer(teapot());
    ask(&webhooks, request.build::<Script>()).await
}

// 200

#[tokio::test]
async fn an_accepted_event_is_answered_200_with_an_empty_body() {
    assert_answer(&answer(good()).await, 200, "", None);
}

#[tokio::test]
async fn a_copy_of_an_accepted_event_is_answered_200() {
    let inbox = Scripted::new(|_, _| async { Ok(Accepted::Duplicate) });
    let answer = ask(&Endpoint::new(inbox), good().build::<Script>()).await;
    assert_answer(&answer, 200, "", None);
}

#[tokio::test]
async fn an_event_type_without_a_route_is_answered_200() {
    let harness = Harness::new(EventRouter::new().on("account.created", |_: Event| async {}));
    let delivered = harness.deliver(good()).await;
    delivered.assert_status(200);
    delivered.assert_unhandled();
}

#[tokio::test]
async fn an_undocumented_event_type_is_answered_200() {
    assert_answer(
        &answer(MockRequest::event("not.yet.known")).await,
        200,
        "",
        None,
    );
}

#[tokio::test]
async fn a_body_in_many_frames_is_reassembled() {
    let body = good().message_id("frames").body_bytes();
    let frames = body
        .chunks(3)
        .map(|part| Step::Data(Bytes::copy_from_slice(part)));
    let steps = frames.flat_map(|frame| [Step::Data(Bytes::new()), frame, Step::Wait]);
    let request = scripted(steps.chain([Step::Trailers]));
    let (sent, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let inbox = Scripted::new(move |_, event| {
        sent.send(event).expect("the test waits for the event");
        async { Ok(Accepted::New) }
    });
    assert_answer(&ask(&Endpoint::new(inbox), request).await, 200, "", None);
    let event = taken.recv().await.expect("the inbox received the event");
    assert_eq!((event.id(), event.body().as_bytes()), ("frames", &*body));
}

// 405

#[tokio::test]
async fn a_method_other_than_post_is_answered_405_with_the_allowed_method() {
    let query = Method::from_bytes(b"query").expect("a method");
    let others = [
        Method::GET,
        Method::HEAD,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ];
    let more = [Method::OPTIONS, Method::TRACE, Method::CONNECT, query];
    for method in others.into_iter().chain(more) {
        let answer = answer(good().method(method)).await;
        assert_answer(
            &answer,
            405,
            "webhooks are sent by POST",
            Some(("allow", "POST")),
        );
    }
}

// 401: see also verification.rs

#[tokio::test]
async fn an_unverified_request_is_answered_401_with_a_challenge() {
    struct Nobody;
    impl Verify for Nobody {
        fn verify_head(&self, _: &http::request::Parts) -> Result<(), Unverified> {
            Err(Unverified)
        }
    }
    let webhooks = WebhookLayer::new("/", idle()).verify(Nobody).endpoint();
    let answer = ask(&webhooks, good().build::<Script>()).await;
    let challenge = ("www-authenticate", "SharedSecret realm=\"webhooks\"");
    assert_answer(
        &answer,
        401,
        "the secret is wrong or missing",
        Some(challenge),
    );
}

// 415

#[tokio::test]
async fn json_of_any_kind_is_accepted() {
    for content_type in [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json;charset=latin-1;profile=\"a/b\"",
        "application/json ; a=b",
        "application/vnd.botisimo+json",
        "application/vnd.botisimo+JSON; v=1",
        "text/x+json",
        "",
        " ",
    ] {
        let answer = answer(good().header("content-type", content_type)).await;
        assert_eq!(answer.status(), 200, "{content_type}");
    }
    let mut request = good().build::<Script>();
    request.headers_mut().remove("content-type");
    let webhooks = WebhookLayer::new(PATH, idle()).layer(teapot());
    assert_eq!(ask(&webhooks, request).await.status(), 200);
}

#[tokio::test]
async fn a_content_type_other_than_json_is_answered_415() {
    for content_type in [
        &b"text/plain"[..],
        b"text/json",
        b"application/jsonp",
        b"application/json5",
        b"application/xml; a=application/json",
        b"application/vnd.json",
        b"application",
        b"json",
        b"+json",
        b"application/json\xe9",
        b"\xff+json",
    ] {
        let answer = answer(good().header("content-type", content_type)).await;
        assert_answer(&answer, 415, "the content type is not JSON", None);
    }
}

#[tokio::test]
async fn an_encoded_body_is_answered_415_with_the_accepted_encoding() {
    for encoding in [
        "gzip",
        "br",
        "GZIP",
        "gzip, identity",
        "zstd,gzip",
        "identity2",
    ] {
        let answer = answer(good().header("content-encoding", encoding)).await;
        let identity = Some(("accept-encoding", "identity"));
        assert_answer(
            &answer,
            415,
            "the content encoding is not supported",
            identity,
        );
    }
    for encoding in ["identity", "Identity", ""] {
        let answer = answer(good().header("content-encoding", encoding)).await;
        assert_eq!(answer.status(), 200, "{encoding:?}");
    }
}

#[tokio::test]
async fn an_encoding_in_a_second_header_counts_too() {
    let mut request = good()
        .header("content-encoding", "identity")
        .build::<Script>();
    let gzip = http::HeaderValue::from_static("gzip");
    request.headers_mut().append("content-encoding", gzip);
    assert_eq!(ask(&Endpoint::new(idle()), request).await.status(), 415);
}

// 413

const TOO_LARGE: &str = "the body is too large";

#[tokio::test]
async fn a_body_at_the_limit_is_accepted_and_one_byte_more_is_answered_413() {
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes(500)
        .endpoint();
    let answer = ask(&webhooks, good().padded(500).build::<Script>()).await;
    assert_eq!(answer.status(), 200);
    let answer = ask(&webhooks, good().padded(501).build::<Script>()).await;
    assert_answer(&answer, 413, TOO_LARGE, None);
}

#[tokio::test]
async fn the_limit_is_one_mebibyte_unless_set() {
    assert_eq!(answer(good().padded(1 << 20)).await.status(), 200);
    assert_eq!(answer(good().padded((1 << 20) + 1)).await.status(), 413);
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_answered_413_before_the_body_is_polled() {
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes(500)
        .endpoint();
    // The declared length alone causes the 413. A client that expects a 100 hasn't sent the body, so there is
    // nothing to drain.
    let waiting = good().header("expect", "100-continue");
    let request = waiting
        .clone()
        .header("content-length", "501")
        .build::<Script>();
    let request = request.map(|_| Script::new([Step::Panic]));
    assert_answer(
        &ask(&webhooks, request).await,
        413,
        TOO_LARGE,
        Some(("connection", "close")),
    );
    // Here the body's size hint declares the length.
    let request = waiting.build::<Script>();
    let request = request.map(|_| Script::new([Step::Panic]).declaring(501));
    assert_answer(
        &ask(&webhooks, request).await,
        413,
        TOO_LARGE,
        Some(("connection", "close")),
    );
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_answered_413_with_any_body() {
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes(500)
        .endpoint();
    let request = good().header("content-length", "501").build::<Script>();
    assert_answer(&ask(&webhooks, request).await, 413, TOO_LARGE, None);
}

#[tokio::test]
async fn a_declared_length_at_the_limit_is_read() {
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes(500)
        .endpoint();
    let request = good()
        .padded(500)
        .header("content-length", "500")
        .build::<Script>();
    assert_eq!(ask(&webhooks, request).await.status(), 200);
}

#[tokio::test]
async fn a_body_without_a_declared_length_is_answered_413_once_it_exceeds_the_limit() {
    let webhooks = WebhookLayer::new("/", idle())
        .max_body_bytes(500)
        .endpoint();
    let request = scripted([Step::Endless(Bytes::from(vec![b' '; 100]))]);
    let seen = request.body().seen();
    assert_answer(
        &ask(&webhooks, request).await,
        413,
        TOO_LARGE,
        Some(("connection", "close")),
    );
    // The receiver stops reading at the frame that exceeds the limit, and stops draining at the frame that takes the
    // drained bytes above 64 KiB.
    assert!(
        seen.bytes() <= 600 + (64 << 10) + 100,
        "the receiver read {} bytes",
        seen.bytes()
    );
}

#[tokio::test]
async fn a_body_limited_by_an_outer_layer_is_answered_413_too() {
    let webhooks = Endpoint::new(idle());
    let request = good()
        .padded(501)
        .build::<Script>()
        .map(|body| Limited::new(body, 500));
    let close = Some(("connection", "close"));
    assert_answer(&ask(&webhooks, request).await, 413, TOO_LARGE, close);
}

// 400

#[tokio::test]
async fn a_malformed_body_is_answered_400_with_a_text_for_each_member() {
    let long = "x".repeat(256);
    let with = |name, value: &str| {
        let others = if name == "other" {
            good()
        } else {
            good().without(name)
        };
        others.twice(name, value)
    };
    let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let not_json = "the body is not JSON";
    let not_object = "the body is not a JSON object";
    let id = "`messageId` is not a string of 1 to 255 bytes";
    let stand_in = "`id` is not a string of 1 to 255 bytes";
    let event_type = "`eventType` is not a string of 1 to 255 bytes";
    let timestamp = "`timestamp` is not an integer of milliseconds";
    let cases = [
        (good().body(""), not_json),
        (good().body("   "), not_json),
        (good().body("hello"), not_json),
        (good().truncated(), not_json),
        (good().body(&b"{\"messageId\":\"\xff\"}"[..]), not_json),
        (
            good().body(format!(
                "{} x",
                String::from_utf8_lossy(&good().body_bytes())
            )),
            not_json,
        ),
        (good().body(nested), not_object),
        (with("data", "{"), not_json),
        (with("other", "nul"), not_json),
        (good().body("[]"), not_object),
        (good().body("null"), not_object),
        (good().body("\"messageId\""), not_object),
        (good().body(" 17 "), not_object),
        (good().without("messageId"), "`messageId` is missing"),
        (
            good().twice("messageId", "\"m\""),
            "`messageId` is given twice",
        ),
        (good().twice("messageId", "7"), "`messageId` is given twice"),
        (with("messageId", "7"), id),
        (with("messageId", "null"), id),
        (with("messageId", "\"\""), id),
        (with("messageId", "[\"m\"]"), id),
        (good().message_id(&long), id),
        // `id` doesn't replace an invalid `messageId`.
        (with("messageId", "7").twice("id", "\"m\""), id),
        (good().without("messageId").twice("id", "7"), stand_in),
        (good().member("id", "").without("messageId"), stand_in),
        (good().member("id", &long).without("messageId"), stand_in),
        (
            good().member("id", "m").twice("id", "\"n\""),
            "`id` is given twice",
        ),
        (good().without("eventType"), "`eventType` is missing"),
        (
            good().twice("eventType", "\"a\""),
            "`eventType` is given twice",
        ),
        (with("eventType", "7"), event_type),
        (with("eventType", "null"), event_type),
        (with("eventType", "\"\""), event_type),
        (good().member("eventType", &long), event_type),
        (good().without("timestamp"), "`timestamp` is missing"),
        (good().twice("timestamp", "1"), "`timestamp` is given twice"),
        (with("timestamp", "\"1674489999154\""), timestamp),
        (with("timestamp", "1674489999154.5"), timestamp),
        (with("timestamp", "1e12"), timestamp),
        (with("timestamp", "null"), timestamp),
        (with("timestamp", "9223372036854775808"), timestamp),
        (good().twice("data", "1"), "`data` is given twice"),
    ];
    for (request, text) in cases {
        assert_answer(&answer(request).await, 400, text, None);
    }
}

#[tokio::test]
async fn an_envelope_within_the_rules_is_answered_200() {
    let escaped = r#"{"message\u0049d":"\u0061\n","timestamp":-1,"eventType":"a.\u0062"}"#;
    for request in [
        good().message_id("x".repeat(255)),
        good().message_id("\u{1f600} any text"),
        good().member("eventType", "x".repeat(255)),
        good().member("eventType", "a..b."),
        good().without("data"),
        good().member("id", "stand-in").without("messageId"),
        // If `messageId` is present, the decoder ignores `id`.
        good().member("id", 7),
        good().twice("other", "1").twice("other", "2"),
        good().member("timestamp", i64::MIN),
        good().body(escaped),
        // The decoder skips `data` without recursion, so its depth uses no stack.
        good().without("data").twice(
            "data",
            format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
        ),
        good().padded(1000),
    ] {
        let answer = answer(request.clone()).await;
        assert_answer(&answer, 200, "", None);
    }
}

#[tokio::test]
async fn an_id_replaces_an_absent_message_id() {
    let harness = Harness::new(idle());
    let delivered = harness
        .deliver(good().member("id", "stand-in").without("messageId"))
        .await;
    assert_eq!(delivered.attempts()[0].event().id(), "stand-in");
    let delivered = harness
        .deliver(good().message_id("real").member("id", "other"))
        .await;
    assert_eq!(delivered.attempts()[0].event().id(), "real");
}

#[tokio::test]
async fn a_body_that_fails_midway_is_answered_400() {
    let answer = ask(&Endpoint::new(idle()), scripted([Step::Wait, Step::Fail])).await;
    assert_answer(
        &answer,
        400,
        "the body could not be read",
        Some(("connection", "close")),
    );
}

// 408: see deadline.rs

// 503

#[tokio::test]
async fn an_event_that_the_inbox_refuses_is_answered_503_with_retry_after() {
    let second = Duration::from_secs(1);
    for (refused, text, retry_after) in [
        (
            AcceptError::new(AcceptErrorKind::Full),
            "the inbox is full",
            "1",
        ),
        (
            AcceptError::new(AcceptErrorKind::Draining),
            "the inbox is draining",
            "5",
        ),
        (
            AcceptError::new(AcceptErrorKind::Unavailable),
            "the inbox is not available",
            "5",
        ),
        (
            AcceptError::new(AcceptErrorKind::Full).retry_after(second * 90),
            "the inbox is full",
            "90",
        ),
        (
            AcceptError::new(AcceptErrorKind::Full).retry_after(second + Duration::from_nanos(1)),
            "the inbox is full",
            "2",
        ),
        (
            AcceptError::new(AcceptErrorKind::Full).retry_after(Duration::ZERO),
            "the inbox is full",
            "0",
        ),
        (
            AcceptError::new(AcceptErrorKind::Full).retry_after(Duration::MAX),
            "the inbox is full",
            "18446744073709551615",
        ),
    ] {
        let inbox = Scripted::new(move |_, _| std::future::ready(Err(refused.clone())));
        let answer = ask(&Endpoint::new(inbox), good().build::<Script>()).await;
        assert_answer(&answer, 503, text, Some(("retry-after", retry_after)));
    }
}

#[tokio::test]
async fn a_full_memory_inbox_is_answered_503_after_one_second() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let router = EventRouter::new().on_any(async move |_: Event| wait.notified().await);
    let webhooks = Endpoint::new(MemoryInbox::builder().max_events(1).build(router));
    let handle = webhooks.handle();
    assert_eq!(ask(&webhooks, good().build::<Script>()).await.status(), 200);
    let answer = ask(&webhooks, good().build::<Script>()).await;
    assert_answer(
        &answer,
        503,
        "the inbox is full",
        Some(("retry-after", "1")),
    );
    go.notify_one();
    handle.wait_idle().await;
    assert_eq!(ask(&webhooks, good().build::<Script>()).await.status(), 200);
}

#[tokio::test]
async fn a_drained_memory_inbox_is_answered_503_after_five_seconds() {
    let webhooks = Endpoint::new(idle());
    assert_eq!(webhooks.handle().drain(Duration::ZERO).await.remaining, 0);
    let answer = ask(&webhooks, good().build::<Script>()).await;
    assert_answer(
        &answer,
        503,
        "the inbox is draining",
        Some(("retry-after", "5")),
    );
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_is_too_slow_is_answered_503_after_five_seconds() {
    let inbox = Scripted::new(|_, _| std::future::pending());
    let answer = ask(&Endpoint::new(inbox), good().build::<Script>()).await;
    let text = "the inbox did not answer in time";
    assert_answer(&answer, 503, text, Some(("retry-after", "5")));
}

const UNAVAILABLE: (u16, &str, Option<(&str, &str)>) = (
    503,
    "the inbox is not available",
    Some(("retry-after", "5")),
);

#[tokio::test]
async fn an_inbox_that_panics_is_answered_503() {
    let (status, _, header) = UNAVAILABLE;
    let text = "the receiver panicked";
    let in_accept = Scripted::new(|_, _| -> std::future::Ready<_> { panic!("in accept") });
    let answer = ask(&Endpoint::new(in_accept), good().build::<Script>()).await;
    assert_answer(&answer, status, text, header);

    let in_poll = Scripted::new(|_, _| async {
        tokio::task::yield_now().await;
        panic!("in the second poll")
    });
    let answer = ask(&Endpoint::new(in_poll), good().build::<Script>()).await;
    assert_answer(&answer, status, text, header);
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_panics_when_its_future_is_dropped_is_answered_503() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }
    let inbox = Scripted::new(|_, _| {
        let bomb = Bomb;
        async move {
            let _bomb = bomb;
            std::future::pending().await
        }
    });
    assert_eq!(
        ask(&Endpoint::new(inbox), good().build::<Script>())
            .await
            .status(),
        503
    );
}

#[tokio::test]
async fn a_verifier_that_panics_is_answered_503() {
    struct Panics {
        in_head: bool,
    }
    impl Verify for Panics {
        fn verify_head(&self, _: &http::request::Parts) -> Result<(), Unverified> {
            assert!(!self.in_head, "in the head");
            Ok(())
        }

        fn verify_body(&self, _: &http::request::Parts, _: &[u8]) -> Result<(), Unverified> {
            panic!("in the body")
        }
    }
    let (status, _, header) = UNAVAILABLE;
    let text = "the receiver panicked";
    for in_head in [true, false] {
        let webhooks = WebhookLayer::new("/", idle())
            .verify(Panics { in_head })
            .endpoint();
        let answer = ask(&webhooks, good().build::<Script>()).await;
        assert_answer(&answer, status, text, header);
    }
}

#[test]
fn a_runtime_that_cannot_spawn_is_answered_503() {
    // This test runs outside tokio.
    let webhooks = Endpoint::new(idle());
    let answer = smol::block_on(ask(&webhooks, good().build::<Script>()));
    let (status, text, header) = UNAVAILABLE;
    assert_answer(&answer, status, text, header);
    let stats = webhooks.handle().stats();
    assert_eq!(
        (stats.accepted, stats.refused, stats.in_flight()),
        (0, 1, 0)
    );
}

#[test]
fn a_runtime_that_has_shut_down_is_answered_503() {
    let spawned = AtomicUsize::new(0);
    let runtime = TestRuntime::shut_down().on_spawn(move |_| {
        let before = spawned.fetch_add(1, Ordering::SeqCst);
        assert!(before < 1000, "the inbox keeps spawning forever");
    });
    let webhooks = Endpoint::new(MemoryInbox::builder().build_with(runtime, idle()));
    let handle = webhooks.handle();
    let (status, text, header) = UNAVAILABLE;
    for refused in 1..=3 {
        let answer = smol::block_on(ask(&webhooks, good().build::<Script>()));
        assert_answer(&answer, status, text, header);
        let stats = handle.stats();
        assert_eq!(
            (stats.accepted, stats.refused, stats.in_flight()),
            (0, refused, 0)
        );
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let tokio = botisimo_webhooks::TokioRuntime::with_handle(runtime.handle().clone());
    drop(runtime);
    let webhooks = Endpoint::new(MemoryInbox::builder().build_with(tokio, idle()));
    let answer = smol::block_on(ask(&webhooks, good().build::<Script>()));
    assert_answer(&answer, status, text, header);
}

#[test]
fn requests_are_answered_on_a_runtime_without_timers() {
    // Outside tokio, tokio's sleep panics. The receiver doesn't wait if it can't set a deadline.
    let stalled = smol::block_on(ask(&Endpoint::new(idle()), scripted([Step::Stall])));
    assert_eq!(stalled.status(), 408);
    let inbox = Scripted::new(|_, _| std::future::pending());
    let slow = smol::block_on(ask(&Endpoint::new(inbox), good().build::<Script>()));
    assert_eq!(slow.status(), 503);
}

// Statuses that the user sets

#[tokio::test]
async fn the_status_of_a_malformed_body_can_be_set() {
    let text = "`eventType` is missing";
    for (status, text) in [(200, text), (422, text), (500, text), (204, "")] {
        let set = StatusCode::from_u16(status).expect("a status");
        let webhooks = WebhookLayer::new("/", idle())
            .answer_malformed(set)
            .endpoint();
        let request = good().without("eventType").build::<Script>();
        assert_answer(&ask(&webhooks, request).await, status, text, None);
        // `answer_malformed` doesn't change the 400 of other rejections.
        assert_eq!(ask(&webhooks, scripted([Step::Fail])).await.status(), 400);
    }
}

#[tokio::test]
async fn an_unmatched_event_is_accepted_if_its_status_is_2xx() {
    let router = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on_any(|_: Event| async {})
        .named("audit");
    let endpoint = WebhookLayer::new("/", router.clone())
        .answer_unmatched(StatusCode::ACCEPTED)
        .endpoint();
    let handle = endpoint.handle();
    let harness = Harness::service(endpoint, handle);
    let delivered = harness.deliver(good()).await;
    delivered.assert_status(202);
    delivered.assert_handled("audit");
    delivered.assert_unhandled();
    harness
        .deliver(MockRequest::event("account.created"))
        .await
        .assert_status(200);
}

#[tokio::test]
async fn an_unmatched_event_never_reaches_the_inbox_if_its_status_is_an_error() {
    let router = EventRouter::new()
        .on("account.created", |_: Event| async {})
        .on_any(|_: Event| async {});
    let reasons = Reasons::default();
    let told = reasons.clone();
    let endpoint = WebhookLayer::new("/", router.clone())
        .answer_unmatched(StatusCode::NOT_FOUND)
        .on_rejection(move |rejection| {
            assert_eq!(
                rejection.event().expect("the event").event_type(),
                "account.updated"
            );
            told.add(rejection.reason());
        })
        .endpoint();
    let handle = endpoint.handle();
    let answer = ask(&endpoint, good().build::<Script>()).await;
    assert_answer(&answer, 404, "no route matches this event type", None);
    assert_eq!(reasons.take(), [RejectionReason::Unmatched]);
    assert_eq!((handle.stats().accepted, handle.stats().rejected), (0, 1));
}

#[tokio::test]
async fn an_unmatched_event_with_a_2xx_status_is_refused_if_the_inbox_is_full() {
    let inbox =
        Scripted::new(|_, _| std::future::ready(Err(AcceptError::new(AcceptErrorKind::Full))));
    let webhooks = WebhookLayer::new("/", inbox)
        .router(&EventRouter::new())
        .answer_unmatched(StatusCode::ACCEPTED)
        .endpoint();
    assert_eq!(ask(&webhooks, good().build::<Script>()).await.status(), 503);
}

// Paths

#[tokio::test]
async fn the_path_is_compared_exactly() {
    for ours in [
        "/webhooks/botisimo",
        "/webhooks/botisimo?",
        "/webhooks/botisimo?a=/b",
    ] {
        assert_eq!(answer(good().path(ours)).await.status(), 200, "{ours}");
    }
    for other in [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/botisimo/",
        "/webhooks/botisimo/x",
        "/webhooks/botisimo2",
        "/Webhooks/botisimo",
        "//webhooks/botisimo",
        "/webhooks//botisimo",
        "/webhooks/./botisimo",
        "/webhooks/botisim%6f",
        "/webhooks%2Fbotisimo",
        "/nested/webhooks/botisimo",
        "/other?/webhooks/botisimo",
    ] {
        let answer = answer(good().path(other)).await;
        assert_eq!(
            (answer.status().as_u16(), &answer.body()[..]),
            (418, &b"inner"[..]),
            "{other}"
        );
    }
}

#[tokio::test]
async fn the_path_of_an_absolute_uri_is_compared() {
    let ours = "https://example.com/webhooks/botisimo?a=b";
    assert_eq!(answer(good().path(ours)).await.status(), 200);
    assert_eq!(
        answer(good().path("https://example.com")).await.status(),
        418
    );
}

#[tokio::test]
async fn the_path_may_be_the_root_or_percent_encoded() {
    for path in ["/", "/a%20b", "/a/:b/{c}"] {
        let webhooks = WebhookLayer::new(path, idle()).layer(teapot());
        let request = good().path(path).build::<Script>();
        assert_eq!(ask(&webhooks, request).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn an_endpoint_receives_on_every_path() {
    for path in ["/", "/any/path", "https://example.com"] {
        let request = good().path(path).build::<Script>();
        assert_eq!(
            ask(&Endpoint::new(idle()), request).await.status(),
            200,
            "{path}"
        );
    }
}

// The hook and the counts

#[tokio::test(start_paused = true)]
async fn every_rejection_is_counted_once_and_passed_to_the_hooks() {
    let reasons = Reasons::default();
    let told = reasons.clone();
    let secret = botisimo_webhooks::SharedSecret::in_header("x-secret", "s3cret");
    let inbox = Scripted::new(|inner, event| async move {
        match event.id() {
            "full" => Err(AcceptError::new(AcceptErrorKind::Full)),
            "slow" => std::future::pending().await,
            _ => inner.accept(event).await,
        }
    });
    let webhooks = WebhookLayer::new(PATH, inbox)
        .verify(secret)
        .max_body_bytes(1000)
        .on_rejection(|_| panic!("in the hook"))
        .on_rejection(move |rejection| told.add(rejection.reason()));
    let handle = webhooks.handle();
    let service = webhooks.layer(teapot());
    let ours = || good().header("x-secret", "s3cret");
    let build = |mock: MockRequest| mock.build::<Script>();
    let stalled = build(ours()).map(|_| Script::new([Step::Stall]));
    let broken = build(ours()).map(|_| Script::new([Step::Fail]));
    let cases: [(Request<Script>, &[RejectionReason], [u64; 4]); 11] = [
        (build(ours()), &[], [0, 0, 0, 0]),
        (build(good().path("/")), &[], [0, 0, 0, 0]),
        (
            build(ours().truncated()),
            &[RejectionReason::Malformed],
            [1, 0, 0, 0],
        ),
        (build(good()), &[RejectionReason::Unverified], [0, 1, 0, 0]),
        (
            build(ours().method(Method::GET)),
            &[RejectionReason::NotPost],
            [0, 0, 1, 0],
        ),
        (
            build(ours().header("content-type", "a/b")),
            &[RejectionReason::ContentType],
            [0, 0, 1, 0],
        ),
        (
            build(ours().padded(1001)),
            &[RejectionReason::TooLarge],
            [0, 0, 1, 0],
        ),
        (stalled, &[RejectionReason::Incomplete], [0, 0, 1, 0]),
        (broken, &[RejectionReason::Unreadable], [0, 0, 1, 0]),
        (
            build(ours().message_id("full")),
            &[RejectionReason::Full],
            [0, 0, 0, 0],
        ),
        (
            build(ours().message_id("slow")),
            &[RejectionReason::Slow],
            [0, 0, 0, 1],
        ),
    ];
    let mut expected = [0, 0, 0, 0];
    for (request, reason, counts) in cases {
        let answer = ask(&service, request).await;
        assert_eq!(reasons.take(), reason, "{answer:?}");
        expected = std::array::from_fn(|index| expected[index] + counts[index]);
        let stats = handle.stats();
        assert_eq!(
            [
                stats.malformed,
                stats.unverified,
                stats.rejected,
                stats.overloaded
            ],
            expected,
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn the_hook_receives_the_malformed_body_and_the_error() {
    let (sent, mut told) = tokio::sync::mpsc::unbounded_channel();
    let webhooks = WebhookLayer::new("/", idle())
        .on_rejection(move |rejection| {
            sent.send(rejection.clone())
                .expect("the test waits for the rejection");
        })
        .endpoint();
    let request = good().data("private").without("timestamp");
    ask(&webhooks, request.build::<Script>()).await;
    let rejection = told.recv().await.expect("the hook ran");
    assert_eq!(rejection.body(), Some(&request.body_bytes()[..]));
    let error = rejection.error().expect("the rejection has an error");
    assert_eq!(error.to_string(), "`timestamp` is missing");
    assert_eq!(rejection.to_string(), "400 `timestamp` is missing");
    assert!(!format!("{rejection:?}").contains("private"));
}

// Bodies with other buffer types

#[tokio::test]
async fn a_body_of_any_buffer_is_read() {
    use http_body_util::{BodyExt, StreamBody};
    let body = good().body_bytes();
    let halves = bytes::Buf::chain(body.slice(..7), body.slice(7..));
    let frame = Ok::<_, std::io::Error>(http_body::Frame::data(halves));
    let request = good().build::<Script>();
    let request = request.map(|_| StreamBody::new(futures_util::stream::iter([frame])).boxed());
    assert_eq!(ask(&Endpoint::new(idle()), request).await.status(), 200);
}

#[test]
fn a_reason_displays_as_its_text_and_respects_padding() {
    let text = "webhooks are sent by POST";
    assert_eq!(RejectionReason::NotPost.to_string(), text);
    assert_eq!(
        format!("{:>30}", RejectionReason::NotPost),
        format!("{text:>30}")
    );
}
