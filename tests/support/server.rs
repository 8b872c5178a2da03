//! A webhook server over an inbox in a file or in PostgreSQL, in a process that runs the test binary again. Also
//! contains its client.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};
use std::{env, thread};

use super::process::{Process, end_with_parent, own_binary};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::routing::get;
use botisimo_webhooks::{
    BoxFuture, DeliverySettings, Error, Event, EventRouter, Handle, HandlerError, Inbox,
    RetryPolicy, Runtime, SqliteInbox, TokioRuntime, WebhookLayer,
};
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

/// The time limit of a test that might hang.
pub(crate) const BOUND: Duration = Duration::from_secs(60);

const PATH: &str = "/webhooks/botisimo";

/// The behaviour of the handler, from the event's data. All members are optional.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    /// The number of attempts that fail before an attempt succeeds.
    fails: u32,
    /// The duration of an attempt, in milliseconds.
    takes: u64,
    /// Whether the attempt runs until the test requests `/release`.
    held: bool,
}

#[derive(Deserialize)]
struct Keyed {
    key: Option<String>,
}

/// Serves if this process was started as a server. The test `server` of each binary calls this function.
pub(crate) fn serve() {
    if let Some(inbox) = env::var_os("SERVER_INBOX") {
        run(run_on_file(PathBuf::from(inbox)));
    }
}

/// Runs a server until its parent process ends.
pub(crate) fn run(server: impl Future<Output = ()>) {
    end_with_parent();
    let logs = tracing_subscriber::fmt().with_writer(io::stderr);
    logs.with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(server);
}

/// Returns a router whose handler does what the event's data says, and writes each end of an attempt to the journal.
/// Events whose data asks for it hold their attempt until the semaphore has permits.
pub(crate) fn router() -> (EventRouter, Arc<Semaphore>) {
    let (journal, gate) = (journal(), Arc::new(Semaphore::new(0)));
    let held = Arc::clone(&gate);
    let router = EventRouter::new().on("account.updated", move |event: Event<Told>| async move {
        let told = event.data();
        if told.held {
            let _ = held.acquire().await;
        }
        tokio::time::sleep(Duration::from_millis(told.takes)).await;
        let (id, attempt) = (event.id(), event.attempt());
        let fails = attempt <= told.fails;
        let end = if fails { "failed" } else { "done" };
        // A single write, so that a kill leaves the whole line or nothing.
        let line = format!("{id} {attempt} {end}\n");
        (&*journal).write_all(line.as_bytes()).unwrap();
        if fails {
            return Err(HandlerError::from("the event asks for a failure"));
        }
        Ok(())
    });
    (router, gate)
}

/// Opens the journal of the servers.
fn journal() -> Arc<File> {
    let journal = env::var_os("SERVER_JOURNAL").unwrap();
    let journal = OpenOptions::new().create(true).append(true).open(journal);
    Arc::new(journal.unwrap())
}

/// Adds a route that runs once per key.
fn with_once_per(router: EventRouter) -> EventRouter {
    let journal = journal();
    let once = async move |event: Event<Told>| {
        tokio::time::sleep(Duration::from_millis(event.data().takes)).await;
        let line = format!("{} {} done\n", event.id(), event.attempt());
        (&*journal).write_all(line.as_bytes()).unwrap();
    };
    router
        .on_prefix("connection.stream.started", once)
        .named("once")
        .once_per(Duration::from_secs(60 * 60), key)
}

/// Returns how the servers run handlers.
pub(crate) fn delivery() -> DeliverySettings {
    DeliverySettings::new()
        .concurrency(8)
        .retry(RetryPolicy::new().initial_delay(Duration::from_millis(20)))
        .ordering_key(|event: &Event| match event.event_type().as_str() {
            "account.updated" => key(event),
            _ => None,
        })
}

fn key(event: &Event) -> Option<String> {
    event.decode::<Keyed>().ok()?.key
}

async fn run_on_file(inbox: PathBuf) {
    let (router, gate) = router();
    let runtime = OffsetClock {
        tokio: TokioRuntime::with_handle(tokio::runtime::Handle::current()),
        ahead: env::var("SERVER_CLOCK").map_or(0, |ahead| ahead.parse().unwrap()),
    };
    let opened = SqliteInbox::builder(&inbox)
        .delivery(delivery())
        // The test kills the process, so no event is a poison message.
        .max_crashes(u32::MAX)
        .keep_handled(Duration::from_secs(24 * 60 * 60))
        .open_with(runtime, with_once_per(router))
        .await;
    serve_inbox(opened, gate).await;
}

