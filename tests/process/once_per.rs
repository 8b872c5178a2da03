//! `once_per` of a route, with a server that the test kills under load at random moments and restarts on the same file.
//!
//! A key is on disk exactly if the result of the event that used it is on disk. Once a key is on disk, the route runs for no
//! other event with the key.
//!
//! `CRASH_ROUNDS=100` runs more rounds. `CRASH_SEED` repeats the moments of an earlier run, if the scheduler allows it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, thread};

use fastrand::Rng;

use crate::support::server::{Client, ServerFolder, texts, until};

/// The number of keys that each round adds.
const KEYS: usize = 40;

/// The types of the events that share a key.
const TYPES: [&str; 3] = [
    "connection.stream.started",
    "connection.stream.started.twitch",
    "connection.stream.started.youtube",
];

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|number| number.parse().unwrap())
}

/// Returns the bodies of a round's events, in a random order. Each key has an event of each type.
fn events(round: u64, rng: &mut Rng) -> Vec<String> {
    let mut events = Vec::new();
    for key in 0..KEYS {
        for (sibling, event_type) in TYPES.iter().enumerate() {
            let (key, takes) = (format!("k{round}.{key}"), rng.u64(..8).saturating_sub(4));
            events.push(format!(
                r#"{{"messageId":"{key}-{sibling}","timestamp":1700000000000,"eventType":"{event_type}","data":{{"key":"{key}","takes":{takes}}}}}"#
            ));
        }
    }
    rng.shuffle(&mut events);
    events
}

/// Returns the key of an event's id.
fn key(id: &str) -> String {
    id.split_once('-').unwrap().0.to_owned()
}

/// The event that used each key, on disk.
type Used = HashMap<String, String>;

/// Reads the used keys that a killed server left, and compares them with the results on disk.
fn used(place: &ServerFolder) -> Used {
    place.look(|inbox| {
        if texts(inbox, "SELECT name FROM sqlite_schema").is_empty() {
            return Used::new();
        }
        let used = texts(inbox, "SELECT message_id FROM once_keys ORDER BY event_id");
        let results = "SELECT message_id FROM handled WHERE event_type LIKE 'connection.%' AND routes NOT LIKE '%skipped%' ORDER BY id";
        assert_eq!(used, texts(inbox, results), "keys and results differ");
        used.into_iter().map(|id| (key(&id), id)).collect()
    })
}

#[test]
fn a_key_is_stored_with_the_result_of_its_event_whenever_the_server_is_killed() {
    let rounds = number("CRASH_ROUNDS").unwrap_or(6);
    let seed = number("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let place = ServerFolder::new();
    let (mut stored, mut read, mut sent) = (Used::new(), 0, Vec::new());
    for round in 0..rounds {
        let mut server = place.serving();
        let (events, answered) = (events(round, &mut rng), AtomicUsize::new(0));
        let enough = rng.usize(..events.len());
        thread::scope(|scope| {
            for events in events.chunks(events.len() / 4) {
                let (addr, answered) = (server.addr, &answered);
                scope.spawn(move || {
                    let mut client = Client::new(addr);
                    for event in events {
                        if client.post(event).is_err() {
                            return;
                        }
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            until("enough events are answered", || {
                answered.load(Ordering::Relaxed) >= enough
            });
            thread::sleep(Duration::from_micros(rng.u64(..3000)));
            server.kill();
        });
        sent.extend(events);
        let journal = place.journal();
        // The lines of this round. The keys that were on disk before the round must not be among them.
        for line in &journal[read..] {
            assert!(
                !stored.contains_key(&key(&line.id)),
                "{} ran again",
                line.id
            );
        }
        read = journal.len();
        let now = used(&place);
        for (key, id) in &stored {
            assert_eq!(now.get(key), Some(id), "another event used {key}");
        }
        stored = now;
    }
    // The sender sends every event again.
    let server = place.serving();
    let mut client = Client::new(server.addr);
    for event in &sent {
        assert_eq!(client.post(event).unwrap(), 200);
    }
    let stats = server.wait_idle();
    assert_eq!(stats.of("dead"), 0);
    server.end();
    let used = used(&place);
    let expected = KEYS * rounds as usize;
    assert_eq!(used.len(), expected, "not every key was used");
    let done: HashSet<String> = place.journal().into_iter().map(|line| line.id).collect();
    assert!(used.values().all(|id| done.contains(id)));
    // Only a kill between a run and its commit makes a second run.
    let repeated = place.journal().len() - expected;
    println!("{expected} keys, {repeated} runs more");
    // At a kill, at most 8 events run.
    assert!(repeated <= 8 * rounds as usize, "{repeated} runs more");
}
