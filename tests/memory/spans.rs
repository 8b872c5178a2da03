//! Logs and spans: the request's span is the parent of its event's attempts, and no secret is logged.

use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, HandlerError, Inbox, MemoryInbox, RetryPolicy,
};

use crate::support::subscriber::capture;

async fn deliver(inbox: &MemoryInbox, mock: &MockRequest) {
    let span = tracing::info_span!("request", number = 7);
    let accept = tracing::Instrument::instrument(inbox.accept(mock.to_event()), span);
    accept.await.unwrap();
    inbox.handle().wait_idle().await;
}

fn talkative() -> EventRouter {
    EventRouter::new().on("account.updated", |_: Event| async {
        tokio::task::yield_now().await;
        tracing::info!("the handler ran");
    })
}

#[tokio::test]
async fn a_handler_logs_in_the_spans_of_its_request_its_attempt_and_its_route() {
    let (log, _guard) = capture("info");
    deliver(
        &MemoryInbox::new(talkative()),
        &MockRequest::event("account.updated").message_id("m-1"),
    )
    .await;
    let line = log.line("the handler ran");
    let spans = "request{number=7}:\
        attempt{event_id=\"m-1\" event_type=\"account.updated\" attempt=1}:\
        route{route=\"account.updated\"}:";
    assert!(line.contains(spans), "{line}");
}

#[tokio::test]
async fn each_route_has_its_own_span_and_no_span_stays_open() {
    let (log, _guard) = capture("info");
    let router = talkative()
        .on_prefix("account", |_: Event| async {
            tokio::task::yield_now().await;
            tracing::info!("the second handler ran");
        })
        .named("second");
    deliver(
        &MemoryInbox::new(router),
        &MockRequest::event("account.updated"),
    )
    .await;
    tracing::info!("afterwards");
    let (first, second) = (
        log.line("the handler ran"),
        log.line("the second handler ran"),
    );
    assert!(
        first.contains(":route{route=\"account.updated\"}: "),
        "{first}"
    );
    assert!(second.contains(":route{route=\"second\"}: "), "{second}");
    let line = log.line("afterwards");
    assert!(
        !line.contains("attempt{") && !line.contains("route{"),
        "{line}"
    );
}

/// A handler's guard, which logs when the handler is dropped.
struct LogsOnDrop;

