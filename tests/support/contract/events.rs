//! The laws of the event log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::runs::{Runs, event};
use super::{InboxFactory, attempts};
use botisimo_webhooks::{
    AttemptRecord, Event, EventFilter, EventRecord, EventRouter, EventState, Inbox, Replay,
    RouteResult,
};

/// Returns the results of an attempt, as text.
fn results(routes: &[RouteResult]) -> Vec<String> {
    let result = |result: &RouteResult| format!("{} {}", result.route(), result.outcome());
    routes.iter().map(result).collect()
}

/// The log lists each event once, newest first, with its state, its attempts and their results.
pub(crate) async fn events_are_listed_newest_first_in_their_states(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let failing = runs.clone();
    let router = EventRouter::new()
        .on_prefix("a", runs.noting("good"))
        .named("good")
        .on("a.bad", |event: Event| async move {
            failing.add("bad", &event);
            Err::<(), _>("a reason")
        })
        .named("bad");
    let opened = factory.open(router, attempts(2)).await;
    let events = opened.events.clone();
    let sent = [
        event("a", "1"),
        event("a.bad", "2"),
        event("b", "3"),
        event("a", "4"),
    ];
    for event in &sent {
        opened.accept(event.clone()).await;
    }
    let done = || runs.count("good") >= 3 && runs.count("bad") >= 2;
    opened.until("the routes have run", done).await;
    (opened.wait_idle)().await;

    let listed = events.list(&EventFilter::new(), 10).await;
    let listed = listed.expect("events can be listed");
    let states: Vec<_> = listed
        .iter()
        .map(|each| (each.message_id(), each.state()))
        .collect();
    assert_eq!(
        states,
        [
            ("4", EventState::Handled),
            ("3", EventState::Unhandled),
            ("2", EventState::Dead),
            ("1", EventState::Handled),
        ]
    );
    for record in &listed {
        let event = sent.iter().find(|event| event.id() == record.message_id());
        assert_eq!(record.body(), event.expect("it was sent").body());
        assert!(
            record.ended_at() >= Some(record.received_at()),
            "{record:?}"
        );
        let got = events.get(record.id()).await.expect("an event can be read");
        assert_eq!(got.map(|got| got.state()), Some(record.state()));
        let history = record.history().iter().map(AttemptRecord::number);
        assert!(history.eq(1..=record.attempts()), "{record:?}");
    }
    let dead = &listed[2];
    assert_eq!(
        results(dead.history()[0].routes()),
        ["good handled", "bad failed"]
    );
    assert_eq!(results(dead.history()[1].routes()), ["bad failed"]);
    let reason = dead.history()[1].routes()[0].reason();
    assert_eq!(reason, Some("failed: a reason"));

    let filters = [
        (EventFilter::dead(), "2"),
        (EventFilter::new().route("bad").outcome("failed"), "2"),
        (EventFilter::new().message_id("3"), "3"),
        (EventFilter::new().before(dead.id()), "1"),
    ];
    for (filter, expected) in filters {
        let found = events
            .list(&filter, 10)
            .await
            .expect("events can be listed");
        let found: Vec<_> = found.iter().map(EventRecord::message_id).collect();
        assert_eq!(found, [expected], "{filter:?}");
    }
    let page = events
        .list(&EventFilter::new(), 2)
        .await
        .expect("events can be listed");
    let page: Vec<_> = page.iter().map(EventRecord::message_id).collect();
    assert_eq!(page, ["4", "3"]);
}

/// A replay of one route runs this route for all events that match, and no other route.
pub(crate) async fn a_replay_of_one_route_runs_no_other_route(factory: &impl InboxFactory) {
    let runs = Runs::default();
    let router = EventRouter::new()
        .on_prefix("a", runs.noting("x"))
        .named("x")
        .on_prefix("a", runs.noting("y"))
        .named("y")
        .on("b", runs.noting("z"))
        .named("z");
    let opened = factory.open(router, attempts(2)).await;
    let events = opened.events.clone();
    for (event_type, id) in [("a", "1"), ("b", "2"), ("a.b", "3")] {
        opened.accept(event(event_type, id)).await;
    }
    let all = || runs.all().len() >= 5;
    opened.until("all routes have run", all).await;
    (opened.wait_idle)().await;

    let filter = EventFilter::new().route("x");
    let replayed = events.replay_matching(&filter, Replay::Only("x".into()));
    assert_eq!(replayed.await.expect("events can be replayed"), 2);
    let again = || runs.count("x") >= 4;
    opened.until("the route has run again", again).await;
    (opened.wait_idle)().await;
    assert_eq!(
        (runs.count("x"), runs.count("y"), runs.count("z")),
        (4, 2, 1)
    );
    assert_eq!(runs.attempts("x"), [1; 4], "attempts begin at 1 again");
    events
        .replay_matching(&filter, Replay::Only("typo".into()))
        .await
        .expect_err("no route has this name");
    let record = events.get(1).await.expect("an event can be read");
    let record = record.expect("the log keeps the event");
    assert_eq!(
        results(record.routes()).len(),
        2,
        "the other route keeps its result"
    );
    assert_eq!(record.history().len(), 2);
}

/// Every replay counts once, and a replayed event ends once.
pub(crate) async fn replays_keep_the_counts_balanced(factory: &impl InboxFactory) {
    let (runs, mended) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on_prefix("a", runs.noting("good"))
        .named("good")
        .on("a.bad", |event: Event| async move {
            failing.add("bad", &event);
            match flag.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err("a reason"),
            }
        })
        .named("bad");
    let opened = factory.open(router, attempts(1)).await;
    let events = opened.events.clone();
    for (event_type, id) in [("a", "1"), ("a.bad", "2"), ("b", "3")] {
        opened.accept(event(event_type, id)).await;
    }
    let done = || runs.count("bad") >= 1 && runs.count("good") >= 2;
    opened.until("the routes have run", done).await;
    (opened.wait_idle)().await;
    mended.store(true, Ordering::SeqCst);
    let all = EventFilter::new();
    let replayed = events.replay_matching(&all, Replay::All).await;
    assert_eq!(replayed.expect("events can be replayed"), 3);
    let again = || runs.count("bad") >= 2 && runs.count("good") >= 4;
    opened.until("the routes have run again", again).await;
    (opened.wait_idle)().await;
    let stats = opened.inbox.handle().stats();
    // The workers of an inbox that publishes its events have their own counts.
    if stats.published == 0 {
        assert_eq!((stats.accepted, stats.replayed), (3, 3));
        assert_eq!((stats.handled, stats.unhandled, stats.dead), (3, 2, 1));
    }
    let deleted = events.delete_matching(&all).await;
    assert_eq!(deleted.expect("events can be deleted"), 3);
    let listed = events.list(&EventFilter::new(), 10).await;
    assert!(listed.expect("events can be listed").is_empty());
}
