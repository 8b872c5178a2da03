//! A service in a child process, with faulty handlers, faulty clients, a full inbox and restarts. Law 2 of
//! ARCHITECTURE.md always holds, every event that was answered with 200 ends, and memory stays flat.
//!
//! `SOAK_SECONDS=1800 cargo test --test process -- --nocapture soak::` runs longer and prints its progress.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};
use std::{env, future, thread};

use crate::support::panics::panic_on_purpose;
use crate::support::process::{Process, end_with_parent, own_binary};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use botisimo_webhooks::{
    Attempt, DeliverySettings, Endpoint, Event, EventRouter, Handle, HandlerError, HandlerResult,
    MemoryInbox, RetryPolicy, SqliteInbox, Stats,
};
use tower::ServiceExt;

/// The time limit of a test that might hang.
const BOUND: Duration = Duration::from_secs(60);
const SENDERS: u32 = 6;
/// How much more memory the last third may take than the first third, in KiB.
const SLACK: u64 = 8 << 10;

/// A handler that fails, panics, hangs or succeeds, by event and attempt.
async fn misbehave(event: Event) -> HandlerResult {
    let mut hasher = DefaultHasher::new();
    (event.id(), event.attempt()).hash(&mut hasher);
    match hasher.finish() % 20 {
        0 => Err(HandlerError::from("failed")),
        1 => panic_on_purpose(),
        2 => {
            tokio::task::yield_now().await;
            panic_on_purpose()
        }
        3 => future::pending().await,
        4 => Err(HandlerError::permanent("failed")),
        5..10 => {
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Reports the end of an event to the test.
fn report(attempt: &Attempt) {
    if attempt.event_outcome().is_some() {
        say(&format!("end {}", attempt.event().id()));
    }
}

/// Prints a line with a single write.
fn say(line: &str) {
    let line = format!("{line}\n");
    io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

fn router() -> EventRouter {
    EventRouter::new().on("account.updated", misbehave)
}

fn retry() -> RetryPolicy {
    let base = Duration::from_millis(5);
    RetryPolicy::new().max_attempts(3).initial_delay(base)
}

#[derive(Clone)]
enum Door {
    Memory(Endpoint<MemoryInbox>),
    Sqlite(Endpoint<SqliteInbox>),
}

impl Door {
    /// The limits are low, so that the test reaches all of them soon.
    async fn open(file: Option<&str>) -> Self {
        let (timeout, running) = (Duration::from_millis(20), 8);
        if let Some(file) = file {
            let inbox = SqliteInbox::builder(file)
                .lock_timeout(BOUND)
                .delivery(
                    DeliverySettings::new()
                        .concurrency(running)
                        .attempt_timeout(timeout)
                        .retry(retry())
                        .on_attempt(report),
                )
                .max_events(60)
                .max_remembered_ids(1000)
                .max_dead_letters(100)
                .keep_handled(Duration::from_secs(1))
                .max_handled_events(50);
            return Self::Sqlite(Endpoint::new(inbox.open(router()).await.unwrap()));
        }
        let inbox = MemoryInbox::builder()
            .delivery(
                DeliverySettings::new()
                    .concurrency(running)
                    .attempt_timeout(timeout)
                    .retry(retry())
                    .on_attempt(report),
            )
            .max_events(60)
            .max_remembered_ids(1000)
            .max_dead_letters(100);
        Self::Memory(Endpoint::new(inbox.build(router())))
    }

    fn handle(&self) -> Handle {
        match self {
            Self::Memory(endpoint) => endpoint.handle(),
            Self::Sqlite(endpoint) => endpoint.handle(),
        }
    }

    async fn answer(self, request: Request) -> Response {
        match self {
            Self::Memory(endpoint) => endpoint.oneshot(request).await.unwrap().into_response(),
            Self::Sqlite(endpoint) => endpoint.oneshot(request).await.unwrap().into_response(),
        }
    }
}

/// The receiver of the process. `door` is `None` while one inbox closes and the next inbox opens.
struct Service {
    file: Option<String>,
    door: RwLock<Option<Door>>,
    /// The sums of the counts of the previous inboxes.
    before: Mutex<BTreeMap<&'static str, u64>>,
}

impl Service {
    fn door(&self) -> Option<Door> {
        self.door.read().unwrap().clone()
    }

    /// Checks law 2.
    fn stats(&self) -> Option<Stats> {
        let stats = self.door()?.handle().stats();
        let came = stats.accepted + stats.recovered + stats.replayed;
        let ended = stats.handled + stats.unhandled + stats.dead;
        if came != ended + stats.in_flight() {
            say(&format!("breach {stats:?}"));
        }
        Some(stats)
    }

    fn add(&self, stats: &Stats) {
        let mut before = self.before.lock().unwrap();
        for (name, count) in counts(stats) {
            *before.entry(name).or_default() += count;
        }
    }

    /// Drains the inbox, closes it, and opens the next inbox.
    async fn restart(&self) {
        let handle = self.door().unwrap().handle();
        let left = handle.drain(Duration::from_secs(20)).await.remaining;
        let stats = self.stats().unwrap();
        if left > 0 && self.file.is_none() {
            say(&format!("breach {left} left: {stats:?}"));
        }
        self.add(&stats);
        drop(handle);
        self.door.write().unwrap().take();
        let door = Door::open(self.file.as_deref()).await;
        *self.door.write().unwrap() = Some(door);
    }

    /// Replays some dead letters.
    async fn replay(&self) {
        let Some(letters) = self.door().unwrap().handle().dead_letters() else {
            return;
        };
        for letter in letters.list(None, 3).await.unwrap() {
            // If the inbox is full, it refuses the replay.
            if letters.replay(letter.id()).await.is_ok_and(|there| there) {
                say(&format!("replay {}", letter.message_id()));
            }
        }
    }
}

fn counts(stats: &Stats) -> [(&'static str, u64); 8] {
    [
        ("accepted", stats.accepted),
        ("recovered", stats.recovered),
        ("replayed", stats.replayed),
        ("handled", stats.handled),
        ("unhandled", stats.unhandled),
        ("dead", stats.dead),
        ("retried", stats.retried),
        ("duplicates", stats.duplicates),
    ]
}

#[test]
#[ignore = "other tests run this test in a child process"]
fn server() {
    let Some(file) = env::var_os("SOAK_INBOX") else {
        return;
    };
    let file = file.into_string().unwrap();
    end_with_parent();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(serve(file));
}

async fn serve(file: String) {
    let file = (!file.is_empty()).then_some(file);
    let door = Door::open(file.as_deref()).await;
    let service = Arc::new(Service {
        file,
        door: RwLock::new(Some(door)),
        before: Mutex::default(),
    });
    let watched = Arc::clone(&service);
    thread::spawn(move || {
        loop {
            watched.stats();
            thread::sleep(Duration::from_millis(5));
        }
    });
    let receive = async |State(service): State<Arc<Service>>, request: Request| {
        let Some(door) = service.door() else {
            // If the server doesn't read the body, the client may lose the answer.
            let _ = axum::body::to_bytes(request.into_body(), usize::MAX).await;
            return http::StatusCode::SERVICE_UNAVAILABLE.into_response();
        };
        door.answer(request).await
    };
    let app = axum::Router::new()
        .route("/events", post(receive))
        .route(
            "/restart",
            get(async |State(service): State<Arc<Service>>| service.restart().await),
        )
        .route(
            "/replay",
            get(async |State(service): State<Arc<Service>>| service.replay().await),
        )
        .route(
            "/wait_idle",
            get(async |State(service): State<Arc<Service>>| {
                service.door().unwrap().handle().wait_idle().await;
                let stats = service.stats().unwrap();
                let mut sums = service.before.lock().unwrap().clone();
                for (name, count) in counts(&stats) {
                    *sums.entry(name).or_default() += count;
                }
                say("wait_idle");
                let words = sums.iter().map(|(name, count)| format!("{name} {count}"));
                words.collect::<Vec<_>>().join(" ")
            }),
        )
        .with_state(service);
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.unwrap();
    say(&format!("\nlistening {}", listener.local_addr().unwrap()));
    axum::serve(listener, app).await.unwrap();
}

/// The answers and the outcomes of all events.
#[derive(Default)]
struct Known {
    fates: Vec<Fate>,
    statuses: BTreeMap<&'static str, BTreeMap<u16, u64>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Fate {
    /// Whether the event was answered with 200.
    taken: bool,
    /// Whether the client disconnected without reading an answer.
    left: bool,
    ends: u32,
    replays: u32,
}

impl Known {
    fn fate(&mut self, id: u64) -> &mut Fate {
        let id = usize::try_from(id).unwrap();
        if self.fates.len() <= id {
            self.fates.resize(id + 1, Fate::default());
        }
        &mut self.fates[id]
    }

    fn number(&mut self) -> u64 {
        self.fates.push(Fate::default());
        self.fates.len() as u64 - 1
    }

    fn answered(&mut self, kind: &'static str, status: u16) {
        *self
            .statuses
            .entry(kind)
            .or_default()
            .entry(status)
            .or_default() += 1;
    }
}

struct Server {
    process: Process,
    addr: SocketAddr,
    known: Arc<Mutex<Known>>,
    broken: Arc<Mutex<Option<String>>>,
    wait_idle: Arc<AtomicU32>,
}

impl Server {
    fn start(file: Option<&Path>) -> Self {
        let mut command = Command::new(own_binary());
        command.env("SOAK_INBOX", file.unwrap_or(Path::new("")));
        let known = Arc::<Mutex<Known>>::default();
        let broken = Arc::<Mutex<Option<String>>>::default();
        let wait_idle = Arc::<AtomicU32>::default();
        let (tell, told) = std::sync::mpsc::channel();
        let (known_to, broken_to, idle_to) = (
            Arc::clone(&known),
            Arc::clone(&broken),
            Arc::clone(&wait_idle),
        );
        let on_line = move |line: &str| match line.split_once(' ').unwrap_or((line, "")) {
            ("end", id) => known_to.lock().unwrap().fate(id.parse().unwrap()).ends += 1,
            ("replay", id) => known_to.lock().unwrap().fate(id.parse().unwrap()).replays += 1,
            ("listening", addr) => tell.send(addr.parse().unwrap()).unwrap(),
            ("breach", of) => *broken_to.lock().unwrap() = Some(of.to_owned()),
            ("wait_idle", _) => drop(idle_to.fetch_add(1, Ordering::SeqCst)),
            _ => {}
        };
        let process = Process::start(command, "soak::server", on_line);
        let addr = told.recv_timeout(BOUND).unwrap();
        Self {
            process,
            addr,
            known,
            broken,
            wait_idle,
        }
    }

    fn resident(&self) -> u64 {
        self.process.memory("VmRSS:").unwrap()
    }

    fn get(&self, path: &str) -> String {
        let mut client = Client::new(self.addr);
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
        let (status, text) = client.ask(request.as_bytes());
        assert_eq!(status, 200, "{path}: {text}");
        text
    }
}

/// A connection. If the server closes the connection after an answer, the client reconnects.
struct Client {
    addr: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None }
    }

    fn stream(&mut self) -> TcpStream {
        self.stream.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(self.addr).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(BOUND)).unwrap();
            stream
        })
    }

    fn ask(&mut self, request: &[u8]) -> (u16, String) {
        let mut stream = self.stream();
        stream.write_all(request).unwrap();
        let (mut answer, mut buffer) = (String::new(), [0; 4096]);
        loop {
            if let Some((head, text)) = answer.split_once("\r\n\r\n") {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if text.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                    if !head.contains("connection: close") {
                        self.stream = Some(stream);
                    }
                    return (status, text.to_owned());
                }
            }
            let read = stream.read(&mut buffer).expect("an answer");
            assert!(read > 0, "no answer: {answer}");
            answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }
}