/// Serves until the process ends, or reports why the inbox didn't open.
pub(crate) async fn serve_inbox(opened: Result<impl Inbox, Error>, gate: Arc<Semaphore>) {
    let inbox = match opened {
        Ok(inbox) => inbox,
        Err(error) => {
            let below = std::error::Error::source(&error).map(ToString::to_string);
            println!("\nfailed {error}: {}", below.unwrap_or_default());
            return;
        }
    };
    let webhooks = WebhookLayer::new(PATH, inbox);
    let (handle, end) = (webhooks.handle(), Arc::new(Notify::new()));
    let app = app(&handle, gate, &end).layer(webhooks);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    if let (Ok(drain), Ok(close)) = (env::var("SERVER_DRAIN"), env::var("SERVER_CLOSE")) {
        let limit = |millis: String| Duration::from_millis(millis.parse().unwrap());
        let shutdown = handle
            .shutdown_on_signal()
            .drain_timeout(limit(drain))
            .close_timeout(limit(close));
        println!("\nlistening {}", listener.local_addr().unwrap());
        shutdown
            .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
            .await
            .unwrap();
        return;
    }
    println!("\nlistening {}", listener.local_addr().unwrap());
    let served = axum::serve(listener, app).with_graceful_shutdown(async move {
        end.notified().await;
    });
    served.await.unwrap();
}

/// A runtime on a machine whose clock is wrong.
struct OffsetClock {
    tokio: TokioRuntime,
    /// The difference from the correct time, in seconds.
    ahead: i64,
}

