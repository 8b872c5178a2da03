//! The laws of `Inbox::accept`.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::runs::{Runs, event};
use super::{InboxFactory, attempts};
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{AcceptErrorKind, Accepted, EventRouter, Inbox};

/// The maximum number of times the sender resends a refused event. It waits 5 ms between tries.
const TRIES: usize = 6_000;

/// An accepted event reaches its handlers once and unchanged, for any event type and any id.
pub(crate) async fn events_are_delivered_as_they_came(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new().on_any(runs.noting("any"));
    let opened = factory.open(router, attempts(1)).await;
    let long = "\u{1}".repeat(255);
    let names = [
        "account.updated",
        "a",
        ".",
        "a..b",
        "*",
        ">",
        "a.*",
        "$",
        " ",
        "a b",
        "\u{a0}",
        "\u{2003}",
        "\r\n",
        "\0",
        "é",
        "🦀",
        &long,
    ];
    let sent: Vec<_> = names
        .iter()
        .map(|name| {
            MockRequest::event(*name)
                .message_id(name)
                .data("é \\ \" \u{1}")
        })
        .map(|request| request.to_event())
        .collect();
    for event in &sent {
        opened.accept(event.clone()).await;
    }
    opened
        .until("all events have run", || runs.count("any") >= sent.len())
        .await;
    assert_eq!(runs.count("any"), sent.len(), "each event runs once");
    for event in sent {
        let all = runs.all();
        let ran = all.iter().find(|run| run.event.id() == event.id());
        let ran = ran.unwrap_or_else(|| panic!("{event:?} didn't run"));
        assert_eq!(ran.event.body(), event.body());
        assert_eq!(ran.event.event_type(), event.event_type());
        assert_eq!(ran.event.attempt(), 1);
        let apart = match ran.event.received_at().duration_since(event.received_at()) {
            Ok(apart) => apart,
            Err(error) => error.duration(),
        };
        assert!(
            apart < Duration::from_millis(2),
            "the time of receipt is kept"
        );
    }
}

/// A copy of an accepted event is a duplicate and doesn't run. This holds before and after the event has been
/// handled, with and without a route.
pub(crate) async fn copies_are_accepted_once(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let opened = factory.open(router, attempts(1)).await;
    for event_type in ["a", "unhandled"] {
        let copy = || event(event_type, event_type);
        opened.accept(copy()).await;
        assert_eq!(opened.inbox.accept(copy()).await, Ok(Accepted::Duplicate));
        opened
            .until("the event has run", || runs.count("a") >= 1)
            .await;
        assert_eq!(opened.inbox.accept(copy()).await, Ok(Accepted::Duplicate));
        // The id alone decides whether an event is a copy.
        let other = event("a.other", event_type);
        assert_eq!(opened.inbox.accept(other).await, Ok(Accepted::Duplicate));
    }
    opened.until("no other event runs", || true).await;
    assert_eq!(runs.attempts("a"), [1]);
    assert_eq!(opened.inbox.handle().stats().duplicates, 6);
}

/// Exactly one of several concurrent copies is accepted as new. For the other copies, the inbox returns `Duplicate`,
/// or `unavailable` while the first copy is being stored.
pub(crate) async fn of_concurrent_copies_one_is_accepted(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let opened = factory.open(router, attempts(1)).await;
    let copies = (0..50).map(|_| opened.inbox.accept(event("a", "1")));
    let answers = join_all(copies).await;
    let new = answers
        .iter()
        .filter(|answer| **answer == Ok(Accepted::New));
    assert_eq!(new.count(), 1, "{answers:?}");
    for answer in answers {
        if let Err(refused) = answer {
            assert_eq!(refused.kind(), AcceptErrorKind::Unavailable);
        }
    }
    opened
        .until("the event has run", || runs.count("a") >= 1)
        .await;
    assert_eq!(runs.attempts("a"), [1]);
}

/// The inbox stores the event at the first poll.
pub(crate) async fn an_accept_that_was_never_polled_stores_nothing(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let opened = factory.open(router, attempts(1)).await;
    drop(opened.inbox.accept(event("a", "1")));
    opened.assert_balanced();
    opened.accept(event("a", "1")).await;
    opened
        .until("the event has run", || runs.count("a") >= 1)
        .await;
    assert_eq!(runs.attempts("a"), [1]);
}

/// If the future is dropped after its first poll, only the answer is lost. The inbox stores both the event and
/// its id, or neither.
pub(crate) async fn an_accept_that_is_dropped_is_all_or_nothing(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let opened = factory.open(router, attempts(1)).await;
    let ids: Vec<_> = (0..10).map(|id| id.to_string()).collect();
    for id in &ids {
        let _ = opened.inbox.accept(event("a", id)).now_or_never();
    }
    for id in &ids {
        // The sender sends an unanswered event again.
        let mut answer = opened.inbox.accept(event("a", id)).await;
        for _ in 0..TRIES {
            if answer.is_ok() {
                break;
            }
            opened.inbox.runtime().sleep(Duration::from_millis(5)).await;
            answer = opened.inbox.accept(event("a", id)).await;
        }
        assert!(
            answer.is_ok(),
            "the id stays neither free nor accepted: {answer:?}"
        );
    }
    opened
        .until("all events have run", || runs.count("a") >= ids.len())
        .await;
    assert_eq!(runs.count("a"), ids.len(), "each event runs once");
}

/// A drained inbox refuses new events. A second drain finds nothing left.
pub(crate) async fn new_events_are_refused_after_a_drain(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let opened = factory.open(router, attempts(1)).await;
    opened.accept(event("a", "1")).await;
    opened
        .until("the event has run", || runs.count("a") >= 1)
        .await;
    let handle = opened.inbox.handle();
    for _ in 0..2 {
        let drained = handle.drain(Duration::from_secs(30)).await;
        assert_eq!(drained.remaining, 0);
    }
    let answer = opened.inbox.accept(event("a", "2")).await;
    let refused = answer.expect_err("a drained inbox refuses events");
    assert_eq!(refused.kind(), AcceptErrorKind::Draining);
    opened.until("no other event runs", || true).await;
    assert_eq!(runs.count("a"), 1, "the refused event doesn't run");
}
