//! The event log over the stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use botisimo_webhooks::{
    DeliverySettings, Event, EventFilter, EventLog, EventRecord, EventRouter, EventState,
    HandlerError, Inbox, JetStreamInbox, JetStreamWorker, Replay,
};

use super::kit::{Runs, delivery, send, set_up, settings, wait_idle, worker};
use crate::support::nats::until;

fn log(inbox: &JetStreamInbox) -> EventLog {
    inbox.handle().events()
}

async fn states(log: &EventLog) -> Vec<(String, EventState)> {
    let listed = log.list(&EventFilter::new(), 100).await.unwrap();
    let state = |record: &EventRecord| (record.message_id().to_owned(), record.state());
    listed.iter().map(state).collect()
}

/// Waits until the log lists these states, newest first.
async fn until_states(log: &EventLog, expected: &[(&str, EventState)]) {
    until("the events have these states", async || {
        let states = states(log).await;
        let found = states.iter().map(|(id, state)| (id.as_str(), *state));
        found.eq(expected.iter().copied())
    })
    .await;
}

/// The log of the inbox, which runs no route, follows the consumers of the workers.
#[tokio::test]
async fn the_inbox_lists_events_by_the_progress_of_all_workers() {
    let (_server, context, inbox) = set_up("").await;
    let log = log(&inbox);
    send(&inbox, "a", "1").await;
    until_states(&log, &[("1", EventState::Waiting)]).await;

    let (runs, gate) = (Runs::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let (held, blocked) = (runs.clone(), Arc::clone(&gate));
    let router = EventRouter::new()
        .on_prefix("a", runs.noting("fast"))
        .named("fast")
        .on("a", |event: Event| async move {
            held.add("slow", &event);
            drop(blocked.acquire().await);
        })
        .named("slow");
    let worker = worker(&context).start(router).await.unwrap();
    until("both routes run", async || runs.count() == 2).await;
    until_states(&log, &[("1", EventState::Running)]).await;
    send(&inbox, "a.b", "2").await;
    send(&inbox, "b", "3").await;
    let expected = [
        ("3", EventState::Unhandled),
        ("2", EventState::Handled),
        ("1", EventState::Running),
    ];
    until_states(&log, &expected).await;
    assert!(
        !log.replay(1, Replay::All).await.unwrap() && !log.delete(1).await.unwrap(),
        "the event is in flight"
    );
    gate.add_permits(1);
    wait_idle(&worker, 3).await;
    until("the event has ended", async || {
        let record = log.get(1).await.unwrap().unwrap();
        record.state() == EventState::Handled
    })
    .await;
    let routes = log
        .list(&EventFilter::new().route("slow"), 9)
        .await
        .unwrap();
    assert_eq!(routes.iter().map(EventRecord::id).collect::<Vec<_>>(), [1]);
}

/// Two workers of a group, on two connections, share the replays. The inbox's log replays one route, and only this route runs.
#[tokio::test]
async fn a_replay_of_one_route_runs_once_on_any_worker() {
    let (server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let router = || {
        let router = EventRouter::new().on("a", runs.noting("x")).named("x");
        router.on("a", runs.noting("y")).named("y")
    };
    let first = worker(&context).start(router()).await.unwrap();
    let other = server.context().await;
    let second = worker(&other).start(router()).await.unwrap();
    for id in ["1", "2", "3"] {
        send(&inbox, "a", id).await;
    }
    until("all routes have run", async || runs.count() == 6).await;
    let log = log(&inbox);
    let ended = |log: EventLog| async move {
        let ended = |record: &EventRecord| record.state() == EventState::Handled;
        let listed = log.list(&EventFilter::new(), 9).await.unwrap();
        listed.len() == 3 && listed.iter().all(ended)
    };
    until("the events have ended", async || ended(log.clone()).await).await;

    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(60 * 60);
    let filter = EventFilter::new().route("x").since(hour_ago);
    for times in 2..=3 {
        let replayed = log
            .replay_matching(&filter, Replay::Only("x".to_owned()))
            .await;
        assert_eq!(replayed.unwrap(), 3, "a replay isn't a further event");
        until("the route has run again", async || {
            runs.of("x").len() == 3 * times
        })
        .await;
        until("the events have ended", async || ended(log.clone()).await).await;
    }
    assert_eq!(runs.of("y").len(), 3);
    assert!(runs.of("x").iter().all(|(_, attempt)| *attempt == 1));
    let replayed = log.replay(1, Replay::Only("typo".to_owned())).await;
    replayed.expect_err("no route has this name");
    assert_eq!(inbox.handle().stats().replayed, 6);
    let ended = first.stats().acked + second.stats().acked;
    assert!(ended >= 12, "{ended}");
}

/// A dead letter and its event are one record. A replay of the route removes the letter, and a failed replay stores it again.
#[tokio::test]
async fn a_dead_letter_and_its_replays_are_one_record() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, mended) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on("a", runs.noting("good"))
        .named("good")
        .on("a", |event: Event| async move {
            failing.add("bad", &event);
            match flag.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(HandlerError::permanent("a reason")),
            }
        })
        .named("bad");
    let delivery: DeliverySettings = delivery();
    let worker = worker(&context)
        .delivery(delivery)
        .start(router)
        .await
        .unwrap();
    send(&inbox, "a", "1").await;
    let log = log(&inbox);
    until_states(&log, &[("1", EventState::Dead)]).await;
    let record = log.get(1).await.unwrap().unwrap();
    let reason = |record: &EventRecord| {
        let routes = record.routes().iter();
        let routes = routes.map(|result| (result.route().to_owned(), result.reason().is_some()));
        routes.collect::<Vec<_>>()
    };
    let both = [("bad".to_owned(), true), ("good".to_owned(), false)];
    let mut routes = reason(&record);
    routes.sort();
    assert_eq!(routes, both);

    assert!(log.replay(1, Replay::Remaining).await.unwrap());
    until("the route has failed again", async || {
        runs.of("bad").len() == 2
    })
    .await;
    until_states(&log, &[("1", EventState::Dead)]).await;
    mended.store(true, Ordering::SeqCst);
    assert_eq!(
        log.replay_matching(&EventFilter::dead(), Replay::Remaining)
            .await
            .unwrap(),
        1
    );
    until_states(&log, &[("1", EventState::Handled)]).await;
    assert_eq!((runs.of("good").len(), runs.of("bad").len()), (1, 3));
    assert_eq!(worker.dead_letters().list(None, 9).await.unwrap().len(), 0);
    assert!(
        !log.replay(1, Replay::Remaining).await.unwrap(),
        "nothing remains"
    );
    let attempts = worker.events().get(1).await.unwrap().unwrap();
    assert_eq!(attempts.history().len(), 3);
}

