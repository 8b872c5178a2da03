//! Law 10 of ARCHITECTURE.md, with a server that the test kills under load at random moments and restarts on the
//! same file.
//!
//! The inbox loses no event that was answered with 200, and runs no event again after the event's end was
//! committed. Each server opens the inbox under a different name, and has a different wrong clock.
//!
//! `CRASH_ROUNDS=100` runs more rounds. `CRASH_SEED` repeats the moments of an earlier run, if the scheduler
//! allows it.

use std::collections::{HashMap, HashSet};
use std::env;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::support::server::{Client, Line, Server, ServerFolder, Starting, body, texts, until};

const SENDERS: usize = 8;

#[test]
fn every_event_answered_200_runs_and_none_runs_after_its_end_was_committed() {
    let rounds = number("CRASH_ROUNDS").unwrap_or(8);
    let seed = number("CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let mut senders: Vec<_> = (0..SENDERS)
        .map(|name| Sender::new(name, rng.fork()))
        .collect();
    let mut place = ServerFolder::new();
    let names = names(&place);
    let mut truth = Truth::default();
    for round in 0..rounds {
        place.name = rng.choice(&names).cloned();
        place.ahead = rng.choice(CLOCKS).unwrap_or(0);
        let starting = place.start();
        // Some kills hit a server before it serves: while it is opening the inbox, or has just started to
        // recover.
        if rng.u8(..6) == 0 {
            thread::sleep(Duration::from_millis(rng.u64(..120)));
            starting.kill();
        } else {
            let mut server = recovered(starting, &truth);
            // Without this wait, the backlog would grow, and new events would never run.
            if rng.u8(..3) == 0 {
                server.wait_idle();
            }
            let end = match rng.u8(..6) {
                0 => End::Drain,
                _ => End::Kill,
            };
            load(&mut server, &mut senders, &mut rng, end);
        }
        truth.check(&place, &senders);
        if round % 10 == 9 || round + 1 == rounds {
            println!("round {}: {}", round + 1, counts(&truth, &senders));
        }
    }
    let server = recovered(place.start(), &truth);
    let stats = server.wait_idle();
    assert_eq!(stats.of("dead"), 0, "a retry would have succeeded");
    server.end();
    truth.check(&place, &senders);
    assert_eq!(truth.pending, Vec::<String>::new());
    println!("at the end: {}", counts(&truth, &senders));
    let done = |id: &&String| truth.done.contains_key(*id);
    let lost = taken(&senders).filter(|id| !done(id)).count();
    println!("lost {lost}, run twice {}", truth.run_twice());
    assert_eq!(lost, 0);
    let fewest = if rounds > 20 { 1 } else { 0 };
    assert!(
        truth.killed_in_flight >= fewest,
        "no kill hit an event in flight"
    );
}

const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// Draws how far a server's clock is ahead.
const CLOCKS: [i64; 8] = [
    0,
    0,
    HOUR,
    -HOUR,
    8 * HOUR,
    60 * DAY,
    -400 * DAY,
    30 * 365 * DAY,
];

/// Returns the path of the inbox, and other names that lead to the same file.
fn names(place: &ServerFolder) -> Vec<PathBuf> {
    let folder = place.folder();
    let (link, other) = (folder.join("link.db"), folder.join("folder"));
    symlink("inbox.db", &link).unwrap();
    symlink(".", &other).unwrap();
    vec![
        place.inbox.clone(),
        link,
        other.join("inbox.db"),
        other.join("link.db"),
    ]
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|number| number.parse().unwrap())
}

fn counts(truth: &Truth, senders: &[Sender]) -> String {
    let sum = |count: fn(&Sender) -> usize| senders.iter().map(count).sum::<usize>();
    format!(
        "{} requests, {} answered 200 of which {} to copies, {} answered 503, {} unanswered, {} in flight at a kill, {} run twice",
        sum(|one| one.requests),
        sum(|one| one.ok),
        sum(|one| one.copies),
        sum(|one| one.refused),
        sum(|one| one.unanswered),
        truth.killed_in_flight,
        truth.run_twice(),
    )
}

/// Waits for a server, and checks the events that it recovered from the previous server.
fn recovered(starting: Starting, truth: &Truth) -> Server {
    let server = starting.listening();
    let recovered = server.stats().of("recovered");
    assert_eq!(recovered, truth.pending.len() as u64);
    server
}

#[derive(Clone, Copy)]
enum End {
    Kill,
    /// Kills the server during a drain.
    Drain,
}

