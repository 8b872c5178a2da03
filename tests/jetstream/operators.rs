//! Faults of servers, and changes by operators while workers run. Workers and receivers recover
//! automatically, skip no event, and run no finished event again.
//!
//! A table in the guide lists these faults and the tests for them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::Context;
use async_nats::jetstream::consumer::{DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy};
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, AcceptErrorKind, Accepted, Event, EventRouter, HandlerError, HealthProblem,
    HealthProblemKind, Inbox, JetStreamInbox, JetStreamWorker, RetryPolicy, StreamSettings,
};
use tokio::sync::Notify;

use super::kit::{
    Log, Runs, balanced, delivery, event, inbox, send, set_up, settings, wait_idle, worker,
};
use crate::support::nats::{self, Server, until};

/// Returns the settings of streams that must exist.
fn existing() -> StreamSettings {
    StreamSettings::new()
}

fn first_route(runs: &Runs) -> EventRouter {
    let router = EventRouter::new();
    router.on("a", runs.noting("first")).named("first")
}

/// Returns a router with two routes that match the same events.
fn two_routes(runs: &Runs) -> EventRouter {
    first_route(runs)
        .on_prefix("a", runs.noting("second"))
        .named("second")
}

async fn delete_consumers(context: &Context, names: &[&str]) {
    let stream = context.get_stream("BOTISIMO").await.unwrap();
    for name in names {
        stream.delete_consumer(name).await.unwrap();
    }
}

async fn consumer(context: &Context, name: &str) -> PullConsumer {
    let consumer = context.get_consumer_from_stream(name, "BOTISIMO").await;
    consumer.unwrap()
}

/// Returns the configuration of a consumer, to change it.
async fn consumer_config(context: &Context, name: &str) -> pull::Config {
    let consumer = consumer(context, name).await;
    let found = &consumer.cached_info().config;
    pull::Config {
        durable_name: Some(name.to_owned()),
        filter_subject: found.filter_subject.clone(),
        ack_wait: found.ack_wait,
        max_ack_pending: found.max_ack_pending,
        deliver_policy: found.deliver_policy,
        ..pull::Config::default()
    }
}

async fn change_consumer(context: &Context, changed: pull::Config) {
    let changed = context.update_consumer_on_stream(changed, "BOTISIMO");
    changed.await.unwrap();
}

async fn stream_config(context: &Context, name: &str) -> Config {
    let stream = context.get_stream(name).await.unwrap();
    stream.cached_info().config.clone()
}

/// Creates the streams of a worker and the consumers of its group.
async fn prepare(context: &Context) {
    let worker = worker(context).start(failing(&Arc::default())).await;
    drain(&worker.unwrap()).await;
}

/// Waits for a problem of this route with this cause.
async fn stalled(worker: &JetStreamWorker, route: Option<&str>, cause: &str) {
    until(cause, async || {
        let health = worker.health();
        let mut problems = health.problems().iter();
        problems.any(|problem| problem.route() == route && problem.to_string().contains(cause))
    })
    .await;
}

/// Waits until an inbox has exactly one problem, with this kind and this cause.
async fn unhealthy(inbox: &JetStreamInbox, kind: HealthProblemKind, cause: &str) {
    until(cause, async || {
        let health = inbox.handle().health();
        matches!(health.problems(), [one] if one.kind() == kind && one.to_string().contains(cause))
    })
    .await;
}

async fn recovered(worker: &JetStreamWorker) {
    until("nothing is stalled", async || worker.health().is_ok()).await;
}

/// Returns the number of events that ran, after a check that none of them ran twice.
#[track_caller]
fn distinct(ran: &[String]) -> usize {
    let distinct: HashSet<_> = ran.iter().collect();
    assert_eq!(distinct.len(), ran.len(), "an event ran twice: {ran:?}");
    ran.len()
}

/// Sends an event until the inbox accepts it.
async fn accept(inbox: &JetStreamInbox, id: &str) {
    until("the inbox accepts the event", async || {
        inbox.accept(event("a", id)).await == Ok(Accepted::New)
    })
    .await;
}

async fn drain(worker: &JetStreamWorker) {
    assert_eq!(worker.drain(nats::TIMEOUT).await.remaining, 0);
}

/// The configuration of two users. `worker` may not publish on these subjects, and `operator` may do everything.
/// A client that names no user is `worker`.
fn users(denied: &[&str]) -> String {
    format!(
        "authorization {{ users: [\n\
         {{ user: worker, password: p, permissions: {{ publish: {{ allow: [\">\"], deny: {denied:?} }} }} }},\n\
         {{ user: operator, password: p }} ] }}\nno_auth_user: worker"
    )
}

async fn operator(server: &Server) -> Context {
    async_nats::jetstream::new(nats::connect_as(&server.url(), "operator").await)
}

#[tokio::test]
async fn a_deleted_consumer_is_created_again_behind_the_last_finished_event() {
    let log = Log::capture();
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let before = worker(&context).start(first_route(&runs)).await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&before, 1).await;
    drain(&before).await;
    // The second route starts with the next event.
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    send(&inbox, "a", "2").await;
    wait_idle(&worker, 2).await;
    delete_consumers(&context, &["team-first", "team-second", "team-=long"]).await;
    until("the worker logs the creation", async || {
        log.count("the worker recreated a consumer") == 3
    })
    .await;
    send(&inbox, "a", "3").await;
    until("all events have run", async || runs.count() >= 5).await;
    recovered(&worker).await;
    drain(&worker).await;
    assert_eq!(runs.ids("first"), ["1", "2", "3"]);
    assert_eq!(runs.ids("second"), ["2", "3"]);
    assert!(log.count("the worker has recovered") >= 3, "{}", log.text());
}