/// Pages contain each event once, even if the stream lost messages, and end at the first message of a purged stream.
#[tokio::test]
async fn pages_skip_deleted_and_purged_messages() {
    let (_server, context, inbox) = set_up("").await;
    for batch in 0..11 {
        let sent = (0..100).map(|n| {
            let id = format!("{}", batch * 100 + n + 1);
            let inbox = &inbox;
            async move { send(inbox, "a", &id).await }
        });
        futures_util::future::join_all(sent).await;
    }
    let log = log(&inbox);
    let all = async || {
        let (mut ids, mut filter) = (Vec::new(), EventFilter::new());
        loop {
            let page = log.list(&filter, 70).await.unwrap();
            let Some(last) = page.last() else { return ids };
            filter = filter.before(last.id());
            ids.extend(page.iter().map(EventRecord::id));
        }
    };
    assert!(all().await.into_iter().eq((1..=1100).rev()));
    let stream = context.get_stream("BOTISIMO").await.unwrap();
    for id in 300..700 {
        stream.delete_message(id).await.unwrap();
    }
    stream.purge().sequence(101).await.unwrap();
    let left = (101..300).chain(700..=1100);
    assert!(all().await.into_iter().eq(left.rev()));
    assert!(log.get(500).await.unwrap().is_none());
    assert!(!log.replay(50, Replay::All).await.unwrap());
    stream.purge().await.unwrap();
    assert!(all().await.is_empty());
}

