//! Receivers in separate processes that share a database, and senders that load them.

use std::collections::{HashMap, HashSet};
use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use botisimo_webhooks::{Event, HandlerResult, PostgresInbox, RetryPolicy};
use deadpool_postgres::Pool;
use fastrand::Rng;
use tempfile::TempDir;

use crate::kit::pool;
use crate::support::postgres::{PostgresServer, until};
use crate::support::process::own_binary;
use crate::support::server::{self, Client, Line, Starting, body};

/// Runs a receiver if this process was started as one.
pub(crate) fn run() {
    if env::var_os("SERVER_DATABASE").is_some() {
        server::run(receive());
    }
}

async fn receive() {
    let (url, lease) = (
        env::var("SERVER_DATABASE").unwrap(),
        env::var("SERVER_LEASE").unwrap(),
    );
    let (router, gate) = server::router();
    // A handler holds a connection during its transaction, so the handlers have their own pool.
    let effects = pool(&url, 8);
    let router = router
        .on("account.updated", move |event: Event| async move {
            write_effect(&event, &effects).await
        })
        .named("effect");
    let retry = RetryPolicy::new().initial_delay(Duration::from_millis(20));
    let opened = PostgresInbox::builder(pool(&url, 8))
        // While the server restarts, each attempt fails.
        .delivery(server::delivery().retry(retry.max_attempts(1000)))
        .lease(Duration::from_millis(lease.parse().unwrap()))
        // The test kills the process, so no event is a poison message.
        .max_crashes(u32::MAX)
        .open(router)
        .await;
    server::serve_inbox(opened, gate).await;
}

/// Writes an effect of the event, exactly once.
async fn write_effect(event: &Event, pool: &Pool) -> HandlerResult {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await?;
    let sql = "INSERT INTO effects VALUES ($1)";
    transaction.execute(sql, &[&event.id()]).await?;
    event.complete_in(&transaction).await?;
    transaction.commit().await?;
    Ok(())
}

/// A database, and the journal and the log of its receivers.
pub(crate) struct Deployment {
    url: String,
    lease: Duration,
    folder: TempDir,
    log: Arc<Mutex<String>>,
}

impl Deployment {
    /// Creates a deployment in the database `postgres` of a server.
    pub(crate) fn new(server: &PostgresServer, lease: Duration) -> Self {
        Self::through(server.port(), server, lease)
    }

    /// Creates a deployment that connects to the server through another port.
    pub(crate) fn through(port: u16, server: &PostgresServer, lease: Duration) -> Self {
        server.sql("CREATE TABLE effects (event text NOT NULL)");
        Self {
            url: format!("postgresql://postgres@127.0.0.1:{port}/postgres"),
            lease,
            folder: tempfile::tempdir().unwrap(),
            log: Arc::default(),
        }
    }

    fn journal_path(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    pub(crate) fn journal(&self) -> Vec<Line> {
        Line::read_all(&self.journal_path())
    }

    /// Starts a receiver.
    pub(crate) fn start(&self) -> Starting {
        let mut command = Command::new(own_binary());
        command
            .env("SERVER_DATABASE", &self.url)
            .env("SERVER_LEASE", self.lease.as_millis().to_string())
            .env("SERVER_JOURNAL", self.journal_path());
        Starting::new(command, &self.log)
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.log.lock().unwrap());
        }
    }
}

/// Waits until the database `postgres` of a server has no unfinished event.
pub(crate) fn wait_idle(server: &PostgresServer) {
    until("every event ends", || {
        server.sql("SELECT count(*) FROM botisimo.events") == "0"
    });
}

/// Checks that each event that was answered with 200 has exactly one effect.
pub(crate) fn check_effects(server: &PostgresServer, senders: &[Sender]) {
    let effects = server.sql("SELECT event, count(*) FROM effects GROUP BY event");
    let effects: HashMap<_, _> = effects
        .lines()
        .filter_map(|row| row.split_once('|'))
        .collect();
    for id in senders.iter().flat_map(|sender| &sender.taken) {
        assert_eq!(effects.get(id.as_str()), Some(&"1"), "effects of {id}");
    }
    assert!(effects.values().all(|count| *count == "1"));
}

/// The addresses of the receivers that run now.
#[derive(Default)]
pub(crate) struct Addresses {
    all: Mutex<Vec<SocketAddr>>,
}

