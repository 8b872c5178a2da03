use std::time::Duration;

use http::HeaderValue;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use serde_json::json;

use crate::commands::check::case::Finding;
use crate::commands::check::checker::{Checker, Got, describe, expect_success, is_success};
use crate::output::duration;

/// If the fastest answer to an event takes this much longer than the fastest refusal, a handler runs in between. A disk
/// stores an event faster.
const WORK: Duration = Duration::from_millis(250);

pub(super) async fn valid(checker: &Checker) -> Finding {
    let got = checker.post(checker.event().to_bytes()).await;
    let finding = expect_success(&got);
    match (&got, &finding) {
        (Ok(answer), Finding::Failed(text)) => {
            match crate::commands::send::hint(answer.status, &checker.endpoint) {
                Some(hint) => Finding::Failed(format!("{text}. {hint}")),
                None => finding,
            }
        }
        _ => finding,
    }
}

pub(super) async fn quick(checker: &Checker) -> Finding {
    let got = checker.post(checker.event().to_bytes()).await;
    let limit = checker.answer_within;
    let good = got.as_ref().is_ok_and(|answer| answer.took <= limit);
    let limit = humantime::format_duration(limit);
    Finding::when(good, format!("{}, the limit is {limit}", describe(&got)))
}

pub(super) async fn before_work(checker: &Checker) -> Finding {
    let (mut event, mut refusal) = (Duration::MAX, Duration::MAX);
    for _ in 0..3 {
        let got = checker.post(checker.event().to_bytes()).await;
        match got {
            Ok(answer) => event = event.min(answer.took),
            Err(error) => return Finding::Failed(error.to_string()),
        }
        // An endpoint may also accept this body. The case then finds nothing.
        if let Ok(answer) = checker.post("{".into()).await {
            refusal = refusal.min(answer.took);
        }
    }
    let good = event <= refusal.saturating_add(WORK);
    let refusal = match refusal {
        Duration::MAX => "none".to_owned(),
        refusal => duration(refusal),
    };
    Finding::when(
        good,
        format!(
            "an event takes {}, and a refusal {refusal}",
            duration(event)
        ),
    )
}

pub(super) async fn duplicate(checker: &Checker) -> Finding {
    let body = checker.event().to_bytes();
    let first = checker.post(body.clone()).await;
    if !is_success(&first) {
        return Finding::Failed(format!("the first: {}", describe(&first)));
    }
    expect_success(&checker.post(body).await)
}

pub(super) async fn concurrent_duplicates(checker: &Checker) -> Finding {
    let body = checker.event().to_bytes();
    let (first, second) = tokio::join!(checker.post(body.clone()), checker.post(body));
    let good = (is_success(&first) && is_success_or_busy(&second))
        || (is_success(&second) && is_success_or_busy(&first));
    Finding::when(good, format!("{}; {}", describe(&first), describe(&second)))
}

pub(super) fn is_success_or_busy(got: &Got) -> bool {
    is_success(got)
        || got.as_ref().is_ok_and(|answer| {
            matches!(answer.status.as_u16(), 429 | 503) && answer.headers.contains_key(RETRY_AFTER)
        })
}

pub(super) async fn unknown_type(checker: &Checker) -> Finding {
    let body = checker.event_with("eventType", json!("botisimo.check.unknown"));
    expect_success(&checker.post(body).await)
}

pub(super) async fn unknown_member(checker: &Checker) -> Finding {
    let body = checker.event_with("botisimoCheck", json!({ "nested": [1, null] }));
    expect_success(&checker.post(body).await)
}

pub(super) async fn empty_data(checker: &Checker) -> Finding {
    expect_success(&checker.post(checker.event_with("data", json!({}))).await)
}

pub(super) async fn unicode(checker: &Checker) -> Finding {
    let data = json!({ "title": "日本語 עברית 😀 \u{202e} \u{0} \"\\", "name": "名前" });
    expect_success(&checker.post(checker.event_with("data", data)).await)
}

pub(super) async fn large(checker: &Checker) -> Finding {
    let data = json!({ "title": "x".repeat(256 << 10) });
    expect_success(&checker.post(checker.event_with("data", data)).await)
}

pub(super) async fn content_type_parameter(checker: &Checker) -> Finding {
    let mut request = checker.request(checker.event().to_bytes());
    let value = HeaderValue::from_static("application/json; charset=utf-8");
    request.headers_mut().insert(CONTENT_TYPE, value);
    expect_success(&checker.send(request).await)
}

pub(super) async fn no_content_type(checker: &Checker) -> Finding {
    let mut request = checker.request(checker.event().to_bytes());
    request.headers_mut().remove(CONTENT_TYPE);
    expect_success(&checker.send(request).await)
}