/// A dead letter that was deleted isn't listed as a handled event.
#[tokio::test]
async fn a_deleted_dead_letter_is_no_handled_event() {
    let (_server, context, inbox) = set_up("").await;
    let failing = |_: Event| async { Err::<(), _>(HandlerError::permanent("no")) };
    let router = EventRouter::new().on("a", failing);
    let worker = worker(&context).start(router).await.unwrap();
    for id in ["1", "2"] {
        send(&inbox, "a", id).await;
    }
    let log = log(&inbox);
    until_states(&log, &[("2", EventState::Dead), ("1", EventState::Dead)]).await;
    let letters = worker.dead_letters().list(None, 9).await.unwrap();
    let first = letters.iter().find(|letter| letter.message_id() == "1");
    let id = first.unwrap().id();
    assert!(worker.dead_letters().delete(id).await.unwrap());
    assert_eq!(states(&log).await, [("2".to_owned(), EventState::Dead)]);
    assert!(!log.replay(1, Replay::All).await.unwrap());
}

/// A deleted event leaves the stream with its letters.
#[tokio::test]
async fn a_deleted_event_leaves_no_message() {
    let (_server, context, inbox) = set_up("").await;
    let failing = |_: Event| async { Err::<(), _>(HandlerError::permanent("no")) };
    let router = EventRouter::new().on("a", failing);
    let worker = worker(&context).start(router).await.unwrap();
    for id in ["1", "2"] {
        send(&inbox, "a", id).await;
    }
    let log = log(&inbox);
    until_states(&log, &[("2", EventState::Dead), ("1", EventState::Dead)]).await;
    assert!(log.delete(1).await.unwrap());
    assert!(!log.delete(1).await.unwrap());
    until_states(&log, &[("2", EventState::Dead)]).await;
    let stream = context.get_stream("BOTISIMO").await.unwrap();
    stream.get_raw_message(1).await.unwrap_err();
    assert_eq!(worker.dead_letters().list(None, 9).await.unwrap().len(), 1);
    assert_eq!(log.prune(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(log.prune(Duration::ZERO).await.unwrap(), 1);
    assert!(states(&log).await.is_empty());
}

#[tokio::test]
async fn a_log_without_a_server_returns_an_error() {
    let (server, context, inbox) = set_up("").await;
    let log = log(&inbox);
    assert!(states(&log).await.is_empty());
    drop(server);
    until("the client is disconnected", async || {
        context.client().connection_state() != async_nats::connection::State::Connected
    })
    .await;
    let error = log.list(&EventFilter::new(), 9).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the client isn't connected to the server"
    );
}

/// Routes for every event don't make an event handled. Events with long types share a consumer, and a replay still runs one route.
#[tokio::test]
async fn a_replay_of_an_event_with_a_long_type_runs_one_route() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let long = format!("long.{}", "~".repeat(200));
    let router = EventRouter::new()
        .on_any(runs.noting("any"))
        .named("any")
        .on_prefix("long", runs.noting("x"))
        .named("x")
        .on_prefix("long", runs.noting("y"))
        .named("y");
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, &long, "1").await;
    send(&inbox, "b", "2").await;
    send(&inbox, &format!("b.{}", "~".repeat(200)), "3").await;
    let log = worker.events();
    let expected = [
        ("3", EventState::Unhandled),
        ("2", EventState::Unhandled),
        ("1", EventState::Handled),
    ];
    until_states(&log, &expected).await;
    assert_eq!(runs.count(), 5);
    let found = log.list(&EventFilter::new().route("y"), 9).await.unwrap();
    assert_eq!(found.iter().map(EventRecord::id).collect::<Vec<_>>(), [1]);

    let only = |route: &str| Replay::Only(route.to_owned());
    assert!(log.replay(1, only("x")).await.unwrap());
    until("the route has run again", async || runs.of("x").len() == 2).await;
    until_states(&log, &expected).await;
    assert!(log.replay(1, only("any")).await.unwrap());
    until("the route has run again", async || {
        runs.of("any").len() == 4
    })
    .await;
    until_states(&log, &expected).await;
    assert!(!log.replay(2, only("x")).await.unwrap(), "it doesn't match");
    assert_eq!((runs.of("x").len(), runs.of("y").len()), (2, 1));
    assert_eq!(worker.stats().replayed, 2);
}

