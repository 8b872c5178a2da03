//! The event log of an inbox on disk: states, attempts, replays, the events that it keeps, and their limits.

use std::sync::Arc;
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    Accepted, AttemptRecord, DeliverySettings, Event, EventFilter, EventLog, EventRecord,
    EventRouter, EventState, Inbox, Pattern, Replay, RetryPolicy, SqliteInbox, SqliteInboxBuilder,
};
use futures_util::FutureExt;
use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::sync::Semaphore;

use crate::support::runtime::ManualClock;
use crate::support::sqlite::{InboxFile, LONG, Log, at_once, failing, gated, logging};
use crate::support::{balanced, event, sized, until, wait_idle};

const HOUR: Duration = Duration::from_secs(60 * 60);

fn log(inbox: &SqliteInbox) -> EventLog {
    inbox.handle().events()
}

async fn list(inbox: &SqliteInbox, filter: &EventFilter) -> Vec<EventRecord> {
    log(inbox).list(filter, usize::MAX).await.unwrap()
}

/// Returns each event with its state, newest first.
async fn states(inbox: &SqliteInbox) -> Vec<(String, EventState)> {
    let listed = list(inbox, &EventFilter::new()).await;
    let states = listed
        .iter()
        .map(|record| (record.message_id().to_owned(), record.state()));
    states.collect()
}

fn keeping(place: &InboxFile) -> SqliteInboxBuilder {
    place.inbox().keep_handled(HOUR)
}

async fn accept_all(inbox: &SqliteInbox, ids: std::ops::Range<u32>) {
    join_all(ids.map(|id| inbox.accept(event(id.to_string())))).await;
    wait_idle(&inbox.handle()).await;
}

/// Asserts that no event is in two tables.
fn in_one_table(place: &InboxFile) {
    let all = "SELECT id FROM events UNION ALL SELECT id FROM dead_letters UNION ALL SELECT id FROM handled";
    let twice =
        format!("SELECT count(*) FROM (SELECT 1 FROM ({all}) GROUP BY id HAVING count(*) > 1)");
    assert_eq!(place.count(&twice), 0);
}