/// Lets all senders send concurrently, and kills the server at a random moment.
fn load(server: &mut Server, senders: &mut [Sender], rng: &mut Rng, end: End) {
    let (addr, answers) = (server.addr, AtomicUsize::new(0));
    let enough = rng.usize(..600);
    let bit = Duration::from_micros(rng.u64(..5000));
    thread::scope(|scope| {
        for sender in senders {
            scope.spawn(|| sender.send(addr, &answers));
        }
        until("enough events are answered", || {
            answers.load(Ordering::Relaxed) >= enough
        });
        if let End::Drain = end {
            scope.spawn(move || drop(Client::new(addr).get("/drain")));
            thread::sleep(bit);
        }
        // The moment of the kill is random, so the thread sleeps without a condition.
        thread::sleep(bit);
        server.kill();
    });
}

/// A sender that sends each event after the answer to the previous one.
struct Sender {
    name: usize,
    rng: Rng,
    next: usize,
    /// The event that got no answer.
    unanswered_last: Option<Sent>,
    /// The events that were answered with 200.
    taken: Vec<Sent>,
    requests: usize,
    ok: usize,
    copies: usize,
    refused: usize,
    unanswered: usize,
}

#[derive(Clone)]
struct Sent {
    id: String,
    body: String,
}

impl Sender {
    fn new(name: usize, rng: Rng) -> Self {
        Self {
            name,
            rng,
            next: 0,
            unanswered_last: None,
            taken: Vec::new(),
            requests: 0,
            ok: 0,
            copies: 0,
            refused: 0,
            unanswered: 0,
        }
    }

