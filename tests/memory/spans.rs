//! Logs and spans: the request's span is the parent of its event's attempts, and no secret is logged.

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
async fn a_handler_logs_in_the_span_of_its_request() {
    let (log, _guard) = capture("debug");
    deliver(
        &MemoryInbox::new(talkative()),
        &MockRequest::event("account.updated").message_id("m-1"),
    )
    .await;
    let line = log.line("the handler ran");
    assert!(
        line.contains("request{number=7}:attempt{event_type=\"account.updated\" event_id=\"m-1\"}"),
        "{line}"
    );
}

#[tokio::test]
async fn a_filter_that_disables_the_attempts_span_keeps_the_requests_span() {
    let (log, _guard) = capture("warn,memory=info");
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
        .on_any(|_: Event| async { Err::<(), _>(HandlerError::new("s3cret of the handler")) })
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
        ("fails", "failed"),
        ("panics", "panicked"),
        ("typed", "mismatched: `data` doesn't fit: invalid type"),
        ("decodes", "failed: `data` doesn't fit: invalid type"),
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
