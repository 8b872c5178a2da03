use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, EXPECT};
use http::uri::Scheme;
use http::{HeaderValue, Method};
use tokio::sync::Notify;

use crate::commands::check::case::Finding;
use crate::commands::check::checker::{
    Checker, describe, expect_decision, expect_refusal, expect_success, is_success,
};
use crate::http::{Connection, SendErrorKind, Step};
use crate::output::duration;

pub(super) async fn wrong_content_type(checker: &Checker) -> Finding {
    let mut request = checker.request(checker.event().to_bytes());
    request
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    expect_refusal(&checker.send(request).await)
}

pub(super) async fn get(checker: &Checker) -> Finding {
    other_method(checker, Method::GET).await
}

pub(super) async fn put(checker: &Checker) -> Finding {
    other_method(checker, Method::PUT).await
}

async fn other_method(checker: &Checker, method: Method) -> Finding {
    let mut request = match method {
        Method::GET => checker.paced_request(Vec::new(), Some(0)),
        _ => checker.request(checker.event().to_bytes()),
    };
    *request.method_mut() = method;
    let got = checker.send(request).await;
    let allow = got
        .as_ref()
        .ok()
        .and_then(|answer| answer.headers.get(ALLOW));
    let allow = allow.map(|allow| String::from_utf8_lossy(allow.as_bytes()).into_owned());
    let text = match allow {
        Some(allow) => format!("{}, Allow: {allow}", describe(&got)),
        None => describe(&got),
    };
    match expect_refusal(&got) {
        Finding::Passed(_) => Finding::Passed(text),
        _ => Finding::Failed(text),
    }
}

pub(super) async fn chunked(checker: &Checker) -> Finding {
    let steps = parts(&checker.event().to_bytes(), 3)
        .into_iter()
        .map(Step::Send);
    expect_success(
        &checker
            .send(checker.paced_request(steps.collect(), None))
            .await,
    )
}

pub(super) async fn slow_body(checker: &Checker) -> Finding {
    let body = checker.event().to_bytes();
    let steps = parts(&body, 5)
        .into_iter()
        .flat_map(|part| [Step::Send(part), Step::Pause(Duration::from_millis(200))]);
    let request = checker.paced_request(steps.collect(), Some(body.len()));
    expect_success(&checker.send(request).await)
}

/// Sends the body after the server's `100 Continue`, or after a second, as most clients do.
pub(super) async fn expect(checker: &Checker) -> Finding {
    let body = checker.event().to_bytes();
    let go_on = Arc::new(Notify::new());
    let steps = vec![
        Step::Until(Arc::clone(&go_on), Duration::from_secs(1)),
        Step::Send(body.clone()),
    ];
    let mut request = checker.paced_request(steps, Some(body.len()));
    request
        .headers_mut()
        .insert(EXPECT, HeaderValue::from_static("100-continue"));
    let informed = Arc::clone(&go_on);
    hyper::ext::on_informational(&mut request, move |_| informed.notify_one());
    expect_success(&checker.send(request).await)
}

pub(super) async fn keep_alive(checker: &Checker) -> Finding {
    let mut connection = match checker.connect().await {
        Ok(connection) => connection,
        Err(error) => return Finding::Failed(error.to_string()),
    };
    let first = checker.request(checker.event().to_bytes());
    let first = checker.send_on(&mut connection, first).await;
    if !is_success(&first) {
        return Finding::Failed(format!("the first event: {}", describe(&first)));
    }
    if first.is_ok_and(|answer| answer.closes) {
        let text = "the server announces that it closes each connection";
        return Finding::Skipped(text.to_owned());
    }
    let second = checker.request(checker.event().to_bytes());
    expect_success(&checker.send_on(&mut connection, second).await)
}

pub(super) async fn http2(checker: &Checker) -> Finding {
    let opened = Connection::open(&checker.site, true).await;
    let is_tls = checker.site.uri.scheme() == Some(&Scheme::HTTPS);
    let got = match opened {
        Ok(mut connection) => {
            let request = checker.request(checker.event().to_bytes());
            checker.send_on(&mut connection, request).await
        }
        Err(error) => Err(error),
    };
    // Over http://, few servers speak HTTP/2, and a proxy in front of them does so over https://.
    let not_offered = got.as_ref().is_err_and(|error| {
        matches!(
            error.kind(),
            SendErrorKind::Closed | SendErrorKind::Connect | SendErrorKind::Protocol
        )
    });
    match not_offered && !is_tls {
        true => Finding::Skipped("the server doesn't speak HTTP/2 without TLS".to_owned()),
        false => expect_success(&got),
    }
}

pub(super) async fn aborted(checker: &Checker) -> Finding {
    for _ in 0..3 {
        let mut connection = match checker.connect().await {
            Ok(connection) => connection,
            Err(error) => return Finding::Failed(error.to_string()),
        };
        let request = half_request(checker, Arc::new(Notify::new()));
        // The drop of the connection closes it.
        let sending = connection.send(request);
        let _ = tokio::time::timeout(Duration::from_millis(50), sending).await;
    }
    expect_success(&checker.post(checker.event().to_bytes()).await)
}

/// Stalls at half a body. Sends other events meanwhile, and waits until the stalled request ends.
pub(super) async fn half_body(checker: &Checker) -> Finding {
    let mut site = checker.site.clone();
    site.timeout = checker.stall_limit;
    let mut connection = match Connection::open(&site, checker.http2).await {
        Ok(connection) => connection,
        Err(error) => return Finding::Failed(error.to_string()),
    };
    let half_sent = Arc::new(Notify::new());
    let request = half_request(checker, Arc::clone(&half_sent));
    let start = std::time::Instant::now();
    let stalled = checker.send_on(&mut connection, request);
    let meanwhile = async {
        half_sent.notified().await;
        checker.post(checker.event().to_bytes()).await
    };
    let (stalled, meanwhile) = tokio::join!(stalled, meanwhile);
    if !is_success(&meanwhile) {
        return Finding::Failed(format!("another event meanwhile: {}", describe(&meanwhile)));
    }
    match &stalled {
        Ok(answer) if answer.status.is_success() => Finding::Failed(format!(
            "{}, although half of the body is missing",
            describe(&stalled)
        )),
        Ok(answer) if answer.status.is_redirection() => expect_decision(&stalled),
        Ok(_) => Finding::Passed(describe(&stalled)),
        Err(error) if error.kind() == SendErrorKind::Timeout => Finding::Failed(format!(
            "the request hadn't ended after {}",
            humantime::format_duration(checker.stall_limit)
        )),
        Err(_) => Finding::Passed(format!(
            "the connection closed after {}",
            duration(start.elapsed())
        )),
    }
}

/// Returns a request that stalls after half of its body.
fn half_request(
    checker: &Checker,
    half_sent: Arc<Notify>,
) -> http::Request<crate::http::PacedBody> {
    let body = checker.event().to_bytes();
    let half = body.slice(..body.len() / 2);
    let steps = vec![Step::Send(half), Step::Notify(half_sent), Step::Stall];
    checker.paced_request(steps, Some(body.len()))
}

/// Cuts a body into about `count` parts.
fn parts(body: &Bytes, count: usize) -> Vec<Bytes> {
    let size = body.len().div_ceil(count).max(1);
    (0..body.len())
        .step_by(size)
        .map(|at| body.slice(at..body.len().min(at + size)))
        .collect()
}