/// A replay by the dead letters is part of the event's record too.
#[tokio::test]
async fn a_replayed_dead_letter_keeps_the_record_of_its_event() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let failing = runs.clone();
    let router = EventRouter::new().on("a", |event: Event| async move {
        failing.add("a", &event);
        Err::<(), _>(HandlerError::permanent("no"))
    });
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    let (log, dead) = (worker.events(), worker.dead_letters());
    for times in 1..=3 {
        until("the route has failed", async || runs.count() == times).await;
        until_states(&log, &[("1", EventState::Dead)]).await;
        let record = log.get(1).await.unwrap().unwrap();
        assert_eq!(record.history().len(), times);
        let letters = dead.list(None, 9).await.unwrap();
        assert_eq!(letters.len(), 1, "each replay replaces the letter");
        assert!(dead.replay(letters[0].id()).await.unwrap());
    }
}

/// An event that waits for a worker isn't handled, and no log lists an event as handled while its replay is in flight.
#[tokio::test]
async fn events_and_replays_in_flight_are_not_handled_in_any_log() {
    let (server, context, inbox) = set_up("").await;
    let (runs, gate) = (Runs::default(), Arc::new(tokio::sync::Semaphore::new(0)));
    let (held, blocked) = (runs.clone(), Arc::clone(&gate));
    let router = EventRouter::new().on("a", |event: Event| async move {
        held.add("a", &event);
        blocked.acquire().await.unwrap().forget();
    });
    let delivery = delivery().concurrency(1);
    let worker = worker(&context)
        .delivery(delivery)
        .start(router)
        .await
        .unwrap();
    let other = super::kit::inbox(&server.context().await).await;
    let logs = [log(&inbox), log(&other), worker.events()];
    send(&inbox, "a", "1").await;
    until("the first event runs", async || runs.count() == 1).await;
    send(&inbox, "a", "2").await;
    let expected = [
        ("2".to_owned(), EventState::Waiting),
        ("1".to_owned(), EventState::Running),
    ];
    for log in &logs {
        assert_eq!(states(log).await, expected);
    }
    gate.add_permits(2);
    let handled = [("2", EventState::Handled), ("1", EventState::Handled)];
    for log in &logs {
        until_states(log, &handled).await;
    }
    assert!(logs[0].replay(1, Replay::All).await.unwrap());
    until("the replay runs", async || runs.count() == 3).await;
    let expected = [
        ("2".to_owned(), EventState::Handled),
        ("1".to_owned(), EventState::Running),
    ];
    for log in &logs {
        assert_eq!(states(log).await, expected);
        assert!(!log.replay(1, Replay::All).await.unwrap());
    }
    gate.add_permits(1);
    for log in &logs {
        until_states(log, &handled).await;
    }
}

/// A worker's log knows only the progress of its own group. An earlier version of the log lost the event for the other group.
#[tokio::test]
async fn a_worker_deletes_no_event_that_another_group_still_needs() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, late) = (Runs::default(), Runs::default());
    let router = |runs: &Runs| EventRouter::new().on("a", runs.noting("x")).named("x");
    let other = || {
        JetStreamWorker::builder(context.clone(), "other")
            .stream(settings())
            .delivery(delivery())
    };
    let stopped = other().start(router(&late)).await.unwrap();
    stopped.drain(Duration::from_secs(10)).await;
    drop(stopped);

    let worker = worker(&context).start(router(&runs)).await.unwrap();
    for id in ["1", "2"] {
        send(&inbox, "a", id).await;
    }
    let log = worker.events();
    until_states(
        &log,
        &[("2", EventState::Handled), ("1", EventState::Handled)],
    )
    .await;
    assert!(log.delete(1).await.unwrap());
    assert!(!log.delete(1).await.unwrap());
    until_states(&log, &[("2", EventState::Handled)]).await;
    assert_eq!(log.delete_matching(&EventFilter::new()).await.unwrap(), 1);
    until_states(&log, &[]).await;

    let restarted = other().start(router(&late)).await.unwrap();
    until("the other group runs both events", async || {
        late.ids("x").len() == 2
    })
    .await;
    drop(restarted);
}