/// Returns a router with the routes `x` and `y` for the type `a`.
fn two_routes(log: &Log) -> EventRouter {
    let (x, y) = (log.clone(), log.clone());
    EventRouter::new()
        .on("a", move |event: Event| async move {
            x.write(format!("x {}", event.id()));
        })
        .named("x")
        .on("a", move |event: Event| async move {
            y.write(format!("y {}", event.id()));
        })
        .named("y")
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_handled_events_are_not_kept() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(logging(&Log::default())).await.unwrap();
    accept_all(&inbox, 0..10).await;
    assert_eq!(states(&inbox).await, []);
    assert_eq!(place.count("SELECT count(*) FROM handled"), 0);
    assert_eq!(place.count("SELECT handled + handled_bytes FROM totals"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_running_and_retrying_events_are_listed() {
    let place = InboxFile::new();
    let gate = Arc::new(Semaphore::new(0));
    let router =
        gated(&Log::default(), &gate).on("b", |_: Event| async { Err::<(), _>("not yet") });
    let delivery = DeliverySettings::new()
        .concurrency(1)
        .retry(RetryPolicy::new().initial_delay(LONG).max_delay(LONG));
    let inbox = place.inbox().delivery(delivery).open(router).await.unwrap();
    let retried = MockRequest::event("b").message_id("1").to_event();
    inbox.accept(retried).await.unwrap();
    until(|| inbox.handle().stats().retrying == 1).await;
    inbox.accept(event("2")).await.unwrap();
    until(|| inbox.handle().stats().running == 1).await;
    inbox.accept(event("3")).await.unwrap();
    let wanted = [
        ("3".to_owned(), EventState::Waiting),
        ("2".to_owned(), EventState::Running),
        ("1".to_owned(), EventState::Retrying),
    ];
    assert_eq!(states(&inbox).await, wanted);
    let listed = list(&inbox, &EventFilter::new()).await;
    let attempts: Vec<_> = listed.iter().map(EventRecord::attempts).collect();
    assert_eq!(attempts, [0, 1, 1]);
    let retrying = &listed[2];
    assert_eq!(retrying.routes()[0].reason(), Some("failed: not yet"));
    assert_eq!(retrying.ended_at(), None);
    for record in &listed {
        assert!(!log(&inbox).replay(record.id(), Replay::All).await.unwrap());
        assert!(!log(&inbox).delete(record.id()).await.unwrap());
    }
    assert_eq!(
        log(&inbox)
            .delete_matching(&EventFilter::new())
            .await
            .unwrap(),
        0
    );
    gate.add_permits(9);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_survive_a_restart_and_a_replay() {
    let place = InboxFile::new();
    let inbox = place.inbox().open(failing(&Log::default())).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let before = list(&inbox, &EventFilter::dead()).await.remove(0);
    drop(inbox);

    let inbox = keeping(&place)
        .open(logging(&Log::default()))
        .await
        .unwrap();
    let after = list(&inbox, &EventFilter::dead()).await.remove(0);
    assert_eq!(
        serde_json::to_value(&after).unwrap(),
        serde_json::to_value(&before).unwrap()
    );
    assert!(
        log(&inbox)
            .replay(after.id(), Replay::Remaining)
            .await
            .unwrap()
    );
    wait_idle(&inbox.handle()).await;
    let record = log(&inbox).get(after.id()).await.unwrap().unwrap();
    assert_eq!(
        (record.state(), record.attempts()),
        (EventState::Handled, 1)
    );
    let numbers: Vec<_> = record.history().iter().map(AttemptRecord::number).collect();
    assert_eq!(numbers, [1, 1]);
    let outcomes: Vec<_> = record
        .history()
        .iter()
        .map(|attempt| attempt.routes()[0].outcome().to_owned())
        .collect();
    assert_eq!(outcomes, ["failed", "handled"]);
    in_one_table(&place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_keeps_the_newest_25_attempts_within_bounds() {
    let place = InboxFile::new();
    let long = "x".repeat(1_000);
    let router = (0..10).fold(EventRouter::new(), |router, number| {
        let error = long.clone();
        let router = router.on("a", move |_: Event| async move { Err::<(), _>(error) });
        router.named(format!("route {number}"))
    });
    let delivery = DeliverySettings::new().retry(at_once(40));
    let inbox = place.inbox().delivery(delivery).open(router).await.unwrap();
    inbox.accept(event("1")).await.unwrap();
    wait_idle(&inbox.handle()).await;
    let record = log(&inbox).get(1).await.unwrap().unwrap();
    assert_eq!(record.attempts(), 40);
    let numbers = record.history().iter().map(AttemptRecord::number);
    assert!(numbers.eq(16..=40));
    assert_eq!(
        record.history()[0].routes()[0].reason(),
        Some("failed"),
        "the reasons are too long together"
    );
    assert!(record.routes()[0].reason().unwrap().contains("xxx"));
    let bytes = place.count("SELECT octet_length(history) FROM dead_letters");
    assert!(bytes < 32_768, "{bytes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handled_events_are_pruned_by_age_in_small_steps() {
    let (place, clock) = (InboxFile::new(), ManualClock::new());
    let inbox = keeping(&place)
        .open_with(clock.clone(), logging(&Log::default()))
        .await
        .unwrap();
    accept_all(&inbox, 0..700).await;
    clock.advance(HOUR / 2);
    accept_all(&inbox, 700..701).await;
    assert_eq!(place.count("SELECT count(*) FROM handled"), 701);
    clock.advance(HOUR / 2 + Duration::from_secs(1));
    // A query is an idle turn, and an idle turn prunes.
    until(|| {
        drop(log(&inbox).get(1).now_or_never());
        place.count("SELECT count(*) FROM handled") == 1
    })
    .await;
    assert_eq!(
        states(&inbox).await,
        [("700".to_owned(), EventState::Handled)]
    );
    let size = event("700").body().len() as i64;
    assert_eq!(place.count("SELECT handled_bytes FROM totals"), size);
    drop(inbox);

    // A later process that keeps no events deletes the rest.
    let inbox = place
        .inbox()
        .open_with(clock.clone(), logging(&Log::default()))
        .await
        .unwrap();
    clock.advance(Duration::from_secs(1));
    until(|| {
        drop(log(&inbox).get(1).now_or_never());
        place.count("SELECT count(*) FROM handled") == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handled_events_are_bounded_by_count_and_by_bytes() {
    let place = InboxFile::new();
    let inbox = keeping(&place)
        .max_handled_events(10)
        .max_handled_bytes(10_000);
    let inbox = inbox.open(logging(&Log::default())).await.unwrap();
    accept_all(&inbox, 0..30).await;
    assert_eq!(place.count("SELECT count(*) FROM handled"), 10);
    for id in ["100", "101", "102", "103"] {
        inbox.accept(sized(id, 3_000)).await.unwrap();
        wait_idle(&inbox.handle()).await;
    }
    let kept: Vec<_> = states(&inbox).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(kept[..3], ["103", "102", "101"]);
    assert!(place.count("SELECT sum(octet_length(body)) FROM handled") <= 10_000);
    let total = "SELECT handled_bytes - (SELECT sum(octet_length(body)) FROM handled) FROM totals";
    assert_eq!(place.count(total), 0);
    inbox.accept(sized("huge", 20_000)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!(stats.refused, 0, "kept events refuse nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_hour_of_one_route_is_replayed_and_only_that_route_runs() {
    let (place, runs) = (InboxFile::new(), Log::default());
    let inbox = keeping(&place).open(two_routes(&runs)).await.unwrap();
    let other = MockRequest::event("other").message_id("other").to_event();
    inbox.accept(other).await.unwrap();
    accept_all(&inbox, 0..600).await;
    assert_eq!(runs.len(), 1_200);
    let hour_ago = std::time::SystemTime::now() - HOUR;
    let filter = EventFilter::new().route("x").since(hour_ago);
    let replayed = log(&inbox)
        .replay_matching(&filter, Replay::Only("x".to_owned()))
        .await;
    assert_eq!(replayed.unwrap(), 600);
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.replayed, stats.handled), (600, 1_200));
    balanced(&stats);
    let again = runs.lines().split_off(1_200);
    assert_eq!(again.len(), 600);
    assert!(again.iter().all(|run| run.starts_with("x ")));
    let record = list(&inbox, &EventFilter::new().message_id("5"))
        .await
        .remove(0);
    let routes: Vec<_> = record
        .routes()
        .iter()
        .map(|result| result.route())
        .collect();
    assert_eq!(
        routes.len(),
        2,
        "the other route keeps its result: {routes:?}"
    );
    in_one_table(&place);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_of_one_route_survives_a_restart() {
    let (place, runs) = (InboxFile::new(), Log::default());
    let inbox = keeping(&place).open(two_routes(&runs)).await.unwrap();
    accept_all(&inbox, 1..2).await;
    drop(inbox);
    // The route waits, and the process ends.
    let (gate, waiting) = (Arc::new(Semaphore::new(0)), Log::default());
    let (x, held) = (waiting.clone(), Arc::clone(&gate));
    let blocked = EventRouter::new()
        .on("a", move |event: Event| async move {
            x.run(&event);
            held.acquire().await.unwrap().forget();
        })
        .named("x")
        .on("a", |_: Event| async {})
        .named("y");
    let inbox = keeping(&place).open(blocked).await.unwrap();
    assert!(
        log(&inbox)
            .replay(1, Replay::Only("x".to_owned()))
            .await
            .unwrap()
    );
    until(|| waiting.len() == 1).await;
    assert_eq!(
        place.count("SELECT count(*) FROM events WHERE only_route = 'x'"),
        1
    );
    in_one_table(&place);
    inbox.handle().drain(Duration::ZERO).await;
    drop(inbox);
    // The handler holds the inbox, so the test ends the handler after the file was copied.
    let copy = InboxFile::new();
    let source = place.look();
    source
        .execute("VACUUM INTO ?1", [copy.path().to_str().unwrap()])
        .unwrap();
    gate.add_permits(1);

    let again = Log::default();
    let inbox = keeping(&copy).open(two_routes(&again)).await.unwrap();
    let stats = wait_idle(&inbox.handle()).await;
    assert_eq!((stats.recovered, stats.handled), (1, 1));
    assert_eq!(again.lines(), ["x 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_read_in_pages_over_all_tables() {
    let place = InboxFile::new();
    let router = failing(&Log::default()).on("b", |_: Event| async {});
    let inbox = keeping(&place).open(router).await.unwrap();
    let mixed = (0..900_u32).map(|number| {
        let event_type = if number % 3 == 0 { "a" } else { "b" };
        let event = MockRequest::event(event_type).message_id(number.to_string());
        inbox.accept(event.to_event())
    });
    join_all(mixed).await;
    wait_idle(&inbox.handle()).await;
    let (mut filter, mut ids) = (EventFilter::new(), Vec::new());
    loop {
        let page = log(&inbox).list(&filter, 70).await.unwrap();
        let Some(last) = page.last() else { break };
        filter = filter.before(last.id());
        ids.extend(page.iter().map(EventRecord::id));
    }
    assert!(ids.iter().copied().eq((1..=900).rev()));
    let dead = list(&inbox, &EventFilter::dead()).await;
    assert_eq!(dead.len(), 300);
    let handled = EventFilter::new().state(EventState::Handled);
    assert_eq!(list(&inbox, &handled).await.len(), 600);
    let filter = handled.event_type(Pattern::new("b").unwrap());
    assert_eq!(log(&inbox).list(&filter, 5).await.unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_events_are_gone_and_their_ids_are_remembered() {
    let place = InboxFile::new();
    let router = failing(&Log::default()).on("b", |_: Event| async {});
    let inbox = keeping(&place).open(router).await.unwrap();
    accept_all(&inbox, 1..3).await;
    for id in ["3", "4"] {
        let event = MockRequest::event("b").message_id(id).to_event();
        inbox.accept(event).await.unwrap();
    }
    wait_idle(&inbox.handle()).await;
    assert!(log(&inbox).delete(1).await.unwrap());
    assert!(!log(&inbox).delete(1).await.unwrap());
    assert!(log(&inbox).delete(3).await.unwrap());
    assert_eq!(
        log(&inbox)
            .delete_matching(&EventFilter::new())
            .await
            .unwrap(),
        2
    );
    assert_eq!(states(&inbox).await, []);
    assert_eq!(
        place
            .count("SELECT handled + handled_bytes + dead_letters + dead_letter_bytes FROM totals"),
        0
    );
    assert_eq!(inbox.accept(event("1")).await, Ok(Accepted::Duplicate));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_isnt_json_is_replaced_and_stops_nothing() {
    let place = InboxFile::new();
    let delivery =
        DeliverySettings::new().retry(RetryPolicy::new().initial_delay(LONG).max_delay(LONG));
    let failing = EventRouter::new().on("a", |_: Event| async { Err::<(), _>("no") });
    let inbox = place
        .inbox()
        .delivery(delivery)
        .open(failing)
        .await
        .unwrap();
    inbox.accept(event("1")).await.unwrap();
    until(|| inbox.handle().stats().retrying == 1).await;
    drop(inbox);
    drop(place.closed().await);
    let connection = Connection::open(place.path()).unwrap();
    connection
        .execute("UPDATE events SET history = 'not JSON', due_at = NULL", [])
        .unwrap();
    drop(connection);
    let inbox = keeping(&place)
        .open(logging(&Log::default()))
        .await
        .unwrap();
    wait_idle(&inbox.handle()).await;
    let record = log(&inbox).get(1).await.unwrap().unwrap();
    assert_eq!(
        (record.state(), record.history().len()),
        (EventState::Handled, 1)
    );
}

/// Random replays and deletions of handled and dead events, with ordering keys that dead letters block, in a small inbox.
#[tokio::test(flavor = "multi_thread")]
async fn the_counts_stay_balanced_under_random_operations() {
    for seed in 0..6_u64 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let place = InboxFile::new();
        let router = EventRouter::new()
            .on_any(|event: Event| async move {
                match event.id().bytes().map(u32::from).sum::<u32>() % 3 {
                    0 => Err("always"),
                    1 if event.attempt() == 1 => Err("once"),
                    _ => Ok(()),
                }
            })
            .named("x")
            .on("a", |_: Event| async {})
            .named("y");
        let delivery = DeliverySettings::new()
            .concurrency(2)
            .retry(at_once(2))
            .ordering_key(|event: &Event| event.decode::<String>().ok())
            .block_key_on_dead_letter();
        let inbox = place
            .inbox()
            .delivery(delivery)
            .keep_handled(HOUR)
            .max_handled_events(rng.u64(1..20))
            .max_dead_letters(rng.u64(1..20))
            .max_events(30)
            .max_events_in_memory(4)
            .open(router)
            .await
            .unwrap();
        let events = log(&inbox);
        for step in 0..150 {
            let (id, routes) = (
                rng.u64(1..60),
                [Replay::Remaining, Replay::All, Replay::Only("y".to_owned())],
            );
            let routes = rng.choice(routes).unwrap();
            let filter = EventFilter::new().state(
                *rng.choice(&[EventState::Handled, EventState::Dead])
                    .unwrap(),
            );
            match rng.u8(..10) {
                0..=4 => {
                    let key = format!("key {}", rng.u8(..3));
                    let event = MockRequest::event("a").message_id(format!("{seed}-{step}"));
                    let _ = inbox.accept(event.data(key).to_event()).await;
                }
                5 => drop(events.replay(id, routes).await),
                6 => drop(join_all((0..3).map(|_| events.replay(id, routes.clone()))).await),
                7 => drop(events.replay_matching(&filter, routes).await),
                8 => drop(events.delete(id).await),
                _ if rng.u8(..4) == 0 => drop(events.delete_matching(&filter).await),
                _ => drop(events.list(&filter, 10).await),
            }
            balanced(&inbox.handle().stats());
        }
        // Without dead letters, no key is blocked.
        while inbox.handle().stats().in_flight() > 0 {
            let _ = events.delete_matching(&EventFilter::dead()).await;
            tokio::task::yield_now().await;
        }
        let stats = wait_idle(&inbox.handle()).await;
        in_one_table(&place);
        let counted = [
            ("events", stats.in_flight()),
            ("dead_letters", stats.dead_letters),
        ];
        for (table, count) in counted {
            let rows = place.count(&format!("SELECT count(*) FROM {table}"));
            assert_eq!(rows, i64::try_from(count).unwrap(), "seed {seed}: {table}");
        }
        for table in ["events", "dead_letters", "handled"] {
            let total = match table {
                "events" => "events - (SELECT count(*) FROM events)",
                "dead_letters" => "dead_letters - (SELECT count(*) FROM dead_letters)",
                _ => "handled - (SELECT count(*) FROM handled)",
            };
            assert_eq!(
                place.count(&format!("SELECT {total} FROM totals")),
                0,
                "seed {seed}"
            );
        }
    }
}