    /// Sends events until the server has ended.
    fn send(&mut self, addr: SocketAddr, answers: &AtomicUsize) {
        let mut client = Client::new(addr);
        loop {
            // Like the real sender, this sender sends unanswered events again, but only about half of them.
            let again = self.unanswered_last.take().filter(|_| self.rng.bool());
            let copied = match self.rng.u8(..10) {
                0 => self.rng.choice(&self.taken).cloned(),
                _ => None,
            };
            let copy = again.is_none() && copied.is_some();
            let sent = again.or(copied).unwrap_or_else(|| self.new_event());
            self.requests += 1;
            match client.post(&sent.body) {
                Ok(200) => {
                    self.ok += 1;
                    self.copies += usize::from(copy);
                    if !copy {
                        self.taken.push(sent);
                    }
                }
                Ok(503) => {
                    assert!(!copy, "a copy of {} was refused", sent.id);
                    self.refused += 1;
                    // The server is draining, so it accepts no more events.
                    thread::yield_now();
                }
                Ok(status) => panic!("answered {status}"),
                Err(_) => {
                    self.unanswered += 1;
                    self.unanswered_last = (!copy).then_some(sent);
                    return;
                }
            }
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the next event. About half of the events have this sender's key. Some events fail at first, and
    /// some take a while.
    fn new_event(&mut self) -> Sent {
        self.next += 1;
        let keyed = self.rng.bool();
        let kind = if keyed { "keyed" } else { "free" };
        let id = format!("{kind}-{}-{}", self.name, self.next);
        let key = keyed.then(|| format!("\"{}\"", self.name));
        let key = key.unwrap_or_else(|| "null".to_owned());
        let fails = self.rng.u8(..12).saturating_sub(9);
        let takes = self.rng.u8(..40).saturating_sub(30);
        let data = format!(r#"{{"key":{key},"fails":{fails},"takes":{takes}}}"#);
        let body = body(&id, &data);
        Sent { id, body }
    }
}

/// Returns the ids of the events that were answered with 200.
fn taken(senders: &[Sender]) -> impl Iterator<Item = &String> {
    let taken = senders.iter().flat_map(|sender| &sender.taken);
    taken.map(|sent| &sent.id)
}

/// The state of the inbox, as observed from outside.
#[derive(Default)]
struct Truth {
    /// The number of lines of the journal that were read.
    read: usize,
    /// The ids on disk whose events haven't ended.
    pending: Vec<String>,
    /// The ids that were on disk or ran, and are no longer on disk.
    ended: HashSet<String>,
    /// The last attempt of each id.
    attempts: HashMap<String, u32>,
    /// How many times the handler of each id succeeded.
    done: HashMap<String, usize>,
    /// How many kills happened while the event of each id was in flight.
    hits: HashMap<String, usize>,
    killed_in_flight: usize,
    /// For each key, the number of the event that ran last.
    keys: HashMap<String, usize>,
}

impl Truth {
    fn run_twice(&self) -> usize {
        self.done.values().filter(|times| **times > 1).count()
    }

    /// Checks the runs of a killed server and the file that it left.
    fn check(&mut self, place: &ServerFolder, senders: &[Sender]) {
        let journal = place.journal();
        let lines = &journal[self.read..];
        self.read = journal.len();
        self.check_lines(lines);

        let (pending, remembered) = place.look(|inbox| {
            // The server may have been killed before it created the tables.
            if texts(inbox, "SELECT name FROM sqlite_schema").is_empty() {
                return (Vec::new(), Vec::new());
            }
            check_sums(inbox);
            (
                texts(inbox, "SELECT message_id FROM pending ORDER BY id"),
                texts(inbox, "SELECT message_id FROM message_ids"),
            )
        });
        let on_disk: HashSet<&String> = pending.iter().collect();
        assert_eq!(on_disk.len(), pending.len(), "an id is on disk twice");
        let remembered: HashSet<String> = remembered.into_iter().collect();
        for id in taken(senders) {
            let safe = on_disk.contains(id) || self.done.contains_key(id);
            assert!(safe, "{id} was answered 200, didn't run and isn't on disk");
            assert!(remembered.contains(id), "{id} could be accepted twice");
        }
        for id in &pending {
            assert!(remembered.contains(id), "{id} is on disk without its id");
            assert!(
                !self.ended.contains(id),
                "{id} had ended and is on disk again"
            );
            *self.hits.entry(id.clone()).or_default() += 1;
        }
        self.killed_in_flight += pending.len();
        for (id, times) in &self.done {
            let hits = self.hits.get(id).copied().unwrap_or(0);
            assert!(*times <= 1 + hits, "{id} ran {times} times, {hits} kills");
        }
        // The table of message ids contains every id that was ever on disk.
        self.ended = remembered
            .into_iter()
            .filter(|id| !on_disk.contains(id))
            .collect();
        self.pending = pending;
    }

    /// Checks the runs of one server.
    fn check_lines(&mut self, lines: &[Line]) {
        let mut ran = HashSet::new();
        for line in lines {
            let (id, attempt) = (&line.id, line.attempt);
            assert!(!self.ended.contains(id), "{id} runs again after its end");
            assert!(
                ran.insert((id, attempt)),
                "attempt {attempt} of {id} ran twice in one process"
            );
            let last = self.attempts.insert(id.clone(), attempt).unwrap_or(1);
            assert!(last <= attempt, "{id}: attempt {attempt} after {last}");
            if line.done {
                *self.done.entry(id.clone()).or_default() += 1;
            }
            self.check_order(line);
        }
    }

    /// Checks that no event of a key runs before the key's previous event has ended. Each sender sends the
    /// events of its key one after another.
    fn check_order(&mut self, line: &Line) {
        let Some(numbers) = line.id.strip_prefix("keyed-") else {
            return;
        };
        let (key, number) = numbers.split_once('-').unwrap();
        let number = number.parse().unwrap();
        let last = self.keys.insert(key.to_owned(), number).unwrap_or(0);
        assert!(last <= number, "{} came after {last} of its key", line.id);
        if last < number && last > 0 {
            let before = format!("keyed-{key}-{last}");
            let done = self.done.contains_key(&before);
            assert!(done, "{} ran before {before} had ended", line.id);
        }
    }
}

/// Checks that the file is intact, that its totals equal the sums of its rows, and that no event is in two tables.
fn check_sums(inbox: &rusqlite::Connection) {
    assert_eq!(texts(inbox, "PRAGMA integrity_check"), ["ok"]);
    let sums = |query| {
        let row = inbox.query_row(query, [], |row| {
            let sums = [0, 1, 2, 3, 4, 5].map(|column| row.get::<_, i64>(column));
            Ok(sums.map(Result::unwrap))
        });
        row.unwrap()
    };
    let kept = "SELECT events, event_bytes, dead_letters, dead_letter_bytes, handled, handled_bytes FROM totals";
    let counted = "SELECT (SELECT count(*) FROM events), (SELECT ifnull(sum(octet_length(body)), 0) FROM events), (SELECT count(*) FROM dead_letters), (SELECT ifnull(sum(octet_length(body)), 0) FROM dead_letters), (SELECT count(*) FROM handled), (SELECT ifnull(sum(octet_length(body)), 0) FROM handled)";
    let all = "SELECT id FROM events UNION ALL SELECT id FROM dead_letters UNION ALL SELECT id FROM handled";
    let twice = format!("SELECT CAST(id AS TEXT) FROM ({all}) GROUP BY id HAVING count(*) > 1");
    assert!(texts(inbox, &twice).is_empty(), "an event is in two tables");
    assert_eq!(sums(kept), sums(counted));
}