/// In an earlier version, an event that can't be decoded ended the replay of all events after it.
#[tokio::test]
async fn a_replay_of_all_dead_letters_skips_the_letters_that_no_route_can_run() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, mended) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            failing.add("x", &event);
            match flag.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(HandlerError::permanent("no")),
            }
        })
        .named("x");
    let worker = worker(&context).start(router).await.unwrap();
    let published = context.publish("botisimo.a.$", "not an event".into()).await;
    published.unwrap().await.unwrap();
    send(&inbox, "a", "2").await;
    let log = worker.events();
    until_states(&log, &[("2", EventState::Dead), ("", EventState::Dead)]).await;
    mended.store(true, Ordering::SeqCst);
    let replayed = log.replay_matching(&EventFilter::dead(), Replay::All).await;
    assert_eq!(replayed.unwrap(), 1);
    until_states(&log, &[("2", EventState::Handled), ("", EventState::Dead)]).await;
    log.replay(1, Replay::All).await.unwrap_err();
}

/// If a process is killed before it deletes the letters of a replay, the next replay has the same letters. In an earlier version, the
/// stream treated the next replay as a copy, and the log then deleted the letters of routes that hadn't run.
#[tokio::test]
async fn a_replay_after_an_interrupted_replay_runs_its_own_routes() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let failing = |route: &'static str| {
        let runs = runs.clone();
        move |event: Event| async move {
            runs.add(route, &event);
            Err::<(), _>(HandlerError::permanent("no"))
        }
    };
    let router = EventRouter::new()
        .on("a", failing("x"))
        .named("x")
        .on("a", failing("y"))
        .named("y");
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    let log = worker.events();
    wait_idle(&worker, 2).await;
    until_states(&log, &[("1", EventState::Dead)]).await;
    // The server refuses each deletion.
    let mut dead = context.get_stream("BOTISIMO_DEAD").await.unwrap();
    let mut config = dead.info().await.unwrap().config.clone();
    config.deny_delete = true;
    context.update_stream(config).await.unwrap();

    let only = Replay::Only("x".to_owned());
    log.replay(1, only).await.unwrap_err();
    wait_idle(&worker, 3).await;
    until_states(&log, &[("1", EventState::Dead)]).await;
    log.replay(1, Replay::All).await.unwrap_err();
    until("both routes have run again", async || {
        runs.of("x").len() == 3 && runs.of("y").len() == 2
    })
    .await;
}

/// Events with long types share a consumer, so one letter has the results of several routes. In an earlier version, a replay of one
/// route deleted the failure of another route, and a replay of the remaining routes ran all routes.
#[tokio::test]
async fn a_replay_keeps_the_results_of_the_other_routes_of_a_long_type() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, mended) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let long = format!("long.{}", "~".repeat(200));
    let router = EventRouter::new()
        .on_prefix("long", runs.noting("x"))
        .named("x")
        .on_prefix("long", |event: Event| async move {
            failing.add("y", &event);
            match flag.load(Ordering::SeqCst) {
                true => Ok(()),
                false => Err(HandlerError::permanent("no")),
            }
        })
        .named("y");
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, &long, "1").await;
    let log = worker.events();
    let dead = [("1", EventState::Dead)];
    until_states(&log, &dead).await;
    for times in 2..=3 {
        assert!(log.replay(1, Replay::Remaining).await.unwrap());
        wait_idle(&worker, times).await;
        until_states(&log, &dead).await;
        assert_eq!(runs.of("y").len() as u64, times);
    }
    assert_eq!(runs.of("x").len(), 1, "the route has handled the event");

    assert!(log.replay(1, Replay::Only("x".to_owned())).await.unwrap());
    wait_idle(&worker, 4).await;
    until_states(&log, &dead).await;
    mended.store(true, Ordering::SeqCst);
    assert!(log.replay(1, Replay::Remaining).await.unwrap());
    until_states(&log, &[("1", EventState::Handled)]).await;
    assert_eq!((runs.of("x").len(), runs.of("y").len()), (2, 4));
}