fn request(id: u64, kind: &str, pad: usize) -> Vec<u8> {
    let pad = " ".repeat(pad);
    let body = format!(
        r#"{{"messageId":"{id}","timestamp":1674489999154,"eventType":"account.updated","data":{pad}1}}"#
    );
    let length = body.len();
    format!(
        "POST /events HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Sends events of all kinds until the test stops it.
fn send(addr: SocketAddr, known: &Mutex<Known>, stop: &AtomicBool) {
    let (mut client, mut rng) = (Client::new(addr), fastrand::Rng::new());
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        let pad = if rng.u8(..20) == 0 {
            60_000
        } else {
            rng.usize(..1000)
        };
        match rng.u8(..20) {
            0 => {
                let (status, _) = client.ask(&request(0, "text/plain", pad));
                known.lock().unwrap().answered("of another type", status);
            }
            1 => {
                let broken = b"POST /events HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{]";
                let (status, _) = client.ask(broken);
                known.lock().unwrap().answered("malformed", status);
            }
            2 | 3 => {
                let id = known.lock().unwrap().number();
                known.lock().unwrap().fate(id).left = true;
                let event = request(id, "application/json", pad);
                let cut = if rng.bool() {
                    event.len()
                } else {
                    rng.usize(..event.len())
                };
                let mut stream = client.stream();
                stream.write_all(&event[..cut]).unwrap();
                drop(stream);
                known.lock().unwrap().answered("left", 0);
            }
            4 if last.is_some() => {
                let (status, _) = client.ask(&request(last.unwrap(), "application/json", pad));
                known.lock().unwrap().answered("copy", status);
            }
            _ => {
                let id = known.lock().unwrap().number();
                let (status, _) = client.ask(&request(id, "application/json", pad));
                let mut known = known.lock().unwrap();
                known.answered("event", status);
                match status {
                    200 => {
                        known.fate(id).taken = true;
                        // After a restart, the inbox in memory may not know the id, so it accepts the copy as a
                        // new event.
                        last = Some(id).filter(|_| rng.bool());
                    }
                    503 => last = None,
                    other => panic!("answered {other}"),
                }
            }
        }
        // Bursts fill the inbox, and pauses let it drain.
        if rng.u8(..50) == 0 {
            thread::sleep(Duration::from_millis(rng.u64(..200)));
        }
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}

fn soak(name: &str, file: Option<&Path>) {
    let seconds = env::var("SOAK_SECONDS").map_or(4, |text| text.parse().unwrap());
    let server = Server::start(file);
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (0..SENDERS)
        .map(|_| {
            let (addr, known, stop) = (server.addr, Arc::clone(&server.known), Arc::clone(&stop));
            thread::spawn(move || send(addr, &known, &stop))
        })
        .collect();
    let (start, length) = (Instant::now(), Duration::from_secs(seconds));
    let (mut resident, mut restarts, mut told) = (Vec::new(), 0_u32, 0);
    let between = (length / 4).min(Duration::from_secs(10));
    while start.elapsed() < length {
        thread::sleep((length / 200).min(Duration::from_secs(1)));
        let broken = server.broken.lock().unwrap().clone();
        assert_eq!(broken, None, "law 2");
        assert!(
            !senders.iter().any(thread::JoinHandle::is_finished),
            "a sender failed"
        );
        resident.push(server.resident());
        if start.elapsed() > between * (restarts + 1) {
            server.get("/replay");
            server.get("/restart");
            restarts += 1;
        }
        if start.elapsed().as_secs() / 60 > told {
            told += 1;
            let (known, now) = (server.known.lock().unwrap(), server.resident());
            println!(
                "{name}, minute {told}: {} events, {:?}, {restarts} restarts, {now} KiB",
                known.fates.len(),
                known.statuses
            );
        }
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().unwrap();
    }
    let sums = server.get("/wait_idle");
    // The test has read all earlier lines by then.
    let until = Instant::now() + BOUND;
    while server.wait_idle.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < until, "the inbox isn't idle");
        thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(*server.broken.lock().unwrap(), None, "law 2");
    let known = server.known.lock().unwrap();
    if file.is_none() {
        let words: Vec<&str> = sums.split(' ').collect();
        let pairs = words.chunks(2);
        let of: BTreeMap<&str, u64> = pairs.map(|of| (of[0], of[1].parse().unwrap())).collect();
        let came = of["accepted"] + of["recovered"] + of["replayed"];
        assert_eq!(came, of["handled"] + of["unhandled"] + of["dead"], "{sums}");
    }
    // Skip the first tenth of the samples: the process is still warming up.
    let warm = &resident[resident.len() / 10..];
    let third = warm.len() / 3;
    let thirds = [&warm[..third], &warm[third..2 * third], &warm[2 * third..]].map(median);
    println!(
        "{name}, {seconds} s: {} events, {:?}, {sums}, {restarts} restarts, resident {thirds:?} KiB",
        known.fates.len(),
        known.statuses
    );
    let mut again = 0;
    for (id, fate) in known.fates.iter().enumerate() {
        assert!(
            !fate.taken || fate.ends > 0,
            "{name}: {id} is lost: {fate:?}"
        );
        let most = 1 + fate.replays;
        again += u32::from(fate.ends > most);
        assert!(
            fate.taken || fate.left || fate.ends == 0,
            "{name}: {id} was refused: {fate:?}"
        );
    }
    println!("{name}: {again} events ended more often than they were accepted and replayed");
    assert!(restarts > 0);
    assert!(
        thirds[2] <= thirds[0] + SLACK,
        "{name}: memory grows: {resident:?}"
    );
}

#[test]
fn in_memory_every_event_answered_200_ends_and_memory_stays_flat() {
    soak("memory", None);
}

#[test]
fn on_disk_every_event_answered_200_ends_and_memory_stays_flat() {
    let folder = tempfile::tempdir().unwrap();
    soak("disk", Some(&folder.path().join("inbox.db")));
}