#[tokio::test]
async fn a_consumer_deleted_while_no_worker_ran_is_created_again_behind_the_last_finished_event() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let before = worker(&context).start(first_route(&runs)).await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&before, 1).await;
    drain(&before).await;
    let start = || worker(&context).start(two_routes(&runs));
    let between = start().await.unwrap();
    send(&inbox, "a", "2").await;
    wait_idle(&between, 2).await;
    drain(&between).await;
    delete_consumers(&context, &["team-first", "team-second", "team-=long"]).await;
    // The second route has no consumer when this event arrives.
    send(&inbox, "a", "3").await;
    let after = start().await.unwrap();
    send(&inbox, "a", "4").await;
    wait_idle(&after, 4).await;
    drain(&after).await;
    assert_eq!(runs.ids("first"), ["1", "2", "3", "4"]);
    assert_eq!(runs.ids("second"), ["2", "3", "4"]);
}

/// If a worker is killed, no drain stores its positions.
#[tokio::test]
async fn a_consumer_deleted_after_its_worker_was_killed_is_created_again_behind_the_last_finished_event()
 {
    let (server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let (url, router) = (server.url(), two_routes(&runs));
    let killed = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let started = runtime.block_on(async {
            let context = async_nats::jetstream::new(nats::connect(&url).await);
            worker(&context).start(router).await.unwrap()
        });
        (runtime, started)
    });
    let (runtime, killed) = killed.join().unwrap();
    for id in 0..20 {
        send(&inbox, "a", &id.to_string()).await;
    }
    wait_idle(&killed, 40).await;
    until("the checkpoint is stored", async || {
        let stored = context.get_stream("BOTISIMO_CHECKPOINTS").await.unwrap();
        let stored = stored.get_last_raw_message_by_subject("botisimo-checkpoint.team.*");
        let stored = String::from_utf8(stored.await.unwrap().payload.to_vec()).unwrap();
        stored.matches("[20,").count() + stored.matches(",20]").count() >= 2
    })
    .await;
    runtime.shutdown_background();
    drop(killed);
    delete_consumers(&context, &["team-first", "team-second"]).await;
    let after = worker(&context).start(two_routes(&runs)).await.unwrap();
    send(&inbox, "a", "new").await;
    until("the new event has run", async || runs.count() >= 42).await;
    drain(&after).await;
    assert_eq!(runs.count(), 42);
}

#[tokio::test]
async fn an_event_that_waits_for_its_retry_survives_its_consumer_and_later_events_do_not_rerun() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, mended) = (Runs::default(), Arc::new(AtomicBool::new(false)));
    let (failing, flag) = (runs.clone(), Arc::clone(&mended));
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            failing.add("a", &event);
            match event.id() == "late" && !flag.load(Ordering::Relaxed) {
                true => Err(HandlerError::retry_after(Duration::from_secs(200), "later")),
                false => Ok(()),
            }
        })
        .named("route");
    let start = || worker(&context).start(router.clone());
    let before = start().await.unwrap();
    send(&inbox, "a", "late").await;
    for id in 0..10 {
        send(&inbox, "a", &id.to_string()).await;
    }
    wait_idle(&before, 10).await;
    drain(&before).await;
    delete_consumers(&context, &["team-route"]).await;
    mended.store(true, Ordering::Relaxed);
    let after = start().await.unwrap();
    send(&inbox, "a", "new").await;
    until("both events have run", async || runs.count() >= 13).await;
    drain(&after).await;
    let last: Vec<_> = runs.ids("a").split_off(11);
    assert_eq!(last, ["late", "new"]);
}

#[tokio::test]
async fn an_event_that_runs_while_its_consumer_is_deleted_runs_once() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, gate) = (Runs::default(), Arc::new(Notify::new()));
    let (started, waiting) = (runs.clone(), Arc::clone(&gate));
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            started.add("a", &event);
            waiting.notified().await;
        })
        .named("route");
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    until("the event has begun", async || runs.count() == 1).await;
    delete_consumers(&context, &["team-route"]).await;
    until("the server redelivers the event", async || {
        worker.stats().taken == 2
    })
    .await;
    gate.notify_one();
    wait_idle(&worker, 1).await;
    recovered(&worker).await;
    assert_eq!(runs.count(), 1);
    let left = consumer(&context, "team-route").await;
    until("the worker has acknowledged the event", async || {
        let info = left.get_info().await.unwrap();
        info.num_ack_pending + info.num_pending as usize == 0
    })
    .await;
}

#[tokio::test]
async fn a_consumer_that_an_operator_replaced_by_one_that_skips_events_is_put_back() {
    let log = Log::capture();
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let start = || worker(&context).start(two_routes(&runs));
    let before = start().await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&before, 2).await;
    drain(&before).await;
    let replaced = pull::Config {
        deliver_policy: DeliverPolicy::New,
        ..consumer_config(&context, "team-first").await
    };
    delete_consumers(&context, &["team-first"]).await;
    send(&inbox, "a", "2").await;
    context
        .create_consumer_on_stream(replaced, "BOTISIMO")
        .await
        .unwrap();
    let after = start().await.unwrap();
    wait_idle(&after, 2).await;
    drain(&after).await;
    assert_eq!(runs.ids("first"), ["1", "2"]);
    assert_eq!(runs.ids("second"), ["1", "2"]);
    assert!(
        log.text().contains("would have skipped events"),
        "{}",
        log.text()
    );
}

