//! Each occurrence has one line at a fixed level.

use std::fmt;
use std::time::{Duration, SystemTime};

use botisimo_webhooks::testing::{Harness, MockRequest};
use botisimo_webhooks::{
    DeliverySettings, Endpoint, Event, EventRouter, HandlerError, HandlerResult, Inbox,
    MemoryInbox, RetryPolicy, WebhookLayer,
};

use crate::support::subscriber::{Captured, capture};
use crate::support::until;

/// Returns settings with two attempts and no delay.
fn two_attempts() -> DeliverySettings {
    let retry = RetryPolicy::new().max_attempts(2);
    DeliverySettings::new().retry(retry.initial_delay(Duration::ZERO))
}

fn inbox(delivery: DeliverySettings, router: EventRouter) -> MemoryInbox {
    MemoryInbox::builder().delivery(delivery).build(router)
}

fn good(id: &str) -> MockRequest {
    MockRequest::event("account.updated").message_id(id)
}

/// Delivers one event to a route that returns `error`, and returns the log.
async fn log_of<E>(delivery: DeliverySettings, error: impl Fn() -> E) -> Captured
where
    E: Into<HandlerError>,
{
    let (log, _guard) = capture("warn");
    let error = error().into();
    let router = EventRouter::new()
        .on("account.updated", move |_: Event| async move {
            Err::<(), _>(error)
        })
        .named("fails");
    let harness = Harness::inbox(inbox(delivery, router));
    harness.deliver(good("m-1")).await.assert_status(200);
    log
}

/// Returns the logged message of the error.
async fn message<E: Into<HandlerError>>(error: impl Fn() -> E) -> String {
    let delivery = DeliverySettings::new().retry(RetryPolicy::no_retry());
    let line = log_of(delivery, error).await.line("attempt failed");
    let (_, message) = line.split_once(" error=").expect("the line has the error");
    message.to_owned()
}

/// An error with a source.
#[derive(Debug)]
struct Caused(&'static str, Option<Box<Caused>>);

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(self.0 != "panics", "the message panics");
        f.write_str(self.0)
    }
}

impl std::error::Error for Caused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.1.as_deref().map(|source| source as _)
    }
}

fn caused(messages: &[&'static str]) -> Caused {
    let (first, sources) = messages.split_first().unwrap();
    let source = (!sources.is_empty()).then(|| Box::new(caused(sources)));
    Caused(first, source)
}

#[tokio::test]
async fn an_events_life_has_one_line_for_each_step_at_a_fixed_level() {
    let (log, _guard) = capture("trace");
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {})
        .on("account.created", |event: Event| async move {
            if event.id() == "m-3" && event.attempt() == 2 {
                Ok(())
            } else {
                Err("no")
            }
        });
    let harness = Harness::inbox(inbox(two_attempts(), router));
    let start = log.lines().len();
    let created = MockRequest::event("account.created");
    for request in [
        good("m-1"),
        good("m-1"),
        MockRequest::event("video.created").message_id("m-2"),
        created.clone().message_id("m-3"),
        created.message_id("m-4"),
    ] {
        harness.deliver(request).await.assert_status(200);
    }
    let lines = log.lines();
    let steps: Vec<_> = lines[start..]
        .iter()
        .map(|line| {
            let (level, _) = line.trim_start().split_once(' ').unwrap();
            let (_, text) = line.split_once("botisimo_webhooks: ").unwrap();
            let end = text.find(" event_").or_else(|| text.find(" route="));
            format!("{level} {}", &text[..end.unwrap_or(text.len())])
        })
        .collect();
    let handled = [
        "DEBUG event accepted",
        "TRACE route handled the event",
        "DEBUG event handled",
    ];
    let expected = [
        &handled[..],
        &["DEBUG duplicate event"],
        &["DEBUG event accepted", "DEBUG event unhandled"],
        &["DEBUG event accepted", "WARN attempt failed"],
        &handled[1..],
        &[
            "DEBUG event accepted",
            "WARN attempt failed",
            "WARN attempt failed",
            "ERROR event dead-lettered",
        ],
    ];
    assert_eq!(steps, expected.concat(), "{lines:#?}");
}

