//! The health of a receiver, and the service that answers probes.

use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, DeliverySettings, Endpoint, Event, EventRouter, Handle, Health,
    HealthLimits, HealthProblemKind, HealthService, Inbox, MemoryInbox, SharedSecret, WebhookLayer,
};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tokio::time::{Instant, sleep};

use crate::support::receiver::{PATH, Scripted, ask, good, idle};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

/// The delays of a sender that retries one event for more than a day. Real senders also send other events, so they are
/// faster.
const RETRIES: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 60 * 60),
    Duration::from_secs(5 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
    Duration::from_secs(10 * 60 * 60),
];

/// The problems that a hook of `on_health_change` has seen, each with the time of the call.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Change>>>);

type Change = (Duration, Vec<HealthProblemKind>);

impl Seen {
    fn by(handle: &Handle) -> Self {
        let (seen, begun) = (Self::default(), Instant::now());
        let list = Arc::clone(&seen.0);
        handle.on_health_change(move |health| {
            list.lock().unwrap().push((begun.elapsed(), kinds(health)));
        });
        seen
    }

    /// Returns when the hook first saw a problem of this kind.
    fn first(&self, kind: HealthProblemKind) -> Option<Duration> {
        let list = self.0.lock().unwrap();
        let found = list.iter().find(|(_, kinds)| kinds.contains(&kind));
        found.map(|(at, _)| *at)
    }
}

fn kinds(health: &Health) -> Vec<HealthProblemKind> {
    health
        .problems()
        .iter()
        .map(|problem| problem.kind())
        .collect()
}

/// Sends an event, and sends it again after each delay. Asserts that every answer has this status.
async fn retry<I: Inbox>(endpoint: &Endpoint<I>, request: &MockRequest, status: u16) {
    for delay in [Duration::ZERO].into_iter().chain(RETRIES) {
        sleep(delay).await;
        let answer = ask(endpoint, request.build::<Full<Bytes>>()).await;
        assert_eq!(answer.status(), status);
    }
}