impl Runtime for OffsetClock {
    fn spawn(&self, task: BoxFuture<()>) {
        self.tokio.spawn(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<()> {
        self.tokio.sleep(duration)
    }

    fn now(&self) -> Instant {
        self.tokio.now()
    }

    fn system_time(&self) -> SystemTime {
        let ahead = Duration::from_secs(self.ahead.unsigned_abs());
        if self.ahead < 0 {
            self.tokio.system_time() - ahead
        } else {
            self.tokio.system_time() + ahead
        }
    }
}

fn app(handle: &Handle, gate: Arc<Semaphore>, end: &Arc<Notify>) -> Router {
    let (stats, health, wait_idle, drain) = (
        handle.clone(),
        handle.clone(),
        handle.clone(),
        handle.clone(),
    );
    let end = Arc::clone(end);
    Router::new()
        .route("/stats", get(async move || counts(&stats)))
        .route("/health", get(async move || health.health().to_string()))
        .route(
            "/wait_idle",
            get(async move || {
                wait_idle.wait_idle().await;
                counts(&wait_idle)
            }),
        )
        .route(
            "/release",
            get(async move || gate.add_permits(Semaphore::MAX_PERMITS / 2)),
        )
        .route(
            "/drain",
            get(async move || drain.drain(BOUND).await.remaining.to_string()),
        )
        .route("/end", get(async move || end.notify_one()))
        .route("/stream", get(endless))
        .route("/upgrade", get(upgrade))
}

/// Sends one event of a stream that never ends.
async fn endless() -> ([(header::HeaderName, &'static str); 1], Body) {
    let first = stream::once(async { io::Result::Ok(Bytes::from_static(b"data: 1\n\n")) });
    let body = Body::from_stream(first.chain(stream::pending()));
    ([(header::CONTENT_TYPE, "text/event-stream")], body)
}

/// Upgrades the connection, and holds it until the process ends.
async fn upgrade(request: Request) -> (StatusCode, [(header::HeaderName, &'static str); 2]) {
    tokio::spawn(async {
        let _held = hyper::upgrade::on(request).await.unwrap();
        std::future::pending::<()>().await;
    });
    let head = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "echo")];
    (StatusCode::SWITCHING_PROTOCOLS, head)
}

fn counts(handle: &Handle) -> String {
    let stats = handle.stats();
    let counts = [
        ("accepted", stats.accepted),
        ("recovered", stats.recovered),
        ("replayed", stats.replayed),
        ("handled", stats.handled),
        ("unhandled", stats.unhandled),
        ("dead", stats.dead),
        ("published", stats.published),
        ("waiting", stats.waiting),
        ("running", stats.running),
        ("retrying", stats.retrying),
        ("bytes", stats.bytes),
        ("duplicates", stats.duplicates),
    ];
    counts
        .iter()
        .fold(String::new(), |mut text, (name, count)| {
            let _ = write!(text, "{name} {count} ");
            text
        })
}

/// A folder with an inbox, the journal of its handlers, and the log of its servers.
pub(crate) struct ServerFolder {
    folder: TempDir,
    pub(crate) inbox: PathBuf,
    /// Another name of the inbox. If this name is set, servers open it.
    pub(crate) name: Option<PathBuf>,
    /// How far the servers' clocks are ahead, in seconds.
    pub(crate) ahead: i64,
    log: Arc<Mutex<String>>,
}

impl ServerFolder {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            inbox: folder.path().join("inbox.db"),
            folder,
            name: None,
            ahead: 0,
            log: Arc::default(),
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the path of the inbox with a suffix.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.inbox.clone().into_os_string();
        name.push(suffix);
        name.into()
    }

    /// Returns the log of all servers so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Waits until the servers have logged a string. The pipe may still hold the last line of a killed server.
    pub(crate) fn until_logged(&self, text: &str) {
        until(text, || self.log().contains(text));
    }

    pub(crate) fn journal(&self) -> Vec<Line> {
        Line::read_all(&self.folder().join("journal"))
    }

    /// Returns the ids of the events that are on disk. Reads copies of the files, because opening the files
    /// would recover them.
    pub(crate) fn pending(&self) -> Vec<String> {
        self.look(|inbox| texts(inbox, "SELECT message_id FROM pending ORDER BY id"))
    }

    /// Opens a copy of the inbox in the state that a killed server left, and passes it to `look`.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&rusqlite::Connection) -> T) -> T {
        let copies = tempfile::tempdir().unwrap();
        let copy = copies.path().join("inbox.db");
        for (from, to) in [
            (self.inbox.clone(), copy.clone()),
            (self.beside("-wal"), copies.path().join("inbox.db-wal")),
        ] {
            if from.exists() {
                fs::copy(from, to).unwrap();
            }
        }
        look(&rusqlite::Connection::open(copy).unwrap())
    }

    pub(crate) fn start(&self) -> Starting {
        self.start_by(Command::new(own_binary()))
    }

    /// Starts a server with a command that ends with the path of this binary.
    pub(crate) fn start_by(&self, mut command: Command) -> Starting {
        command
            .env("SERVER_INBOX", self.name.as_ref().unwrap_or(&self.inbox))
            .env("SERVER_CLOCK", self.ahead.to_string())
            .env("SERVER_JOURNAL", self.folder().join("journal"));
        Starting::new(command, &self.log)
    }

    pub(crate) fn serving(&self) -> Server {
        self.start().listening()
    }
}

/// Returns the first column of a query's rows.
pub(crate) fn texts(inbox: &rusqlite::Connection, query: &str) -> Vec<String> {
    let mut statement = inbox.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// A line of the journal: an attempt that has ended.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) attempt: u32,
    pub(crate) done: bool,
}

impl Line {
    /// Reads a journal. A journal that doesn't exist has no lines.
    pub(crate) fn read_all(journal: &Path) -> Vec<Self> {
        let journal = fs::read_to_string(journal).unwrap_or_default();
        journal.lines().map(Self::read).collect()
    }

    fn read(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        Self {
            id: word().to_owned(),
            attempt: word().parse().unwrap(),
            done: word() == "done",
        }
    }
}

/// A server that is starting, and possibly doesn't listen yet.
pub(crate) struct Starting {
    process: Process,
    /// The address, or why the server can't open its inbox.
    told: mpsc::Receiver<Result<SocketAddr, String>>,
}

impl Starting {
    /// Starts a server, and appends its log to a string.
    pub(crate) fn new(mut command: Command, log: &Arc<Mutex<String>>) -> Self {
        // Uses a pipe, because a file may become too large.
        command.stderr(Stdio::piped());
        let (tell, told) = mpsc::channel();
        let mut process = Process::start(command, "server", move |line| {
            if let Some(addr) = line.strip_prefix("listening ") {
                let _ = tell.send(Ok(addr.parse().unwrap()));
            } else if let Some(error) = line.strip_prefix("failed ") {
                let _ = tell.send(Err(error.to_owned()));
            }
        });
        let (logged, log) = (process.child.stderr.take().unwrap(), Arc::clone(log));
        thread::spawn(move || {
            for line in BufReader::new(logged).lines().map_while(Result::ok) {
                log.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        Self { process, told }
    }

    pub(crate) fn kill(mut self) {
        self.process.kill();
    }

    /// Waits until the server listens.
    pub(crate) fn listening(self) -> Server {
        match self.told() {
            Ok(server) => server,
            Err(error) => panic!("no server: {error}"),
        }
    }

    /// Waits until the server has failed to open its inbox, and returns the error.
    pub(crate) fn failing(self) -> String {
        match self.told() {
            Ok(_) => panic!("the server listens"),
            Err(error) => error,
        }
    }

    fn told(self) -> Result<Server, String> {
        let told = self.told.recv_timeout(BOUND);
        let addr = told.map_err(|error| error.to_string()).flatten()?;
        Ok(Server {
            process: self.process,
            addr,
        })
    }
}

/// A server that listens.
pub(crate) struct Server {
    process: Process,
    pub(crate) addr: SocketAddr,
}

impl Server {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: &str) {
        let (signal, pid) = (format!("-{signal}"), self.pid().to_string());
        let sent = Command::new("kill").args([signal, pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Stops the server, and waits until its process ends.
    pub(crate) fn end(mut self) {
        self.get("/end");
        self.process.wait(BOUND);
    }

    /// Waits until the process ends.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait(BOUND)
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.addr)
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let (status, text) = self.client().get(path).unwrap();
        assert_eq!(status, 200, "{path}");
        text
    }

    /// Returns the counts after checking law 2.
    #[track_caller]
    pub(crate) fn stats(&self) -> Stats {
        Stats::read(&self.get("/stats"))
    }

    /// Waits until no event is in flight.
    #[track_caller]
    pub(crate) fn wait_idle(&self) -> Stats {
        Stats::read(&self.get("/wait_idle"))
    }
}

pub(crate) struct Stats {
    counts: HashMap<String, u64>,
}

impl Stats {
    #[track_caller]
    fn read(text: &str) -> Self {
        let words: Vec<&str> = text.split_whitespace().collect();
        let pairs = words.chunks(2);
        let counts = pairs.map(|pair| (pair[0].to_owned(), pair[1].parse().unwrap()));
        let stats = Self {
            counts: counts.collect(),
        };
        let sum = |names: &[&str]| names.iter().map(|name| stats.of(name)).sum::<u64>();
        let came = sum(&["accepted", "recovered", "replayed"]);
        let ended = sum(&["handled", "unhandled", "dead", "published"]);
        let in_flight = sum(&["waiting", "running", "retrying"]);
        assert_eq!(came, ended + in_flight, "law 2: {text}");
        stats
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.counts[name]
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.of("waiting") + self.of("running") + self.of("retrying")
    }
}

/// A connection that carries one request after another.
pub(crate) struct Client {
    addr: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self { addr, stream: None }
    }

    /// Sends an event, and returns the status of the answer.
    ///
    /// # Errors
    ///
    /// Returns an error if the server has ended.
    ///
    /// # Panics
    ///
    /// Panics if the server doesn't answer in time.
    pub(crate) fn post(&mut self, body: &str) -> io::Result<u16> {
        let length = body.len();
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        self.request(&(head + body)).map(|(status, _)| status)
    }

    /// Sends an event repeatedly until the answer isn't 503.
    pub(crate) fn post_until_taken(&mut self, body: &str) {
        let until = Instant::now() + BOUND;
        loop {
            match self.post(body).unwrap() {
                200 => return,
                503 => assert!(Instant::now() < until, "the inbox no longer accepts events"),
                other => panic!("answered {other}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn get(&mut self, path: &str) -> io::Result<(u16, String)> {
        self.request(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"))
    }

    fn request(&mut self, request: &str) -> io::Result<(u16, String)> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.addr)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(BOUND))?;
                stream
            }
        };
        stream.write_all(request.as_bytes())?;
        let answer = read_answer(&mut stream)?;
        self.stream = Some(stream);
        Ok(answer)
    }
}

fn read_answer(stream: &mut TcpStream) -> io::Result<(u16, String)> {
    let (mut answer, mut buffer) = (String::new(), [0; 4096]);
    loop {
        if let Some((head, text)) = answer.split_once("\r\n\r\n") {
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            let length = head.lines().find_map(|line| {
                let length = line.strip_prefix("content-length: ")?;
                length.parse::<usize>().ok()
            });
            if text.len() >= length.unwrap_or(0) {
                return Ok((status, text.to_owned()));
            }
        }
        let read = match stream.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no answer"),
            read => read?,
        };
        answer.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
}

/// Returns the body of an event.
pub(crate) fn body(id: &str, data: &str) -> String {
    format!(
        r#"{{"messageId":"{id}","timestamp":1674489999154,"eventType":"account.updated","data":{data}}}"#
    )
}

/// Polls a condition until it holds.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + BOUND;
    while !is_so() {
        assert!(Instant::now() < until, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
