//! At every step of random work, each counter equals its count in `Stats`.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::body::Body;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, Handle, HandlerError, Inbox, MemoryInbox, RetryPolicy,
    SharedSecret, WebhookLayer,
};
use fastrand::Rng;
use futures_util::FutureExt;
use tower::Service;

use crate::recorded::Recorded;

/// Compares whenever a handler runs, a hook runs or the test continues.
#[derive(Clone, Default)]
struct Check {
    checked: Arc<OnceLock<(Recorded, Handle)>>,
    checks: Arc<Mutex<u64>>,
}

impl Check {
    fn check(&self) {
        if let Some((recorded, handle)) = self.checked.get() {
            recorded.assert_equals(&handle.stats());
            *self.checks.lock().unwrap() += 1;
        }
    }
}

/// Returns a router whose handlers do what the event's data says.
fn router(check: &Check) -> EventRouter {
    let check = check.clone();
    let handler = move |event: Event| {
        let check = check.clone();
        async move {
            check.check();
            let told: String = event.decode()?;
            match told.as_str() {
                "ok" => {}
                "wait" => tokio::time::sleep(Duration::from_secs(3)).await,
                "hang" => std::future::pending().await,
                "permanent" => return Err(HandlerError::permanent("no")),
                "panic" => panic!("told to"),
                _ => return Err(HandlerError::from("told to")),
            }
            check.check();
            Ok(())
        }
    };
    EventRouter::new()
        .on("account.updated", handler.clone())
        .on("moon.full", handler.clone())
        .fresh_within(Duration::from_secs(3600))
        .on_prefix("poll", handler)
        .on("poll.created", |_: Event<String>| async {})
        .named("typed")
}

fn delivery(check: &Check) -> DeliverySettings {
    let (check, after) = (check.clone(), check.clone());
    DeliverySettings::new()
        .concurrency(3)
        .attempt_timeout(Duration::from_secs(10))
        .retry(RetryPolicy::new().max_attempts(3).seed(1))
        .on_attempt(move |_| check.check())
        .on_dead_letter(move |_| after.check())
}

/// Returns a valid or an invalid request.
fn request(rng: &mut Rng) -> http::Request<Body> {
    let event_type = *rng
        .choice(&[
            "account.updated",
            "moon.full",
            "poll.created",
            "poll.deleted",
            "sun.dark",
        ])
        .unwrap();
    let told = *rng
        .choice(&[
            "ok",
            "ok",
            "ok",
            "wait",
            "hang",
            "permanent",
            "panic",
            "fail",
            "fail",
        ])
        .unwrap();
    let mock = MockRequest::event(event_type).query("token", "s3cret");
    // Few ids, so that there are copies.
    let mock = mock.message_id(rng.u8(..).to_string());
    let mock = match rng.u8(..20) {
        0 => mock.data(7),
        _ => mock.data(told),
    };
    match rng.u8(..30) {
        0 => mock.body("{").build(),
        1 => MockRequest::event(event_type).build(),
        2 => mock.method(http::Method::PUT).build(),
        3 => mock.padded(5_000).build(),
        _ => mock.build(),
    }
}

/// Sends requests, lets time pass and replays dead letters, and compares after each step.
async fn work<I: Inbox>(layer: WebhookLayer<I>, check: &Check, recorded: &Recorded, rng: &mut Rng) {
    let handle = layer.handle();
    let _ = check.checked.set((recorded.clone(), handle.clone()));
    let letters = handle.dead_letters().unwrap();
    let mut endpoint = layer.endpoint();
    for _ in 0..300 {
        match rng.u8(..10) {
            0 => tokio::time::sleep(Duration::from_millis(rng.u64(..4_000))).await,
            1 => tokio::task::yield_now().await,
            2 => {
                for letter in letters.list(None, 1).await.unwrap() {
                    let _ = letters.replay(letter.id()).await;
                }
            }
            // The client disconnects after the first poll.
            3 => drop(endpoint.call(request(rng)).now_or_never()),
            _ => drop(endpoint.call(request(rng)).await),
        }
        check.check();
    }
    let _ = handle.drain(Duration::from_secs(3_600)).await;
    check.check();
    drop(endpoint.call(request(rng)).await);
    check.check();
}

fn layer<I: Inbox>(inbox: I) -> WebhookLayer<I> {
    WebhookLayer::new("/webhooks/botisimo", inbox)
        .verify(SharedSecret::in_query("token", "s3cret"))
        .max_body_bytes(4_000)
}

#[tokio::test(start_paused = true)]
async fn the_counters_equal_the_stats_of_a_memory_inbox_at_every_step() {
    for seed in 0..6 {
        let (recorded, _guard) = Recorded::on_this_thread();
        let check = Check::default();
        let inbox = MemoryInbox::builder()
            .delivery(delivery(&check))
            .max_events(12)
            .max_dead_letters(5)
            .build(router(&check));
        work(layer(inbox), &check, &recorded, &mut Rng::with_seed(seed)).await;
        assert!(*check.checks.lock().unwrap() > 500);
    }
}