/// Asserts that a receiver that rejects this request reports the problem within 10 minutes. The sender needs days to disable
/// the endpoint.
async fn assert_reported<I: Inbox>(
    webhooks: &WebhookLayer<I>,
    request: &MockRequest,
    status: u16,
    kind: HealthProblemKind,
) {
    let seen = Seen::by(&webhooks.handle());
    retry(&webhooks.endpoint(), request, status).await;
    let reported = seen.first(kind);
    assert!(
        reported.is_some_and(|at| at < 10 * MINUTE),
        "{kind}: {reported:?}"
    );
    assert_eq!(kinds(&webhooks.handle().health()), [kind]);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_is_reported_long_before_the_sender_disables_the_endpoint() {
    let webhooks =
        WebhookLayer::new(PATH, idle()).verify(SharedSecret::in_query("token", "s3cret-of-ours"));
    let request = good().query("token", "s3cret-of-theirs");
    assert_reported(&webhooks, &request, 401, HealthProblemKind::Unverified).await;
    let text = webhooks.handle().health().to_string();
    assert!(!text.contains("s3cret"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_changed_envelope_is_reported_long_before_the_sender_disables_the_endpoint() {
    let webhooks = WebhookLayer::new(PATH, idle());
    let request = good().body(r#"{"messageId":"1","type":"account.updated"}"#);
    assert_reported(&webhooks, &request, 400, HealthProblemKind::Malformed).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_too_low_is_reported_long_before_the_sender_disables_the_endpoint() {
    let webhooks = WebhookLayer::new(PATH, idle()).max_body_bytes(10);
    assert_reported(&webhooks, &good(), 413, HealthProblemKind::Rejected).await;
    let text = webhooks.handle().health().to_string();
    assert!(text.contains("the body is too large"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_full_inbox_is_reported_long_before_the_sender_disables_the_endpoint() {
    let router = EventRouter::new().on_any(|_: Event| pending::<()>());
    let delivery = DeliverySettings::new().attempt_timeout(1000 * HOUR);
    let inbox = MemoryInbox::builder().max_events(1).delivery(delivery);
    let webhooks = WebhookLayer::new(PATH, inbox.build(router));
    let limits = HealthLimits::new().max_event_age(1000 * HOUR);
    webhooks.handle().set_health_limits(limits);
    let first = ask(&webhooks.endpoint(), good().build::<Full<Bytes>>()).await;
    assert_eq!(first.status(), 200);
    assert_reported(&webhooks, &good(), 503, HealthProblemKind::Full).await;
    assert!(!webhooks.handle().health().is_ready());
}

#[tokio::test(start_paused = true)]
async fn an_inbox_that_fails_is_reported_long_before_the_sender_disables_the_endpoint() {
    let inbox = Scripted::new(|_, _| async { Err(AcceptError::new(AcceptErrorKind::Unavailable)) });
    let webhooks = WebhookLayer::new(PATH, inbox);
    assert_reported(&webhooks, &good(), 503, HealthProblemKind::Rejected).await;
}

/// A forgotten drain looks like any other refusal to the sender.
#[tokio::test(start_paused = true)]
async fn a_drain_is_reported_and_makes_the_process_unready() {
    let webhooks = WebhookLayer::new(PATH, idle());
    let drained = webhooks.handle().drain(MINUTE).await;
    assert_eq!(drained.remaining, 0);
    assert_reported(&webhooks, &good(), 503, HealthProblemKind::Draining).await;
    let health = webhooks.handle().health();
    assert!(!health.is_ready() && health.is_live());
}

/// If the sender uses another path, or has disabled the endpoint, the receiver gets no requests.
#[tokio::test(start_paused = true)]
async fn silence_is_reported_if_a_limit_is_set() {
    let webhooks = WebhookLayer::new(PATH, idle());
    let (handle, endpoint) = (webhooks.handle(), webhooks.endpoint());
    let seen = Seen::by(&handle);
    sleep(100 * HOUR).await;
    assert!(handle.health().is_ok());

    handle.set_health_limits(HealthLimits::new().max_silence(6 * HOUR));
    sleep(MINUTE).await;
    assert_eq!(kinds(&handle.health()), [HealthProblemKind::Silent]);
    assert!(seen.first(HealthProblemKind::Silent).is_some());

    // An event ends the problem, and so does a copy.
    let request = good();
    for _ in 0..2 {
        ask(&endpoint, request.build::<Full<Bytes>>()).await;
        assert!(handle.health().is_ok());
        sleep(5 * HOUR).await;
        assert!(handle.health().is_ok());
        sleep(2 * HOUR).await;
        assert_eq!(kinds(&handle.health()), [HealthProblemKind::Silent]);
        assert!(handle.health().is_ready());
    }
    let calls = seen.0.lock().unwrap().len();
    assert_eq!(calls, 5, "{:?}", seen.0.lock().unwrap());
}

#[tokio::test(start_paused = true)]
async fn an_accepted_event_ends_a_series_of_rejections() {
    let webhooks =
        WebhookLayer::new(PATH, idle()).verify(SharedSecret::in_query("token", "s3cret"));
    let (handle, endpoint) = (webhooks.handle(), webhooks.endpoint());
    let seen = Seen::by(&handle);
    for _ in 0..5 {
        for _ in 0..2 {
            ask(&endpoint, good().build::<Full<Bytes>>()).await;
            sleep(10 * MINUTE).await;
        }
        let request = good().query("token", "s3cret").build::<Full<Bytes>>();
        assert_eq!(ask(&endpoint, request).await.status(), 200);
    }
    // Neither two rejections in a row nor many rejections within a second are a problem.
    for _ in 0..100 {
        ask(&endpoint, good().build::<Full<Bytes>>()).await;
    }
    sleep(MINUTE).await;
    assert!(handle.health().is_ok());
    assert!(seen.0.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn rejected_requests_never_make_the_process_unready_and_are_forgotten_after_a_day() {
    let webhooks =
        WebhookLayer::new(PATH, idle()).verify(SharedSecret::in_query("token", "s3cret"));
    let (handle, endpoint) = (webhooks.handle(), webhooks.endpoint());
    for _ in 0..10 {
        ask(&endpoint, good().build::<Full<Bytes>>()).await;
        let get = good().method(Method::GET).build::<Full<Bytes>>();
        assert_eq!(ask(&endpoint, get).await.status(), 405);
        sleep(MINUTE).await;
    }
    let health = handle.health();
    assert_eq!(kinds(&health), [HealthProblemKind::Unverified]);
    assert!(health.is_ready() && health.is_live());
    sleep(24 * HOUR).await;
    assert!(handle.health().is_ok());
}

#[tokio::test(start_paused = true)]
async fn every_handle_of_an_inbox_shows_the_problems_of_all_its_receivers() {
    let inbox = MemoryInbox::new(idle());
    let one = WebhookLayer::new(PATH, inbox.clone()).verify(SharedSecret::in_query("token", "a"));
    let two = WebhookLayer::new(PATH, inbox.clone()).verify(SharedSecret::in_query("token", "b"));
    for _ in 0..5 {
        ask(&one.endpoint(), good().build::<Full<Bytes>>()).await;
        sleep(MINUTE).await;
    }
    let expected = [HealthProblemKind::Unverified];
    for handle in [one.handle(), two.handle(), inbox.handle()] {
        assert_eq!(kinds(&handle.health()), expected);
    }
    // The problems of a receiver end with the receiver.
    drop(one);
    assert!(two.handle().health().is_ok());
}

async fn probe(service: &HealthService, method: Method, path: &str) -> Response<Bytes> {
    let request = Request::builder().method(method).uri(path).body(());
    ask(service, request.unwrap()).await
}

#[tokio::test(start_paused = true)]
async fn probes_are_answered_with_the_health_as_json() {
    let webhooks = WebhookLayer::new(PATH, idle());
    let handle = webhooks.handle();
    let service = HealthService::new(handle.clone());
    let well = r#"{"ok":true,"ready":true,"live":true,"problems":[]}"#;
    for path in ["/", "/health", "/health/ready", "/live", "/health/livez"] {
        let answer = probe(&service, Method::GET, path).await;
        assert_eq!(
            (answer.status().as_u16(), &**answer.body()),
            (200, well.as_bytes())
        );
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        let head = probe(&service, Method::HEAD, path).await;
        assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
        assert_eq!(head.headers(), answer.headers());
    }
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let answer = probe(&service, method, "/").await;
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"], "GET, HEAD");
    }

    let _ = handle.drain(MINUTE).await;
    sleep(MINUTE).await;
    for (path, status) in [("/", 503), ("/live", 200), ("/alive", 503), ("/live/", 503)] {
        for method in [Method::GET, Method::HEAD] {
            let answer = probe(&service, method, path).await;
            assert_eq!(answer.status(), status, "{path}");
        }
    }
    let answer = probe(&service, Method::GET, "/live").await;
    let json: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!((&json["ok"], &json["live"]), (&false.into(), &true.into()));
    let problem = &json["problems"][0];
    assert_eq!(problem["kind"], "draining");
    assert!(problem["route"].is_null() && problem["since"].is_u64());
    let message = problem["message"].as_str().unwrap();
    assert_eq!(
        message,
        "the inbox drains; if the process doesn't exit, restart it"
    );
}

#[tokio::test]
async fn a_nested_health_service_sees_the_rest_of_the_path() {
    let webhooks = WebhookLayer::new(PATH, idle());
    let handle = webhooks.handle();
    let app = axum::Router::<()>::new()
        .nest_service("/health", HealthService::new(handle.clone()))
        .route_service("/livez", HealthService::new(handle.clone()))
        .layer(webhooks);
    let _ = handle.drain(Duration::ZERO).await;
    for (path, status) in [("/health", 503), ("/health/live", 200), ("/livez", 200)] {
        for method in [Method::GET, Method::HEAD] {
            let request = Request::builder().method(method).uri(path);
            let request = request.body(axum::body::Body::empty()).unwrap();
            assert_eq!(ask(&app, request).await.status(), status, "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn neither_ids_nor_payloads_nor_secrets_are_in_the_health() {
    let router = EventRouter::new().on("account.updated", |_: Event| async {
        Err::<(), _>("PAYLOAD")
    });
    let webhooks =
        WebhookLayer::new(PATH, router).verify(SharedSecret::in_query("token", "SECRET"));
    let (handle, endpoint) = (webhooks.handle(), webhooks.endpoint());
    for n in 0..20 {
        let event = good().message_id(format!("ID-{n}")).data("PAYLOAD");
        let good = event
            .clone()
            .query("token", "SECRET")
            .build::<Full<Bytes>>();
        assert_eq!(ask(&endpoint, good).await.status(), 200);
        let bad = event.query("token", "SECRET-2").build::<Full<Bytes>>();
        assert_eq!(ask(&endpoint, bad).await.status(), 401);
        sleep(10 * Duration::from_secs(1)).await;
    }
    for _ in 0..5 {
        let bad = good().query("token", "SECRET-2").build::<Full<Bytes>>();
        ask(&endpoint, bad).await;
        sleep(MINUTE).await;
    }
    let health = handle.health();
    assert_eq!(
        kinds(&health),
        [
            HealthProblemKind::Unverified,
            HealthProblemKind::RouteFailing,
            HealthProblemKind::DeadLettersGrowing
        ]
    );
    let json = serde_json::to_string(&health).unwrap();
    for text in [format!("{health}"), format!("{health:?}"), json] {
        for word in ["ID-", "PAYLOAD", "SECRET"] {
            assert!(!text.contains(word), "{text}");
        }
    }
}