impl Addresses {
    pub(crate) fn set(&self, all: impl IntoIterator<Item = SocketAddr>) {
        *self.all.lock().unwrap() = all.into_iter().collect();
    }

    fn any(&self, rng: &mut Rng) -> Option<SocketAddr> {
        rng.choice(&*self.all.lock().unwrap()).copied()
    }
}

/// The state that the senders of a test share.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) addresses: Addresses,
    /// The number of answers so far.
    pub(crate) answers: AtomicUsize,
    pub(crate) ends: AtomicBool,
}

/// A sender that sends each event after the answer to the previous one, to any receiver.
pub(crate) struct Sender {
    name: usize,
    rng: Rng,
    keys: usize,
    next: usize,
    /// The ids of the events that were answered with 200, in order.
    pub(crate) taken: Vec<String>,
    pub(crate) refused: usize,
    pub(crate) unanswered: usize,
}

impl Sender {
    /// Creates a sender whose events have this many ordering keys, which no other sender uses.
    pub(crate) fn new(name: usize, rng: Rng, keys: usize) -> Self {
        Self {
            name,
            rng,
            keys,
            next: 0,
            taken: Vec::new(),
            refused: 0,
            unanswered: 0,
        }
    }

    /// Sends events until the load ends, but at most `most`.
    pub(crate) fn send(&mut self, load: &Load, most: usize) {
        let mut client: Option<(SocketAddr, Client)> = None;
        let mut sent = None;
        while !load.ends.load(Ordering::Relaxed) {
            if sent.is_none() && self.next == most {
                return;
            }
            let (id, data) = sent.take().unwrap_or_else(|| self.new_event());
            // A sender keeps its connection for some events.
            if client.is_none() || self.rng.u8(..8) == 0 {
                let any = load.addresses.any(&mut self.rng);
                client = any.map(|addr| (addr, Client::new(addr)));
            }
            let Some((_, connection)) = &mut client else {
                sent = Some((id, data));
                thread::yield_now();
                continue;
            };
            match connection.post(&body(&id, &data)) {
                Ok(200) => {
                    self.taken.push(id);
                    load.answers.fetch_add(1, Ordering::Relaxed);
                }
                Ok(503) => {
                    self.refused += 1;
                    sent = Some((id, data));
                    client = None;
                    thread::sleep(Duration::from_millis(2));
                }
                Ok(status) => panic!("answered {status}"),
                Err(_) => {
                    self.unanswered += 1;
                    client = None;
                    thread::sleep(Duration::from_millis(2));
                    // The real sender doesn't retry an event that it got no answer to. A copy must be harmless.
                    if self.rng.bool() {
                        sent = Some((id, data));
                    }
                }
            }
        }
    }

    fn new_event(&mut self) -> (String, String) {
        let number = self.next;
        self.next += 1;
        let key = number % self.keys;
        let fails = self.rng.u8(..12).saturating_sub(10);
        let takes = self.rng.u8(..40).saturating_sub(35);
        let data = format!(
            r#"{{"key":"{}-{key}","fails":{fails},"takes":{takes}}}"#,
            self.name
        );
        (format!("{}-{key}-{number}", self.name), data)
    }
}

/// Checks that the handler of every event that was answered with 200 has succeeded, and that the handlers of each key
/// ran in the order of the answers. Returns the number of events whose handlers succeeded more than once.
pub(crate) fn check(journal: &[Line], senders: &[Sender]) -> usize {
    // The place of the first attempt, and the place of the first success.
    let (mut began, mut done) = (HashMap::new(), HashMap::new());
    let mut successes = HashMap::<&str, usize>::new();
    for (place, line) in journal.iter().enumerate() {
        began.entry(line.id.as_str()).or_insert(place);
        if line.done {
            done.entry(line.id.as_str()).or_insert(place);
            *successes.entry(&line.id).or_default() += 1;
        }
    }
    let mut ids = HashSet::new();
    for sender in senders {
        let mut last = HashMap::<&str, &str>::new();
        for id in &sender.taken {
            assert!(ids.insert(id), "{id} was accepted twice");
            assert!(
                done.contains_key(id.as_str()),
                "{id} was answered 200 and is lost"
            );
            let key = id.rsplit_once('-').unwrap().0;
            if let Some(before) = last.insert(key, id) {
                let (ended, begins) = (done[before], began[id.as_str()]);
                assert!(ended < begins, "{id} ran before {before} had ended");
            }
        }
    }
    successes.values().filter(|times| **times > 1).count()
}