#[tokio::test]
async fn a_consumer_whose_filter_is_changed_under_a_worker_skips_nothing() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    let changed = pull::Config {
        filter_subject: "botisimo.elsewhere".to_owned(),
        ..consumer_config(&context, "team-first").await
    };
    change_consumer(&context, changed).await;
    send(&inbox, "a", "2").await;
    until("both routes have run both events", async || {
        runs.count() >= 4
    })
    .await;
    drain(&worker).await;
    assert_eq!(runs.ids("first"), ["1", "2"]);
}

#[tokio::test]
async fn a_consumer_whose_limits_are_changed_under_a_worker_continues_and_is_warned_of() {
    let log = Log::capture();
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    let change = async |max_ack_pending| {
        let changed = pull::Config {
            max_ack_pending,
            ..consumer_config(&context, "team-first").await
        };
        change_consumer(&context, changed).await;
    };
    change(7).await;
    stalled(&worker, Some("first"), "max_ack_pending is 7, not 10000").await;
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    change(10_000).await;
    recovered(&worker).await;
    let stalls = log.stalls("max_ack_pending is 7, not 10000");
    assert_eq!(stalls, (1, 1), "{}", log.text());
}

#[tokio::test]
async fn a_purged_stream_continues_with_the_next_event() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, gate) = (Runs::default(), Arc::new(Notify::new()));
    let (started, waiting) = (runs.clone(), Arc::clone(&gate));
    let router = EventRouter::new().on("a", |event: Event| async move {
        started.add("a", &event);
        if event.id() == "1" {
            waiting.notified().await;
        }
    });
    let worker = worker(&context).start(router).await.unwrap();
    send(&inbox, "a", "1").await;
    until("the event has begun", async || runs.count() == 1).await;
    let stream = context.get_stream("BOTISIMO").await.unwrap();
    stream.purge().await.unwrap();
    gate.notify_one();
    until("the first has ended", async || worker.stats().running == 0).await;
    send(&inbox, "a", "2").await;
    until("the second has run", async || runs.count() == 2).await;
    delete_consumers(&context, &["team-a"]).await;
    send(&inbox, "a", "3").await;
    until("the third has run", async || runs.count() == 3).await;
    recovered(&worker).await;
    assert_eq!(runs.ids("a"), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_deleted_stream_is_created_again_and_its_events_run() {
    let log = Log::capture();
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    // The second route is new, and still gets every event of the new stream.
    let before = worker(&context).start(first_route(&runs)).await.unwrap();
    drain(&before).await;
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    for id in ["1", "2"] {
        send(&inbox, "a", id).await;
    }
    wait_idle(&worker, 4).await;
    context.delete_stream("BOTISIMO").await.unwrap();
    // The new events get the sequence numbers of the finished events.
    for id in ["3", "4", "5"] {
        accept(&inbox, id).await;
    }
    until("all events have run", async || runs.count() >= 10).await;
    recovered(&worker).await;
    drain(&worker).await;
    for route in ["first", "second"] {
        assert_eq!(runs.ids(route), ["1", "2", "3", "4", "5"]);
    }
    assert!(log.count("the worker is stalled") > 0);
}

#[tokio::test]
async fn a_deleted_stream_that_must_exist_is_waited_for_with_its_name() {
    let log = Log::capture();
    let server = Server::start().await;
    let context = server.context().await;
    drop(inbox(&context).await);
    let opened = JetStreamInbox::builder(context.clone()).stream(existing());
    let inbox = opened.open().await.unwrap();
    let runs = Runs::default();
    let first = worker(&context).start(two_routes(&runs)).await.unwrap();
    drain(&first).await;
    let worker = worker(&context).stream(existing());
    let worker = worker.start(two_routes(&runs)).await.unwrap();
    let config = stream_config(&context, "BOTISIMO").await;
    context.delete_stream("BOTISIMO").await.unwrap();
    stalled(&worker, Some("first"), "there is no stream BOTISIMO").await;
    for _ in 0..3 {
        let refused = inbox.accept(event("a", "1")).await;
        assert_eq!(refused, Err(AcceptError::new(AcceptErrorKind::Unavailable)));
    }
    assert_eq!(
        log.count("error=no stream has the subjects"),
        1,
        "{}",
        log.text()
    );
    context.create_stream(config).await.unwrap();
    send(&inbox, "a", "1").await;
    until("both routes have run", async || runs.count() == 2).await;
    recovered(&worker).await;
    assert_eq!(log.count("the inbox has recovered"), 1);
    balanced(&worker.stats());
}

#[tokio::test]
async fn a_server_that_comes_back_with_an_empty_store_gets_its_streams_and_consumers_again() {
    let (mut server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    for id in ["1", "2"] {
        send(&inbox, "a", id).await;
    }
    wait_idle(&worker, 4).await;
    server.kill();
    server.wipe();
    server.restart().await;
    for id in ["3", "4", "5"] {
        accept(&inbox, id).await;
    }
    until("all events have run", async || runs.count() >= 10).await;
    recovered(&worker).await;
    drain(&worker).await;
    for route in ["first", "second"] {
        assert_eq!(runs.ids(route), ["1", "2", "3", "4", "5"]);
    }
}

#[tokio::test]
async fn a_stream_changed_under_a_worker_is_warned_of_with_its_setting() {
    let log = Log::capture();
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    let good = stream_config(&context, "BOTISIMO").await;
    let mut changed = good.clone();
    changed.discard = DiscardPolicy::Old;
    context.update_stream(changed).await.unwrap();
    stalled(&worker, None, "discard is Old, not New").await;
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    let damaged = HealthProblemKind::InboxDamaged;
    unhealthy(&inbox, damaged, "discard is Old, not New").await;
    context.update_stream(good).await.unwrap();
    recovered(&worker).await;
    until("the inbox has recovered", async || {
        inbox.handle().health().is_ok()
    })
    .await;
    assert_eq!(log.count("discard is Old, not New"), 2, "{}", log.text());
}

#[tokio::test]
async fn a_denied_publication_is_503_with_its_likely_cause_until_it_is_allowed() {
    let log = Log::capture();
    let server = Server::start_with(&users(&[])).await;
    let context = server.context().await;
    let inbox = JetStreamInbox::builder(context.clone()).stream(settings());
    let inbox = inbox.publish_timeout(Duration::from_millis(300));
    let inbox = inbox.open().await.unwrap();
    send(&inbox, "a", "1").await;
    server.reconfigure(&users(&["botisimo.>"])).await;
    for _ in 0..3 {
        let refused = inbox.accept(event("a", "2")).await;
        assert_eq!(refused, Err(AcceptError::new(AcceptErrorKind::Unavailable)));
    }
    let cause = "denies `publish` on `botisimo.>`";
    unhealthy(&inbox, HealthProblemKind::InboxFailing, cause).await;
    assert_eq!(log.count(cause), 1, "{}", log.text());
    server.reconfigure(&users(&[])).await;
    until("the inbox accepts the event", async || {
        inbox.accept(event("a", "2")).await.is_ok()
    })
    .await;
    assert_eq!(log.count("the inbox has recovered"), 1);
    assert!(inbox.handle().health().is_ok());
}

#[tokio::test]
async fn a_denied_pull_is_a_stall_and_not_an_absence_of_events() {
    let log = Log::capture();
    let (server, context, inbox) = set_up(&users(&[])).await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    let denied = "$JS.API.CONSUMER.MSG.NEXT.BOTISIMO.team-first";
    server.reconfigure(&users(&[denied])).await;
    let cause = format!("denies `publish` on `{denied}`");
    stalled(&worker, Some("first"), &cause).await;
    send(&inbox, "a", "1").await;
    until("the other route runs", async || runs.ids("second") == ["1"]).await;
    assert!(runs.ids("first").is_empty());
    server.reconfigure(&users(&[])).await;
    until("the route runs", async || runs.ids("first") == ["1"]).await;
    recovered(&worker).await;
    assert_eq!(log.stalls(&cause), (1, 1), "{}", log.text());
}

#[tokio::test]
async fn denied_consumer_calls_delay_the_recovery_and_are_warned_of() {
    let (server, context, inbox) = set_up(&users(&[])).await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    let denied = [
        "$JS.API.CONSUMER.CREATE.>",
        "$JS.API.CONSUMER.DURABLE.CREATE.>",
    ];
    server.reconfigure(&users(&denied)).await;
    delete_consumers(&operator(&server).await, &["team-first"]).await;
    let cause = "the consumer team-first can't be created";
    stalled(&worker, Some("first"), cause).await;
    send(&inbox, "a", "2").await;
    server
        .reconfigure(&users(&["$JS.API.CONSUMER.INFO.>"]))
        .await;
    let cause = "the consumer team-first can't be looked up";
    stalled(&worker, Some("first"), cause).await;
    server.reconfigure(&users(&[])).await;
    until("both events have run", async || runs.count() >= 4).await;
    recovered(&worker).await;
    drain(&worker).await;
    for route in ["first", "second"] {
        assert_eq!(runs.ids(route), ["1", "2"]);
    }
}

#[tokio::test]
async fn a_denied_acknowledgement_repeats_no_handler() {
    let (server, context, inbox) = set_up(&users(&[])).await;
    let runs = Runs::default();
    let router = EventRouter::new().on("a", runs.noting("a"));
    let worker = worker(&context).ack_wait(Duration::from_millis(500));
    let worker = worker.start(router).await.unwrap();
    server.reconfigure(&users(&["$JS.ACK.>"])).await;
    send(&inbox, "a", "1").await;
    stalled(&worker, Some("a"), "events can't be acknowledged").await;
    until("the server redelivers the event", async || {
        worker.stats().taken >= 3
    })
    .await;
    server.reconfigure(&users(&[])).await;
    until("the worker has acknowledged the event", async || {
        worker.stats().acked == 1
    })
    .await;
    recovered(&worker).await;
    assert_eq!(runs.count(), 1);
}

/// Without checkpoints, a worker loses only the memory of its positions.
#[tokio::test]
async fn denied_checkpoints_are_warned_of_and_events_run() {
    let (server, context, inbox) = set_up(&users(&[])).await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    server.reconfigure(&users(&["botisimo-checkpoint.>"])).await;
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    stalled(
        &worker,
        None,
        "the stream BOTISIMO_CHECKPOINTS sent no acknowledgement",
    )
    .await;
    send(&inbox, "a", "2").await;
    wait_idle(&worker, 4).await;
    server.reconfigure(&users(&[])).await;
    recovered(&worker).await;
}

/// The first worker's acknowledgement is lost, and the server delivers the event to the second worker.
#[tokio::test]
async fn what_one_worker_finished_but_could_not_acknowledge_no_other_worker_repeats() {
    let (server, context, inbox) = set_up(&users(&["$JS.ACK.>"])).await;
    let runs = Runs::default();
    let start = |context: &Context| {
        let router = EventRouter::new().on("a", runs.noting("a"));
        worker(context)
            .ack_wait(Duration::from_secs(1))
            .start(router)
    };
    let first = start(&context).await.unwrap();
    send(&inbox, "a", "1").await;
    until("it has run", async || runs.count() == 1).await;
    let second = start(&operator(&server).await).await.unwrap();
    drain(&first).await;
    wait_idle(&second, 1).await;
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn without_a_stream_for_checkpoints_a_worker_starts_and_warns() {
    let (_server, context, inbox) = set_up("").await;
    prepare(&context).await;
    context.delete_stream("BOTISIMO_CHECKPOINTS").await.unwrap();
    let runs = Runs::default();
    let worker = worker(&context).stream(existing());
    let worker = worker.start(two_routes(&runs)).await.unwrap();
    stalled(&worker, None, "the stream BOTISIMO_CHECKPOINTS is missing").await;
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_worker_that_may_not_read_checkpoints_starts_and_warns() {
    let denied = [
        "$JS.API.STREAM.INFO.BOTISIMO_CHECKPOINTS",
        "botisimo-checkpoint.>",
    ];
    let (_server, context, inbox) = set_up(&users(&denied)).await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    stalled(&worker, None, "denies").await;
    send(&inbox, "a", "1").await;
    wait_idle(&worker, 2).await;
    assert_eq!(runs.count(), 2);
}

/// Returns a router whose route fails permanently, and counts its runs.
fn failing(count: &Arc<AtomicU32>) -> EventRouter {
    let count = Arc::clone(count);
    EventRouter::new().on("a", |_: Event| async move {
        count.fetch_add(1, Ordering::Relaxed);
        Err::<(), _>(HandlerError::permanent("no"))
    })
}

#[tokio::test]
async fn a_deleted_dead_letter_stream_is_created_again() {
    let (_server, context, inbox) = set_up("").await;
    let count = Arc::default();
    let worker = worker(&context).start(failing(&count)).await.unwrap();
    context.delete_stream("BOTISIMO_DEAD").await.unwrap();
    send(&inbox, "a", "1").await;
    until("the dead letter is stored", async || {
        worker.stats().dead == 1
    })
    .await;
    assert_eq!(worker.dead_letters().list(None, 9).await.unwrap().len(), 1);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_letter_that_cannot_be_stored_is_stored_later_and_its_handler_runs_once() {
    let log = Log::capture();
    let (_server, context, inbox) = set_up("").await;
    let count = Arc::default();
    let start = || {
        worker(&context)
            .ack_wait(Duration::from_millis(300))
            .delivery(delivery().retry(RetryPolicy::new().max_attempts(2)))
            .start(failing(&count))
    };
    drain(&start().await.unwrap()).await;
    let worker = worker(&context)
        .stream(existing())
        .ack_wait(Duration::from_millis(300));
    let worker = worker.start(failing(&count)).await.unwrap();
    let config = stream_config(&context, "BOTISIMO_DEAD").await;
    context.delete_stream("BOTISIMO_DEAD").await.unwrap();
    send(&inbox, "a", "1").await;
    stalled(&worker, Some("a"), "there is no stream BOTISIMO_DEAD").await;
    // If the worker didn't keep the event, the server would redeliver the event after the `ack_wait` of 300 ms.
    let begun = std::time::Instant::now();
    until("the server doesn't redeliver the event", async || {
        begun.elapsed() > Duration::from_secs(2)
    })
    .await;
    assert_eq!((worker.stats().dead, worker.stats().acked), (0, 0));
    context.create_stream(config).await.unwrap();
    until("the dead letter is stored", async || {
        worker.stats().dead == 1
    })
    .await;
    recovered(&worker).await;
    assert_eq!(count.load(Ordering::Relaxed), 1);
    assert_eq!(worker.dead_letters().list(None, 9).await.unwrap().len(), 1);
    let stalls = log.stalls("there is no stream BOTISIMO_DEAD");
    assert_eq!(stalls, (1, 1), "{}", log.text());
    balanced(&worker.stats());
}

#[tokio::test]
async fn a_letter_that_the_server_denies_is_stored_later_and_its_handler_runs_once() {
    let (server, context, inbox) = set_up(&users(&[])).await;
    let count = Arc::default();
    let worker = worker(&context).ack_wait(Duration::from_secs(1));
    let worker = worker.start(failing(&count)).await.unwrap();
    server.reconfigure(&users(&["botisimo-dead.>"])).await;
    send(&inbox, "a", "1").await;
    stalled(&worker, Some("a"), "denies").await;
    server.reconfigure(&users(&[])).await;
    until("its letter is stored", async || worker.stats().dead == 1).await;
    recovered(&worker).await;
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_letter_larger_than_the_server_now_accepts_is_stored_without_its_body() {
    let (server, context, inbox) = set_up("max_payload: 65536").await;
    let (count, gate) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
    let (counted, waiting) = (Arc::clone(&count), Arc::clone(&gate));
    let router = EventRouter::new().on("a", |_: Event| async move {
        counted.fetch_add(1, Ordering::Relaxed);
        waiting.notified().await;
        Err::<(), _>(HandlerError::permanent("no"))
    });
    let worker = worker(&context).ack_wait(Duration::from_secs(1));
    let worker = worker.start(router).await.unwrap();
    let large = MockRequest::event("a")
        .message_id("large")
        .padded(40_000)
        .to_event();
    assert_eq!(inbox.accept(large.clone()).await, Ok(Accepted::New));
    until("the event has begun", async || {
        count.load(Ordering::Relaxed) == 1
    })
    .await;
    server.reconfigure("max_payload: 8192").await;
    gate.notify_one();
    until("the dead letter is stored", async || {
        worker.stats().dead == 1
    })
    .await;
    let letters = worker.dead_letters();
    let letter = letters.list(None, 9).await.unwrap().remove(0);
    assert_eq!((letter.message_id(), letter.body()), ("large", ""));
    let cause = letter.cause().unwrap();
    assert!(
        cause.starts_with("its body isn't stored: 40000 bytes exceed"),
        "{cause}"
    );
    assert_eq!(letter.routes()[0].reason(), Some("failed: no"));
    let error = letters.replay(letter.id()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the dead letter was stored without its body"
    );
    assert_eq!(count.load(Ordering::Relaxed), 1);
    // Once the receiver's client has reconnected, the receiver knows the new limit.
    until("the inbox accepts a small event", async || {
        inbox.accept(event("a", "small")).await.is_ok()
    })
    .await;
    assert_eq!(
        inbox.accept(large).await,
        Err(AcceptError::new(AcceptErrorKind::Unavailable))
    );
}

#[tokio::test]
async fn a_full_stream_is_503_with_its_cause_and_recovers_when_there_is_room() {
    let log = Log::capture();
    let server = Server::start().await;
    let context = server.context().await;
    let inbox = JetStreamInbox::builder(context.clone());
    let inbox = inbox.stream(StreamSettings::new().max_bytes(3000).create_if_missing());
    let inbox = inbox.open().await.unwrap();
    let sized = || {
        MockRequest::event("account.updated")
            .padded(1000)
            .to_event()
    };
    for _ in 0..2 {
        assert_eq!(inbox.accept(sized()).await, Ok(Accepted::New));
    }
    for _ in 0..3 {
        assert_eq!(
            inbox.accept(sized()).await,
            Err(AcceptError::new(AcceptErrorKind::Full))
        );
    }
    let cause = "the stream BOTISIMO doesn't accept messages";
    assert_eq!(log.count(cause), 1, "{}", log.text());
    context
        .get_stream("BOTISIMO")
        .await
        .unwrap()
        .purge()
        .await
        .unwrap();
    assert_eq!(inbox.accept(sized()).await, Ok(Accepted::New));
    assert_eq!(log.count("the inbox has recovered"), 1);
}

/// The guide lists these permissions.
#[tokio::test]
async fn the_permissions_of_the_guide_are_enough() {
    let log = Log::capture();
    let list = include_str!("../../src/guide/scaling.md");
    let allowed = |user: &str| {
        let rows = list.lines().filter_map(|line| line.strip_prefix("| `"));
        let rows = rows.filter(|row| row.contains(user) && row.contains("publish"));
        let subjects = rows.map(|row| row.split('`').next().unwrap());
        subjects.map(str::to_owned).collect::<Vec<_>>()
    };
    let (receiver, worker_) = (allowed("receiver"), allowed("worker"));
    assert!(
        receiver.len() > 1 && worker_.len() > 5,
        "{receiver:?} {worker_:?}"
    );
    let user = |name: &str, subjects: &[String]| {
        format!(
            "{{ user: {name}, password: p, permissions: {{ publish: {subjects:?}, subscribe: [\"_INBOX.>\"] }} }}"
        )
    };
    let users = format!(
        "authorization {{ users: [ {{ user: operator, password: p }}, {}, {} ] }}",
        user("receiver", &receiver),
        user("worker", &worker_)
    );
    let server = Server::start_with(&format!("{users}\nno_auth_user: operator")).await;
    let connect =
        async |user: &str| async_nats::jetstream::new(nats::connect_as(&server.url(), user).await);
    // The operator creates the streams.
    let context = server.context().await;
    drop(inbox(&context).await);
    prepare(&context).await;
    delete_consumers(&context, &["team-a"]).await;
    let inbox = JetStreamInbox::builder(connect("receiver").await).stream(existing());
    let inbox = inbox.open().await.unwrap();
    let worker = worker(&connect("worker").await).stream(existing());
    let worker = worker.start(failing(&Arc::default())).await.unwrap();
    send(&inbox, "a", "1").await;
    until("it is dead-lettered", async || worker.stats().dead == 1).await;
    let letters = worker.dead_letters();
    let letter = letters.list(None, 9).await.unwrap().remove(0);
    assert!(letters.replay(letter.id()).await.unwrap());
    until("it is dead-lettered again", async || {
        worker.stats().dead == 2
    })
    .await;
    drain(&worker).await;
    let health = worker.health();
    let mut kinds = health.problems().iter().map(HealthProblem::kind);
    assert!(
        kinds.all(|kind| kind == HealthProblemKind::Draining),
        "{health}"
    );
    assert!(!server.log().contains("Violation"), "{}", server.log());
    assert_eq!(log.count("stalled"), 0, "{}", log.text());
}

/// The configuration of an account whose streams may store this number of bytes.
fn account(max_file: &str) -> String {
    format!(
        "accounts {{ A: {{ jetstream: {{ max_file: {max_file} }}, users: [ {{ user: worker, password: w }} ] }} }}\n\
         no_auth_user: worker"
    )
}

#[tokio::test]
async fn a_full_account_is_503_with_its_cause_and_recovers_when_there_is_room() {
    let log = Log::capture();
    let server = Server::start_with(&account("64MB")).await;
    let context = server.context().await;
    let inbox = JetStreamInbox::builder(context.clone());
    let inbox = inbox.stream(StreamSettings::new().max_bytes(1 << 20).create_if_missing());
    let inbox = inbox.open().await.unwrap();
    send(&inbox, "a", "1").await;
    server.reconfigure(&account("1KB")).await;
    let sized = || MockRequest::event("a").padded(2000).to_event();
    until("the account is full", async || {
        inbox.accept(sized()).await == Err(AcceptError::new(AcceptErrorKind::Full))
    })
    .await;
    for _ in 0..3 {
        assert_eq!(
            inbox.accept(sized()).await,
            Err(AcceptError::new(AcceptErrorKind::Full))
        );
    }
    let cause = "the stream BOTISIMO doesn't accept messages";
    assert_eq!(log.count(cause), 1, "{}", log.text());
    server.reconfigure(&account("64MB")).await;
    until("the account has room", async || {
        inbox.accept(sized()).await.is_ok()
    })
    .await;
    assert_eq!(log.count("the inbox has recovered"), 1, "{}", log.text());
}

/// `SMALL_DISK` is a folder on an empty file system of 16 MiB. If a server can't write, it turns JetStream off.
#[tokio::test]
#[ignore = "it needs a small file system"]
async fn on_a_small_disk_that_is_full_events_are_refused_until_the_server_has_room_and_runs_again()
{
    let log = Log::capture();
    let disk = std::env::var_os("SMALL_DISK").expect("SMALL_DISK isn't set");
    let mut server = Server::start_on(disk.as_ref()).await;
    let context = server.context().await;
    let inbox = inbox(&context).await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    send(&inbox, "a", "first").await;
    let filler = std::path::Path::new(&disk).join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    std::io::copy(&mut std::io::repeat(1), &mut file).unwrap_err();
    let mut accepted = vec!["first".to_owned()];
    for id in 0.. {
        let id = id.to_string();
        let large = MockRequest::event("a").message_id(&id).padded(64 << 10);
        if inbox.accept(large.to_event()).await.is_err() {
            break;
        }
        accepted.push(id);
    }
    assert!(log.count("the inbox is failing") > 0, "{}", log.text());
    std::fs::remove_file(&filler).unwrap();
    server.kill();
    server.restart().await;
    until("the inbox accepts the event", async || {
        inbox.accept(event("a", "last")).await.is_ok()
    })
    .await;
    accepted.push("last".to_owned());
    until("all events have run", async || {
        let ran = [runs.ids("first"), runs.ids("second")];
        ran.iter()
            .all(|ran| accepted.iter().all(|id| ran.contains(id)))
    })
    .await;
    recovered(&worker).await;
    for ran in [runs.ids("first"), runs.ids("second")] {
        distinct(&ran);
    }
}

#[tokio::test]
async fn a_server_restored_from_a_backup_runs_the_new_events_that_get_old_sequences() {
    let (mut server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    accept(&inbox, "1").await;
    wait_idle(&worker, 2).await;
    server.kill();
    let backup = server.back_up();
    server.restart().await;
    for id in ["2", "3"] {
        accept(&inbox, id).await;
    }
    until("the events have run", async || worker.stats().acked == 6).await;
    server.kill();
    server.restore(&backup);
    server.restart().await;
    for id in ["4", "5"] {
        accept(&inbox, id).await;
    }
    until("the events have run", async || runs.count() >= 10).await;
    recovered(&worker).await;
    delete_consumers(&context, &["team-first"]).await;
    accept(&inbox, "6").await;
    until("the event has run", async || runs.count() >= 12).await;
    drain(&worker).await;
    for route in ["first", "second"] {
        assert_eq!(runs.ids(route), ["1", "2", "3", "4", "5", "6"]);
    }
}

#[tokio::test]
async fn no_worker_runs_an_event_that_another_worker_finished_before_the_consumer_was_deleted() {
    let (_server, context, inbox) = set_up("").await;
    let (runs, stuck) = (Runs::default(), Arc::new(Notify::new()));
    let (noted, waiting) = (runs.clone(), Arc::clone(&stuck));
    // The first event holds back the consumer's position.
    let router = EventRouter::new()
        .on("a", |event: Event| async move {
            noted.add("a", &event);
            if event.id() == "stuck" {
                waiting.notified().await;
            }
        })
        .named("route");
    let start = || worker(&context).start(router.clone());
    let (one, other) = (start().await.unwrap(), start().await.unwrap());
    send(&inbox, "a", "stuck").await;
    until("the event has begun", async || runs.count() == 1).await;
    for id in 0..40 {
        send(&inbox, "a", &id.to_string()).await;
    }
    until("the other events have ended", async || {
        one.stats().acked + other.stats().acked == 40
    })
    .await;
    assert!(one.stats().acked > 0 && other.stats().acked > 0);
    delete_consumers(&context, &["team-route"]).await;
    send(&inbox, "a", "new").await;
    until("the new event has run", async || {
        runs.ids("a").contains(&"new".to_owned())
    })
    .await;
    stuck.notify_waiters();
    drain(&one).await;
    drain(&other).await;
    let mut ran = runs.ids("a");
    ran.retain(|id| id != "stuck");
    assert_eq!(distinct(&ran), 41);
}

/// Two workers run events. Meanwhile, operators delete consumers and checkpoints, and workers start and stop.
#[tokio::test]
async fn whatever_operators_delete_each_event_runs_and_no_finished_event_runs_again() {
    let (_server, context, inbox) = set_up("").await;
    let runs = Runs::default();
    let start = || worker(&context).start(two_routes(&runs));
    let mut workers = vec![start().await.unwrap(), start().await.unwrap()];
    let mut random = fastrand::Rng::with_seed(11);
    let mut sent = 0;
    for _ in 0..12 {
        for _ in 0..random.usize(0..40) {
            sent += 1;
            send(&inbox, "a", &sent.to_string()).await;
        }
        match random.u32(0..6) {
            0 => {
                let worker = workers.remove(random.usize(0..2));
                drain(&worker).await;
                workers.push(start().await.unwrap());
            }
            1 => {
                for worker in workers.drain(..) {
                    drain(&worker).await;
                }
                delete_consumers(&context, &["team-first", "team-second"]).await;
                workers.extend([start().await.unwrap(), start().await.unwrap()]);
            }
            2 => drop(context.delete_stream("BOTISIMO_CHECKPOINTS").await),
            3 => {
                wait_for(&runs, sent).await;
                delete_consumers(&context, &["team-first"]).await;
            }
            _ => {
                wait_for(&runs, sent).await;
                delete_consumers(&context, &["team-first", "team-second"]).await;
            }
        }
        // A consumer that doesn't exist can't be deleted.
        for name in ["team-first", "team-second"] {
            until("the consumers exist", async || {
                let found =
                    context.get_consumer_from_stream::<pull::Config, _, _>(name, "BOTISIMO");
                found.await.is_ok()
            })
            .await;
        }
    }
    wait_for(&runs, sent).await;
    for worker in &workers {
        recovered(worker).await;
        drain(worker).await;
    }
    for route in ["first", "second"] {
        assert_eq!(distinct(&runs.ids(route)), sent, "{route}");
    }
}

/// Waits until both routes have run this number of events.
async fn wait_for(runs: &Runs, events: usize) {
    until("both routes have run the events", async || {
        runs.count() >= 2 * events
    })
    .await;
}

#[tokio::test]
async fn a_paused_consumer_is_a_stall_with_its_cause() {
    let server = Server::start().await;
    let context = server.context().await;
    if !context.client().is_server_compatible(2, 11, 0) {
        println!("left out: servers before 2.11 can't pause a consumer");
        return;
    }
    let inbox = inbox(&context).await;
    let runs = Runs::default();
    let worker = worker(&context).start(two_routes(&runs)).await.unwrap();
    let pause = async |until: &str| {
        let subject = "CONSUMER.PAUSE.BOTISIMO.team-first";
        let request = serde_json::json!({ "pause_until": until });
        let answer = context.request::<_, _, serde_json::Value>(subject, &request);
        assert!(answer.await.unwrap()["error"].is_null());
    };
    pause("2999-01-01T00:00:00Z").await;
    stalled(&worker, Some("first"), "the consumer team-first is paused").await;
    send(&inbox, "a", "1").await;
    until("the other route runs", async || runs.ids("second") == ["1"]).await;
    pause("2000-01-01T00:00:00Z").await;
    until("the route runs", async || runs.ids("first") == ["1"]).await;
    recovered(&worker).await;
}

#[tokio::test]
async fn letters_are_pruned_by_the_servers_clock() {
    let server = Server::start().await;
    let context = server.context().await;
    inbox(&context).await;
    let worker = worker(&context)
        .start(failing(&Arc::default()))
        .await
        .unwrap();
    // This is the letter that a worker would store if its clock were in 1970.
    let mut headers = HeaderMap::new();
    headers.insert("Botisimo-Consumer", "team-a");
    headers.insert(
        "Botisimo-Dead-Letter",
        r#"{"received_at": 1000, "dead_lettered_at": 2000, "attempts": 1, "routes": []}"#,
    );
    let body = event("a", "1").body().to_owned();
    let stored = context.publish_with_headers("botisimo-dead.team.a.$", headers, body.into());
    stored.await.unwrap().await.unwrap();
    let letters = worker.dead_letters();
    assert_eq!(letters.prune(Duration::from_secs(3600)).await.unwrap(), 0);
    let kept = letters.list(None, 9).await.unwrap();
    let second = std::time::UNIX_EPOCH + Duration::from_secs(1);
    assert_eq!((kept.len(), kept[0].received_at()), (1, second));
}