impl Drop for LogsOnDrop {
    fn drop(&mut self) {
        tracing::info!("the handler was dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_times_out_is_dropped_in_the_span_of_its_route() {
    let (log, _guard) = capture("info");
    let router = EventRouter::new().on("account.updated", |_: Event| async {
        let _guard = LogsOnDrop;
        std::future::pending::<()>().await;
    });
    let delivery = DeliverySettings::new().retry(RetryPolicy::no_retry());
    let inbox = MemoryInbox::builder().delivery(delivery).build(router);
    deliver(&inbox, &MockRequest::event("account.updated")).await;
    let line = log.line("the handler was dropped");
    assert!(
        line.contains(":route{route=\"account.updated\"}: "),
        "{line}"
    );
}

#[tokio::test]
async fn a_filter_that_disables_this_crate_keeps_the_requests_span() {
    let (log, _guard) = capture("botisimo_webhooks=off,memory=info");
    deliver(
        &MemoryInbox::new(talkative()),
        &MockRequest::event("account.updated"),
    )
    .await;
    let line = log.line("the handler ran");
    assert!(
        line.contains("request{number=7}:") && !line.contains("attempt{"),
        "{line}"
    );
}

#[tokio::test]
async fn a_line_of_an_attempt_names_its_event_whatever_the_filter() {
    for filter in ["botisimo_webhooks=warn", "info", "trace"] {
        let (log, _guard) = capture(filter);
        let delivery = DeliverySettings::new().retry(RetryPolicy::no_retry());
        let inbox = MemoryInbox::builder().delivery(delivery).build(failing());
        deliver(
            &inbox,
            &MockRequest::event("account.updated").message_id("m-1"),
        )
        .await;
        let line = log.line("route=\"fails\"");
        assert!(line.contains("event_id=\"m-1\""), "{filter}: {line}");
    }
}

#[tokio::test]
async fn no_line_names_its_event_twice() {
    let (log, _guard) = capture("trace");
    let delivery = DeliverySettings::new().retry(
        RetryPolicy::new()
            .max_attempts(2)
            .initial_delay(Duration::ZERO),
    );
    let inbox = MemoryInbox::builder().delivery(delivery).build(failing());
    let endpoint = botisimo_webhooks::Endpoint::new(inbox.clone());
    for event_type in ["account.updated", "account.updated", "account.created"] {
        let id = format!("of {event_type}");
        let request = MockRequest::event(event_type).message_id(id).build();
        let request: http::Request<http_body_util::Full<bytes::Bytes>> = request;
        let call = tower::ServiceExt::oneshot(endpoint.clone(), request);
        assert_eq!(call.await.unwrap().status(), 200);
        inbox.handle().wait_idle().await;
    }
    let lines = log.lines();
    let of_events = lines.iter().filter(|line| line.contains("event_id"));
    assert!(of_events.clone().count() > 10, "{lines:?}");
    for line in of_events {
        for field in ["event_id=", "event_type=", "of account."] {
            assert_eq!(line.matches(field).count(), 1, "{field} in {line}");
        }
    }
}

#[tokio::test]
async fn one_events_span_doesnt_leak_into_the_next() {
    let (log, _guard) = capture("debug");
    let inbox = MemoryInbox::builder()
        .delivery(
            DeliverySettings::new()
                .retry(RetryPolicy::no_retry())
                .concurrency(1),
        )
        .build(talkative());
    for number in [1, 2] {
        let accept = inbox.accept(MockRequest::event("account.updated").to_event());
        tracing::Instrument::instrument(accept, tracing::info_span!("request", number))
            .await
            .unwrap();
    }
    inbox.handle().wait_idle().await;
    let lines = log.lines();
    let spoken: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("the handler ran"))
        .collect();
    assert!(
        spoken[0].contains("number=1") && !spoken[0].contains("number=2"),
        "{lines:?}"
    );
    assert!(
        spoken[1].contains("number=2") && !spoken[1].contains("number=1"),
        "{lines:?}"
    );
}

fn failing() -> EventRouter {
    #[derive(serde::Deserialize)]
    struct Typed {
        #[allow(dead_code)]
        name: u8,
    }
    EventRouter::new()
        .on_any(|_: Event| async { Err::<(), _>(HandlerError::from("s3cret of the handler")) })
        .named("fails")
        .on_any(|_: Event| async { panic!("s3cret of the panic") })
        .named("panics")
        .on_any(|_: Event<Typed>| async {})
        .named("typed")
        .on_any(|event: Event| async move {
            event.decode::<Typed>()?;
            Ok::<_, HandlerError>(())
        })
        .named("decodes")
}

#[tokio::test]
async fn with_redact_handler_errors_the_warning_of_a_failed_route_has_no_error_text() {
    let (log, _guard) = capture("trace");
    let mock = MockRequest::event("account.updated")
        .message_id("m-1")
        .data(serde_json::json!({"name": "s3cret"}));
    deliver(
        &MemoryInbox::builder()
            .delivery(
                DeliverySettings::new()
                    .retry(RetryPolicy::no_retry())
                    .redact_handler_errors(),
            )
            .build(failing()),
        &mock,
    )
    .await;
    for (route, outcome) in [
        ("fails", "outcome=\"failed\""),
        ("panics", "outcome=\"panicked\""),
        (
            "typed",
            "outcome=\"mismatched\" max_attempts=1 error=`data` doesn't fit: invalid type",
        ),
        (
            "decodes",
            "outcome=\"failed\" max_attempts=1 error=`data` doesn't fit: invalid type",
        ),
    ] {
        let line = log.line(&format!("route=\"{route}\""));
        assert!(line.contains("WARN") && line.contains(outcome), "{line}");
        assert!(
            line.contains("m-1") && line.contains("account.updated"),
            "{line}"
        );
    }
    assert!(
        !log.lines().concat().contains("s3cret"),
        "{:?}",
        log.lines()
    );
}

#[tokio::test]
async fn the_warning_of_a_failed_route_has_the_error_text_and_never_the_payload() {
    let (log, _guard) = capture("trace");
    let mock =
        MockRequest::event("account.updated").data(serde_json::json!({"name": "of the payload"}));
    deliver(
        &MemoryInbox::builder()
            .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
            .build(failing()),
        &mock,
    )
    .await;
    assert!(
        log.line("route=\"fails\"")
            .contains("s3cret of the handler")
    );
    assert!(log.line("route=\"panics\"").contains("s3cret of the panic"));
    assert!(
        !log.lines().concat().contains("of the payload"),
        "{:?}",
        log.lines()
    );
}

#[test]
fn a_route_without_a_documented_event_type_causes_one_warning_at_registration() {
    let (log, _guard) = capture("warn");
    let router = EventRouter::new()
        .on("acount.updated", |_: Event| async {})
        .on("account.*", |_: Event| async {})
        .on_any(|_: Event| async {});
    let _merged = EventRouter::new().merge(router.clone());
    assert_eq!(log.lines().len(), 1);
    log.line("acount.updated");
}
