//! Helpers that several test binaries share. Each binary uses some of the helpers.
#![allow(dead_code, unused_imports)]

#[cfg(feature = "tokio")]
pub(crate) mod contract;
pub(crate) mod envelope;
#[cfg(feature = "tokio")]
pub(crate) mod freshness;
pub(crate) mod malformed;
#[cfg(feature = "jetstream")]
pub(crate) mod nats;
#[cfg(feature = "tokio")]
pub(crate) mod once_per;
#[cfg(all(feature = "tokio", feature = "tracing"))]
pub(crate) mod open_telemetry;
pub(crate) mod panics;
#[cfg(all(unix, feature = "postgres"))]
pub(crate) mod postgres;
pub(crate) mod process;
#[cfg(feature = "tokio")]
pub(crate) mod receiver;
#[cfg(feature = "tokio")]
pub(crate) mod replay_model;
#[cfg(feature = "tokio")]
pub(crate) mod route_concurrency;
#[cfg(feature = "tokio")]
pub(crate) mod route_policies;
pub(crate) mod runtime;
#[cfg(all(unix, feature = "signal", feature = "sqlite"))]
pub(crate) mod server;
#[cfg(all(feature = "sqlite", feature = "tokio"))]
pub(crate) mod sqlite;
#[cfg(feature = "tracing")]
pub(crate) mod subscriber;

use std::panic::Location;
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{DeadLetters, Event, Handle, Inbox, Stats};

/// Returns an event of the type `a`.
pub(crate) fn event(id: impl AsRef<str>) -> Event {
    MockRequest::event("a").message_id(id).to_event()
}

/// Returns an event of this type.
pub(crate) fn typed(event_type: &str) -> Event {
    MockRequest::event(event_type).to_event()
}

/// Returns an event whose data is its ordering key.
pub(crate) fn keyed(id: &str, key: impl serde::Serialize) -> Event {
    MockRequest::event("a").message_id(id).data(key).to_event()
}

/// Returns an event whose body has this size in bytes.
pub(crate) fn sized(id: &str, bytes: usize) -> Event {
    MockRequest::event("a")
        .message_id(id)
        .padded(bytes)
        .to_event()
}

/// Returns the ordering key of a [`keyed`] event.
pub(crate) fn key(event: &Event) -> Option<String> {
    event.decode().ok()
}

/// Asserts law 2 of ARCHITECTURE.md.
#[track_caller]
pub(crate) fn balanced(stats: &Stats) {
    let came = stats.accepted + stats.recovered + stats.replayed;
    let ended = stats.handled + stats.unhandled + stats.dead + stats.published;
    assert_eq!(came, ended + stats.in_flight(), "{stats:?}");
}

/// Waits until the inbox is idle. Asserts law 2 of ARCHITECTURE.md, and that an idle inbox holds no bytes.
#[cfg(feature = "tokio")]
pub(crate) async fn wait_idle(handle: &Handle) -> Stats {
    let idle = tokio::time::timeout(Duration::from_secs(1_000_000), handle.wait_idle());
    // In real time, that limit would take days.
    let bounded = async {
        let real = smol::Timer::after(Duration::from_secs(60));
        tokio::select! { idle = idle => idle.is_ok(), _ = real => false }
    };
    assert!(bounded.await, "not idle: {:?}", handle.stats());
    let stats = handle.stats();
    balanced(&stats);
    assert_eq!((stats.in_flight(), stats.bytes), (0, 0), "{stats:?}");
    stats
}

/// Runs every ready task.
#[cfg(feature = "tokio")]
pub(crate) async fn run_ready_tasks() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Returns the dead letters of an inbox.
pub(crate) fn letters(inbox: &impl Inbox) -> DeadLetters {
    inbox.handle().dead_letters().unwrap()
}

/// Polls a condition every millisecond until it holds, for at most 20 s.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        for _ in 0..20_000 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the condition at {caller} never held");
    }
}