#[tokio::test]
async fn a_failed_attempt_names_the_policy_and_the_delay_of_its_route() {
    let (log, _guard) = capture("warn");
    let hour = Duration::from_secs(3600);
    let policy = RetryPolicy::new().initial_delay(Duration::ZERO);
    let policy = policy.max_delay(hour);
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {
            Err::<(), _>(HandlerError::retry_after(Duration::from_secs(60), "busy"))
        })
        .named("soon")
        .on("account.updated", move |_: Event| async move {
            Err::<(), _>(HandlerError::retry_after(hour, "down"))
        })
        .named("late")
        .max_attempts(9);
    let inbox = inbox(DeliverySettings::new().retry(policy), router);
    inbox.accept(good("m-1").to_event()).await.unwrap();
    let handle = inbox.handle();
    until(|| handle.stats().retrying == 1).await;
    let lines = log.lines();
    let [soon, late] = &lines[lines.len() - 2..] else {
        panic!("{lines:?}")
    };
    assert!(
        soon.contains("route=\"soon\" outcome=\"failed\" max_attempts=5 retry_in=60.0s"),
        "{soon}"
    );
    assert!(
        late.contains("route=\"late\" outcome=\"failed\" max_attempts=9 retry_in=3600.0s"),
        "{late}"
    );
}

#[tokio::test]
async fn a_skip_has_one_line_and_a_failed_attempt_that_ends_as_stale_names_no_delay() {
    let (log, _guard) = capture("info");
    let hour = Duration::from_secs(3600);
    let router = EventRouter::new()
        .on("account.updated", move |_: Event| async move {
            Err::<(), _>(HandlerError::retry_after(hour, "no answer"))
        })
        .named("announce")
        .fresh_within(hour)
        .on("account.updated", |_: Event| async {})
        .named("stale")
        .fresh_within(Duration::ZERO);
    let delivery = DeliverySettings::new().retry(RetryPolicy::new().max_delay(hour));
    let harness = Harness::inbox(inbox(delivery, router));
    let start = log.lines().len();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let sent = now.unwrap() - hour / 2;
    let request = good("m-1").member("timestamp", sent.as_millis() as u64);
    harness.deliver(request).await.assert_status(200);
    let lines = log.lines();
    let [failed, announce, stale] = &lines[start..] else {
        panic!("{lines:?}")
    };
    assert!(failed.contains("WARN") && failed.contains("attempt failed route=\"announce\" outcome=\"failed\" max_attempts=5 error=no answer"), "{failed}");
    for (line, route) in [(announce, "announce"), (stale, "stale")] {
        let text = format!(
            "attempt=1}}: botisimo_webhooks: route skipped the event route=\"{route}\" reason=\"stale\""
        );
        assert!(line.contains("INFO") && line.contains(&text), "{line}");
    }
}

#[tokio::test]
async fn a_failed_attempt_names_the_attempt_the_delay_and_the_error() {
    let log = log_of(two_attempts(), || HandlerError::from("no answer")).await;
    let lines = log.lines();
    let [first, second, dead] = &lines[lines.len() - 3..] else {
        panic!("{lines:?}")
    };
    assert!(first.contains("attempt=1}: botisimo_webhooks: attempt failed route=\"fails\" outcome=\"failed\" max_attempts=2 retry_in=0.0ns error=no answer"), "{first}");
    assert!(second.contains("attempt=2}: botisimo_webhooks: attempt failed route=\"fails\" outcome=\"failed\" max_attempts=2 error=no answer"), "{second}");
    assert!(dead.contains("event dead-lettered event_id=\"m-1\" event_type=\"account.updated\" attempts=2 dead_letter=1 routes=\"fails\""), "{dead}");
}

#[tokio::test]
async fn a_route_that_isnt_retried_has_no_delay_though_another_route_is() {
    let (log, _guard) = capture("warn");
    let router = EventRouter::new()
        .on_any(|_: Event| async { Err::<(), _>(HandlerError::permanent("never")) })
        .named("permanent")
        .on_any(|event: Event| async move {
            if event.attempt() == 1 {
                Err("later")
            } else {
                Ok(())
            }
        })
        .named("retried");
    let harness = Harness::inbox(inbox(two_attempts(), router));
    harness.deliver(good("m-1")).await.assert_status(200);
    assert!(!log.line("route=\"permanent\"").contains("retry_in"));
    assert!(log.line("route=\"retried\"").contains("retry_in"));
}

