//! Laws 10 and 12 of ARCHITECTURE.md, with three receivers that share a database. The test kills receivers under load
//! at random moments, and restarts the database server. One route writes a row with `complete_in`, so each event has
//! exactly one row.
//!
//! `POSTGRES_CRASH_ROUNDS=100` runs more rounds. `CRASH_SEED` repeats the moments of an earlier run, if the scheduler
//! allows it.

use std::env;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::deployment::{Deployment, Load, Sender, check, check_effects, wait_idle};
use crate::support::postgres::{Fsync, PostgresServer, until};
use crate::support::server::{Client, Server, body};

const SENDERS: usize = 6;

pub(crate) fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|number| number.parse().unwrap())
}

#[test]
fn no_event_is_lost_when_receivers_are_killed_and_the_server_restarts() {
    let rounds = number("POSTGRES_CRASH_ROUNDS").unwrap_or(10);
    let seed = number("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut database = PostgresServer::start_with(Fsync::On, "");
    let deployment = Deployment::new(&database, Duration::from_secs(3));
    let mut servers: Vec<Server> = start(&deployment, 3);
    let mut senders: Vec<_> = (0..SENDERS)
        .map(|name| Sender::new(name, rng.fork(), 5))
        .collect();
    let (load, mut kills) = (Load::default(), 0);
    load.addresses.set(servers.iter().map(|server| server.addr));
    thread::scope(|scope| {
        for sender in &mut senders {
            scope.spawn(|| sender.send(&load, usize::MAX));
        }
        for round in 0..rounds {
            let enough = load.answers.load(Ordering::Relaxed) + rng.usize(..300);
            until("enough events are answered", || {
                load.answers.load(Ordering::Relaxed) >= enough
            });
            // The moment of the kill is random, so the thread sleeps without a condition.
            thread::sleep(Duration::from_micros(rng.u64(..5000)));
            let some = rng.usize(1..=3);
            for _ in 0..some {
                let mut victim = servers.swap_remove(rng.usize(..servers.len()));
                victim.kill();
                load.addresses.set(servers.iter().map(|server| server.addr));
                kills += 1;
            }
            if round % 10 == 9 {
                database.stop_immediately();
                database.restart();
            }
            // Some kills hit a receiver that is opening the inbox, or has just started.
            if rng.u8(..6) == 0 {
                let starting = deployment.start();
                thread::sleep(Duration::from_millis(rng.u64(..120)));
                starting.kill();
            }
            servers.extend(start(&deployment, some));
            load.addresses.set(servers.iter().map(|server| server.addr));
        }
        load.ends.store(true, Ordering::Relaxed);
    });
    wait_idle(&database);
    let twice = check(&deployment.journal(), &senders);
    check_effects(&database, &senders);
    let sum = |count: fn(&Sender) -> usize| senders.iter().map(count).sum::<usize>();
    println!(
        "{rounds} rounds, {kills} kills: {} events answered 200, {} answers 503, {} unanswered, 0 lost, {twice} handled twice, each with one effect",
        sum(|one| one.taken.len()),
        sum(|one| one.refused),
        sum(|one| one.unanswered),
    );
    assert_eq!(
        database.sql("SELECT count(*) FROM botisimo.dead_letters"),
        "0"
    );
}

pub(crate) fn start(deployment: &Deployment, count: usize) -> Vec<Server> {
    let starting: Vec<_> = (0..count).map(|_| deployment.start()).collect();
    starting.into_iter().map(|one| one.listening()).collect()
}

/// A thousand keys of ten events.
#[test]
fn events_of_a_key_stay_in_order_when_one_of_two_workers_is_killed() {
    let keys = number("POSTGRES_ORDER_KEYS").unwrap_or(1000) as usize;
    let database = PostgresServer::start();
    let deployment = Deployment::new(&database, Duration::from_secs(3));
    let mut servers = start(&deployment, 2);
    let per_sender = keys / SENDERS;
    let mut senders: Vec<_> = (0..SENDERS)
        .map(|name| Sender::new(name, Rng::new(), per_sender))
        .collect();
    let load = Load::default();
    load.addresses.set(servers.iter().map(|server| server.addr));
    thread::scope(|scope| {
        for sender in &mut senders {
            scope.spawn(|| sender.send(&load, per_sender * 10));
        }
        let third = per_sender * SENDERS * 10 / 3;
        until("a third of the events is answered", || {
            load.answers.load(Ordering::Relaxed) >= third
        });
        servers[0].kill();
        load.addresses.set([servers[1].addr]);
    });
    wait_idle(&database);
    let twice = check(&deployment.journal(), &senders);
    check_effects(&database, &senders);
    println!("{keys} keys of 10 events, {twice} events handled twice");
}

#[test]
fn a_worker_that_was_frozen_records_nothing_for_an_event_of_another_worker() {
    let database = PostgresServer::start();
    let deployment = Deployment::new(&database, Duration::from_secs(2));
    let (frozen, other) = (
        deployment.start().listening(),
        deployment.start().listening(),
    );
    let held = body("held", r#"{"held":true}"#);
    assert_eq!(Client::new(frozen.addr).post(&held).unwrap(), 200);
    until("the handler runs", || frozen.stats().of("running") == 1);
    frozen.signal("STOP");
    until("the other worker runs the handler", || {
        other.stats().of("running") == 1
    });
    frozen.signal("CONT");
    frozen.get("/release");
    until("the frozen worker's handler ends", || {
        deployment.journal().len() == 1
    });
    until("the frozen worker has no event", || {
        frozen.stats().in_flight() == 0
    });
    assert_eq!(frozen.stats().of("handled"), 0);
    assert_eq!(database.sql("SELECT count(*) FROM botisimo.events"), "1");
    other.get("/release");
    wait_idle(&database);
    assert_eq!(database.sql("SELECT count(*) FROM effects"), "1");
    until("the other worker counts the event", || {
        other.stats().of("handled") == 1
    });
    assert_eq!(deployment.journal().len(), 2);
}
