use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use crate::commands::check::case::Finding;
use crate::commands::check::checker::{Checker, describe, expect_decision, expect_refusal};
use crate::http::Step;

/// The bytes of the body that is too large.
const OVERSIZE: usize = 16 << 20;

pub(super) async fn not_json(checker: &Checker) -> Finding {
    let event = checker.event().to_bytes();
    expect_decision(&checker.post(event.slice(..event.len() - 1)).await)
}

pub(super) async fn invalid_utf8(checker: &Checker) -> Finding {
    let event = checker.event_with("data", json!("?")).to_vec();
    let event: Vec<_> = event
        .into_iter()
        .map(|byte| if byte == b'?' { 0xff } else { byte })
        .collect();
    expect_decision(&checker.post(Bytes::from(event)).await)
}

pub(super) async fn empty(checker: &Checker) -> Finding {
    expect_decision(&checker.post(Bytes::new()).await)
}

pub(super) async fn array(checker: &Checker) -> Finding {
    expect_decision(&checker.post(Bytes::from_static(b"[]")).await)
}

pub(super) async fn missing_member(checker: &Checker) -> Finding {
    let id = format!("{}-missing", checker.prefix);
    let body = json!({ "messageId": id, "timestamp": 1, "data": {} });
    expect_decision(&checker.post(Bytes::from(body.to_string())).await)
}

pub(super) async fn wrong_type(checker: &Checker) -> Finding {
    expect_decision(
        &checker
            .post(checker.event_with("eventType", json!(7)))
            .await,
    )
}

pub(super) async fn deep(checker: &Checker) -> Finding {
    let event = checker.event_with("data", json!("?"));
    let event = String::from_utf8_lossy(&event).into_owned();
    let brackets = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
    expect_decision(
        &checker
            .post(Bytes::from(event.replace("\"?\"", &brackets)))
            .await,
    )
}

pub(super) async fn rejected(checker: &Checker) -> Finding {
    expect_refusal(
        &checker
            .post(Bytes::from_static(b"{\"hello\":\"world\"}"))
            .await,
    )
}

/// Announces a large body, and sends it only if no early answer comes.
///
/// Pauses let the client read an answer before its next write fails, because the server may close the connection.
pub(super) async fn oversize(checker: &Checker) -> Finding {
    let part = Bytes::from(vec![b' '; 64 << 10]);
    let mut steps = vec![
        Step::Send(part.clone()),
        Step::Pause(Duration::from_millis(500)),
    ];
    for _ in 1..OVERSIZE / part.len() {
        steps.extend([
            Step::Pause(Duration::from_millis(5)),
            Step::Send(part.clone()),
        ]);
    }
    let got = checker
        .send(checker.paced_request(steps, Some(OVERSIZE)))
        .await;
    let good = got.as_ref().is_ok_and(|answer| {
        // The body consists of spaces, so an endpoint without a limit answers 400.
        answer.status == StatusCode::PAYLOAD_TOO_LARGE || answer.status.is_success()
    });
    Finding::when(good, describe(&got))
}