#[tokio::test]
async fn handled_events_are_logged_at_info_if_set() {
    for (delivery, level) in [
        (DeliverySettings::new(), "DEBUG"),
        (DeliverySettings::new().log_handled_at_info(), " INFO"),
    ] {
        let (log, _guard) = capture("debug");
        let router = EventRouter::new().on_any(|_: Event| async {});
        let harness = Harness::inbox(inbox(
            delivery,
            router.on("account.updated", |_: Event| async {}),
        ));
        harness.deliver(good("m-1")).await.assert_status(200);
        let line = log.line("event handled");
        assert!(line.starts_with(level), "{line}");
    }
}

#[tokio::test]
async fn an_error_is_logged_with_its_sources() {
    let error = || caused(&["can't refresh", "can't connect", "connection refused"]);
    assert_eq!(
        message(error).await,
        "can't refresh: can't connect: connection refused"
    );
}

/// The bug that this avoids: many errors end with the message of their source.
#[tokio::test]
async fn a_source_that_its_error_already_quotes_is_not_repeated() {
    let error = || caused(&["can't refresh: refused", "refused"]);
    assert_eq!(message(error).await, "can't refresh: refused");
}

#[tokio::test]
async fn an_error_is_logged_on_one_line() {
    let error = || caused(&["line 1\r\nline 2", "\u{1b}[31mred\u{2028}next\tend\u{0}"]);
    let expected = r"line 1\r\nline 2: \u{1b}[31mred\u{2028}next\tend\0";
    assert_eq!(message(error).await, expected);
}

#[tokio::test]
async fn a_long_error_is_cut_at_1_kib_with_a_mark() {
    for long in ["x".repeat(1025), "ä".repeat(2000), "\n".repeat(700)] {
        let message = message(|| HandlerError::from(&*long)).await;
        assert!((1022..=1024).contains(&message.len()), "{}", message.len());
        assert!(message.ends_with('…'), "{message}");
    }
    let fits = "x".repeat(1024);
    assert_eq!(message(|| HandlerError::from(&*fits)).await, fits);
    // The cut is between two messages, or in the second message.
    for first in ["x".repeat(1020), "x".repeat(1024)] {
        let first: &'static str = first.leak();
        let message = message(|| caused(&[first, "second"])).await;
        assert!(message.len() <= 1024 && message.ends_with('…'), "{message}");
    }
}

#[tokio::test]
async fn an_endless_chain_of_sources_is_cut() {
    #[derive(Debug)]
    struct Endless;

    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("")
        }
    }

    impl std::error::Error for Endless {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(self)
        }
    }

    assert_eq!(message(|| Endless).await, "");
}

#[tokio::test]
async fn if_the_message_of_an_error_panics_the_line_says_so() {
    let message = message(|| caused(&["panics"])).await;
    assert_eq!(message, "the error's message panicked");
}

#[tokio::test]
async fn errors_returned_by_question_mark_on_a_boxed_error_keep_their_sources() {
    async fn fails() -> HandlerResult {
        let error: Box<dyn std::error::Error + Send + Sync> = Box::new(caused(&["outer", "inner"]));
        Err(error)?
    }
    let (log, _guard) = capture("warn");
    let router = EventRouter::new().on("account.updated", |_: Event| fails());
    let delivery = DeliverySettings::new().retry(RetryPolicy::no_retry());
    let harness = Harness::inbox(inbox(delivery, router));
    harness.deliver(good("m-1")).await.assert_status(200);
    let line = log.line("attempt failed");
    assert!(line.ends_with("error=outer: inner"), "{line}");
}

#[tokio::test]
async fn the_start_of_a_layer_and_of_an_endpoint_is_logged_once() {
    let (log, _guard) = capture("info");
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {})
        .on_any(|_: Event| async {});
    let layer = WebhookLayer::new("/webhooks/botisimo", router.clone());
    for _ in 0..3 {
        let _ = tower::Layer::layer(&layer.clone(), ());
    }
    let _ = layer.endpoint();
    let line = log.line("receiving webhooks");
    let fields = "path=\"/webhooks/botisimo\" inbox=\"memory\" routes=2";
    assert!(line.contains(" INFO") && line.ends_with(fields), "{line}");

    let (log, _guard) = capture("info");
    let _ = Endpoint::new(router);
    let line = log.line("receiving webhooks");
    assert!(
        line.ends_with("receiving webhooks inbox=\"memory\" routes=2"),
        "{line}"
    );
}

#[tokio::test]
async fn the_start_doesnt_count_the_routes_that_a_layer_hides() {
    let (log, _guard) = capture("info");
    let hidden = tower::ServiceBuilder::new()
        .timeout(Duration::from_secs(2))
        .service(EventRouter::new());
    let _ = Endpoint::new(MemoryInbox::new(hidden));
    let line = log.line("receiving webhooks");
    assert!(
        line.ends_with("receiving webhooks inbox=\"memory\""),
        "{line}"
    );
    assert!(!log.text().contains("no routes"), "{}", log.text());
}

#[tokio::test]
async fn a_router_without_routes_causes_one_warning() {
    let (log, _guard) = capture("trace");
    let harness = Harness::inbox(MemoryInbox::new(EventRouter::new()));
    for _ in 0..200 {
        let request = MockRequest::event("account.updated");
        harness.deliver(request).await.assert_status(200);
    }
    assert!(log.line("the router has no routes").contains("WARN"));
    assert!(!log.text().contains("no route matches"), "{}", log.text());
}

/// Delivers events of this type.
async fn deliver(harness: &Harness, event_type: &str, times: usize) {
    for _ in 0..times {
        let request = MockRequest::event(event_type);
        harness.deliver(request).await.assert_status(200);
    }
}

#[tokio::test]
async fn a_hundred_events_in_a_row_without_a_route_cause_one_warning() {
    const TEXT: &str = "no route matches the last events";
    let (log, _guard) = capture("warn");
    let router = EventRouter::new()
        .on("account.updated", |_: Event| async {})
        .on_prefix("connection.stream", |_: Event| async {})
        .on_any(|_: Event| async {});
    let harness = Harness::inbox(MemoryInbox::new(router));
    deliver(&harness, "video.created", 99).await;
    deliver(&harness, "account.updated", 1).await;
    deliver(&harness, "video.created", 99).await;
    assert!(!log.text().contains(TEXT), "{}", log.text());
    deliver(&harness, "video.deleted", 1).await;
    let line = log.line(TEXT);
    let fields = "events=100 patterns=\"account.updated, connection.stream[.*]\" last_type=\"video.deleted\"";
    assert!(line.contains("WARN") && line.ends_with(fields), "{line}");
    deliver(&harness, "account.updated", 1).await;
    deliver(&harness, "video.created", 200).await;
    log.line(TEXT);
}

#[tokio::test]
async fn the_warning_names_at_most_ten_patterns() {
    let (log, _guard) = capture("warn");
    let mut router = EventRouter::new();
    for number in 0..12 {
        router = router.on(format!("account.updated.{number}"), |_: Event| async {});
    }
    let harness = Harness::inbox(MemoryInbox::new(router));
    deliver(&harness, "video.created", 100).await;
    let line = log.line("no route matches the last events");
    assert!(
        line.contains(".8, account.updated.9 and 2 more\" last_type"),
        "{line}"
    );
}

#[tokio::test]
async fn routes_for_every_event_cause_no_warning() {
    let (log, _guard) = capture("warn");
    let router = EventRouter::new().on_any(|_: Event| async {});
    let layered = tower::ServiceBuilder::new()
        .timeout(Duration::from_secs(2))
        .service(router.clone());
    for inbox in [MemoryInbox::new(router), MemoryInbox::new(layered)] {
        deliver(&Harness::inbox(inbox), "video.created", 150).await;
    }
    assert!(!log.text().contains("no route"), "{}", log.text());
}

#[tokio::test(start_paused = true)]
async fn a_drain_logs_its_begin_and_its_end_with_counts() {
    let (log, _guard) = capture("info");
    let router = EventRouter::new().on_any(|_: Event| std::future::pending::<()>());
    let layer = WebhookLayer::new("/", router);
    let handle = layer.handle();
    let request: http::Request<http_body_util::Full<bytes::Bytes>> = good("m-1").build();
    let call = tower::ServiceExt::oneshot(layer.endpoint(), request);
    assert_eq!(call.await.unwrap().status(), 200);
    assert_eq!(handle.drain(Duration::from_secs(1)).await.remaining, 1);
    assert!(log.line("draining").ends_with("draining in_flight=1"));
    assert!(log.line("drained").ends_with("drained remaining=1"));
}
