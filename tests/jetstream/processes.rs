//! Receivers, workers and servers in separate processes. The tests kill some of them. A receiver or a worker
//! is this binary, started to run only the test `role`.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};
use std::{env, fs, process};

use crate::support::nats::{Server, TIMEOUT, free_port, until};
use crate::support::process::{Process, own_binary};
use async_nats::jetstream::{self, Context};
use axum::Router;
use axum::routing::get;
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    DeliverySettings, Event, EventRouter, JetStreamInbox, JetStreamWorker, RetryPolicy,
    StreamSettings, WebhookLayer,
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;

/// The time after which the server delivers the event of a dead worker to another worker.
const ACK_WAIT: Duration = Duration::from_secs(2);

/// The maximum number of bytes that a receiver holds while the server is down.
const IN_FLIGHT: usize = 4 << 20;

/// The variable that names the role of this process and the arguments of the role.
const ROLE: &str = "JETSTREAM_ROLE";

/// The tests load the machine, so they run one after another.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
#[ignore = "other tests run this test in a child process"]
async fn role() {
    let Ok(role) = env::var(ROLE) else {
        return;
    };
    let words: Vec<&str> = role.split(' ').collect();
    match *words.as_slice() {
        ["receive", url, replicas] => receive(url, replicas.parse().unwrap()).await,
        ["work", url, log, replicas, places, millis] => {
            let millis = Duration::from_millis(millis.parse().unwrap());
            let numbers = (replicas.parse().unwrap(), places.parse().unwrap());
            work(url, Path::new(log), numbers, millis).await;
        }
        _ => panic!("there is no such role: {role}"),
    }
}

fn settings(replicas: usize) -> StreamSettings {
    StreamSettings::new().replicas(replicas).create_if_missing()
}

/// Runs a receiver.
async fn receive(url: &str, replicas: usize) {
    let context = context(url).await;
    let inbox = JetStreamInbox::builder(context)
        .stream(settings(replicas))
        .max_bytes_in_flight(IN_FLIGHT)
        .open();
    let webhooks = WebhookLayer::new("/webhooks/botisimo", inbox.await.unwrap());
    let handle = webhooks.handle();
    let bytes = move || {
        let handle = handle.clone();
        async move { handle.stats().bytes.to_string() }
    };
    let app = Router::new().route("/bytes", get(bytes)).layer(webhooks);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nready {}", listener.local_addr().unwrap());
    tokio::select! {
        served = axum::serve(listener, app) => served.unwrap(),
        () = told_to_end() => {}
    }
}

/// Runs a worker that writes the start and the end of each handler to a file.
async fn work(url: &str, log: &Path, (replicas, places): (usize, usize), takes: Duration) {
    let log = fs::File::options().append(true).open(log).unwrap();
    let log = Arc::new(log);
    let router = EventRouter::new().on_any(move |event: Event| async move {
        note(&log, "begin", &event);
        tokio::time::sleep(takes).await;
        note(&log, "end", &event);
    });
    let worker = JetStreamWorker::builder(context(url).await, "group")
        .stream(settings(replicas))
        .delivery(
            DeliverySettings::new()
                .concurrency(places)
                .retry(RetryPolicy::new().max_attempts(100)),
        )
        .ack_wait(ACK_WAIT)
        .start(router)
        .await
        .unwrap();
    println!("\nready");
    told_to_end().await;
    let _ = worker.drain(TIMEOUT).await;
}

/// Writes a line with a single write, so a kill leaves the whole line or nothing.
fn note(mut log: &fs::File, what: &str, event: &Event) {
    let (id, attempt, process) = (event.id(), event.attempt(), process::id());
    let line = format!("{what} {id} {attempt} {process}\n");
    log.write_all(line.as_bytes()).unwrap();
}

/// Waits until standard input ends, which happens when the parent process exits.
async fn told_to_end() {
    let read = || std::io::stdin().lines().for_each(drop);
    tokio::task::spawn_blocking(read).await.unwrap();
}

async fn context(url: &str) -> Context {
    jetstream::new(crate::support::nats::connect(url).await)
}

/// A receiver or a worker.
struct Role {
    process: Process,
    said: String,
}

impl Role {
    /// Starts a process, and waits until it is ready.
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(own_binary());
        command.env(ROLE, arguments.join(" "));
        let (tell, told) = mpsc::channel();
        let process = Process::start(command, "processes::role", move |line| {
            if let Some(said) = line.strip_prefix("ready") {
                tell.send(said.trim().to_owned()).unwrap();
            }
        });
        let said = told.recv_timeout(TIMEOUT);
        let said = said.unwrap_or_else(|_| panic!("{arguments:?} doesn't start"));
        Self { process, said }
    }

    fn receiver(url: &str, replicas: usize) -> Self {
        Self::start(&["receive", url, &replicas.to_string()])
    }

    fn worker(url: &str, log: &Log, (replicas, places): (usize, usize), millis: u64) -> Self {
        let numbers = [replicas.to_string(), places.to_string(), millis.to_string()];
        let path = log.path.to_str().unwrap();
        Self::start(&["work", url, path, &numbers[0], &numbers[1], &numbers[2]])
    }

    fn kill(mut self) {
        self.process.kill();
    }

    /// Returns the memory of the process in bytes.
    fn memory(&self) -> Option<u64> {
        Some(self.process.memory("VmRSS:")? * 1024)
    }
}

/// The file in which the workers of a test record their runs.
struct Log {
    path: PathBuf,
    _directory: TempDir,
}

/// A line of the log.
struct Line {
    what: String,
    id: String,
    attempt: u32,
    process: u32,
}

impl Log {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "").unwrap();
        Self {
            path,
            _directory: directory,
        }
    }

    fn lines(&self) -> Vec<Line> {
        let text = fs::read_to_string(&self.path).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| {
            let mut words = line.split(' ');
            let mut word = || words.next().unwrap().to_owned();
            Line {
                what: word(),
                id: word(),
                attempt: word().parse().unwrap(),
                process: word().parse().unwrap(),
            }
        };
        whole.lines().map(line).collect()
    }

    fn ended(&self) -> HashSet<String> {
        let lines = self.lines().into_iter();
        lines
            .filter(|line| line.what == "end")
            .map(|line| line.id)
            .collect()
    }

    /// Returns the largest number of handlers that ran at once, and the number of processes in which they ran.
    fn spread(&self) -> (usize, usize) {
        let (mut running, mut most, mut processes) = (0_usize, 0, HashSet::new());
        for line in self.lines() {
            processes.insert(line.process);
            match &*line.what {
                "begin" => running += 1,
                _ => running -= 1,
            }
            most = most.max(running);
        }
        (most, processes.len())
    }
}

/// Sends webhooks to receivers.
#[derive(Clone)]
struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Sender {
    fn new() -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn send(&self, receiver: &str, id: &str, bytes: usize) -> u16 {
        let request = MockRequest::event("account.updated")
            .message_id(id)
            .padded(bytes)
            .path(format!("http://{receiver}/webhooks/botisimo"));
        let answer = self.client.request(request.build()).await.unwrap();
        answer.status().as_u16()
    }

    async fn bytes(&self, receiver: &str) -> usize {
        let uri = format!("http://{receiver}/bytes").parse().unwrap();
        let answer = self.client.get(uri).await.unwrap();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        std::str::from_utf8(&text).unwrap().parse().unwrap()
    }
}

/// Sends events one after another, from several tasks, until the test stops them.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<HashMap<u16, u64>>>,
    accepted: Arc<Mutex<HashSet<String>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(sender: &Sender, receivers: &[&str], tasks: usize, bytes: usize) -> Self {
        static ID: AtomicU64 = AtomicU64::new(0);
        let mut load = Self {
            stop: Arc::default(),
            answers: Arc::default(),
            accepted: Arc::default(),
            tasks: Vec::new(),
        };
        for i in 0..tasks {
            let receiver = receivers[i % receivers.len()].to_owned();
            let (sender, stop) = (sender.clone(), Arc::clone(&load.stop));
            let (answers, accepted) = (Arc::clone(&load.answers), Arc::clone(&load.accepted));
            load.tasks.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let id = format!("load-{}", ID.fetch_add(1, Ordering::Relaxed));
                    // Sends an event again after a 5xx, as the sender does.
                    for _ in 0..3 {
                        let status = sender.send(&receiver, &id, bytes).await;
                        *answers.lock().unwrap().entry(status).or_default() += 1;
                        if status == 200 {
                            accepted.lock().unwrap().insert(id);
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }));
        }
        load
    }

    fn count(&self, status: u16) -> u64 {
        let answers = self.answers.lock().unwrap();
        answers.get(&status).copied().unwrap_or_default()
    }

    async fn stop(self) -> HashSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        std::mem::take(&mut *self.accepted.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_runs_the_events_of_a_killed_worker() {
    let _one = ONE_AT_A_TIME.lock().await;
    let server = Server::start().await;
    let (url, log, sender) = (server.url(), Log::new(), Sender::new());
    let receiver = Role::receiver(&url, 1);
    let start = || Role::worker(&url, &log, (1, 8), 500);
    let workers = [start(), start()];
    for i in 0..16 {
        assert_eq!(sender.send(&receiver.said, &i.to_string(), 0).await, 200);
    }
    until("both workers are running events", async || {
        let begun = log.lines();
        workers.iter().all(|worker| {
            begun
                .iter()
                .any(|line| line.process == worker.process.pid())
        })
    })
    .await;
    let [killed, _other] = workers;
    let killed_id = killed.process.pid();
    killed.kill();
    let begun = Instant::now();
    let lines = log.lines();
    let of_killed = |what: &'static str| {
        let of = |line: &&Line| line.what == what && line.process == killed_id;
        lines
            .iter()
            .filter(of)
            .map(|line| line.id.clone())
            .collect::<HashSet<_>>()
    };
    let lost: Vec<_> = of_killed("begin")
        .difference(&of_killed("end"))
        .cloned()
        .collect();
    assert!(!lost.is_empty());
    until("all events have ended", async || log.ended().len() == 16).await;
    println!(
        "  {} events of a killed worker ended {:?} after the kill, with an ack_wait of {ACK_WAIT:?}",
        lost.len(),
        begun.elapsed()
    );
    for id in lost {
        let again = log
            .lines()
            .into_iter()
            .find(|line| line.what == "end" && line.id == id);
        let again = again.unwrap();
        assert_ne!(again.process, killed_id);
        assert_eq!(again.attempt, 2, "the delivery to the killed worker counts");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_under_load_causes_503_and_loses_no_event() {
    let _one = ONE_AT_A_TIME.lock().await;
    let mut server = Server::start().await;
    let (url, log, sender) = (server.url(), Log::new(), Sender::new());
    let receiver = Role::receiver(&url, 1);
    let _worker = Role::worker(&url, &log, (1, 64), 0);
    let load = Load::start(&sender, &[&receiver.said], 16, 32 << 10);
    until("the receiver accepts events", async || {
        load.count(200) >= 300
    })
    .await;
    let before = receiver.memory();
    server.kill();
    let (refused, mut most) = (load.count(503), 0);
    until("the receiver refuses a hundred megabytes", async || {
        most = most.max(sender.bytes(&receiver.said).await);
        load.count(503) >= refused + 3200
    })
    .await;
    let meanwhile = receiver.memory();
    server.restart().await;
    let taken = load.count(200);
    until("the receiver accepts events again", async || {
        load.count(200) >= taken + 300
    })
    .await;
    println!("  answers: {:?}", load.answers.lock().unwrap());
    println!("  bytes in flight: at most {most}, of {IN_FLIGHT}");
    assert!(most <= IN_FLIGHT);
    if let (Some(before), Some(meanwhile)) = (before, meanwhile) {
        println!(
            "  memory: {} MiB before, {} MiB while the server was down",
            before >> 20,
            meanwhile >> 20
        );
        // The memory also contains the buffers of the allocator and of the connections.
        assert!(meanwhile < before + (48 << 20), "{before} {meanwhile}");
    }
    assert!(
        !load
            .answers
            .lock()
            .unwrap()
            .keys()
            .any(|status| ![200, 503].contains(status))
    );
    let accepted = load.stop().await;
    until("all events have been handled", async || {
        accepted.is_subset(&log.ended())
    })
    .await;
    println!("  {} events answered 200, all handled", accepted.len());
}

/// Starts three servers that form a cluster.
async fn cluster() -> Vec<Server> {
    let ports: Vec<_> = (0..3).map(|_| (free_port(), free_port())).collect();
    let mut routes = String::new();
    for (_, port) in &ports {
        write!(routes, "\"nats://127.0.0.1:{port}\", ").unwrap();
    }
    let mut servers = Vec::new();
    for (i, (port, cluster)) in ports.iter().enumerate() {
        let more = format!(
            "server_name: s{i}\ncluster {{ name: c, listen: \"127.0.0.1:{cluster}\", routes: [{routes}] }}"
        );
        let mut server = Server::prepare(*port, &more);
        server.spawn();
        servers.push(server);
    }
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_killed_under_load_loses_no_event() {
    let _one = ONE_AT_A_TIME.lock().await;
    const ROUNDS: usize = 5;
    let mut servers = cluster().await;
    let urls: Vec<_> = servers.iter().map(Server::url).collect();
    let url = urls.join(",");
    until("the cluster has a stream", async || {
        let Ok(client) = async_nats::connect(url.as_str().split(',').collect::<Vec<_>>()).await
        else {
            return false;
        };
        let inbox = JetStreamInbox::builder(jetstream::new(client)).stream(settings(3));
        inbox.open().await.is_ok()
    })
    .await;
    let (log, sender) = (Log::new(), Sender::new());
    let receivers = [Role::receiver(&url, 3), Role::receiver(&url, 3)];
    let start = || Role::worker(&url, &log, (3, 32), 1);
    let _workers = [start(), start()];
    let context = context(&url).await;
    let (mut answered, mut handled) = (0, 0);
    for round in 1..=ROUNDS {
        let names: Vec<_> = receivers
            .iter()
            .map(|receiver| receiver.said.as_str())
            .collect();
        let load = Load::start(&sender, &names, 16, 0);
        until("the receivers accept events", async || {
            load.count(200) >= 300
        })
        .await;
        let mut leader = None;
        until("the stream has a leader", async || {
            leader = leader_of(&context).await;
            leader.is_some()
        })
        .await;
        let leader = leader.unwrap();
        servers[leader].kill();
        let taken = load.count(200);
        until(
            "the receivers accept events without the killed server",
            async || load.count(200) >= taken + 300,
        )
        .await;
        let answers = load.answers.lock().unwrap().clone();
        let accepted = load.stop().await;
        servers[leader].restart().await;
        until("all events have been handled", async || {
            accepted.is_subset(&log.ended())
        })
        .await;
        until("all three servers have the same messages", async || {
            are_in_step(&context).await
        })
        .await;
        answered += accepted.len();
        handled += accepted.intersection(&log.ended()).count();
        println!(
            "  round {round}: s{leader} killed, answers {answers:?}, {} handled",
            accepted.len()
        );
    }
    let ran = log.lines().iter().filter(|line| line.what == "end").count();
    println!("  {ROUNDS} rounds: {answered} answered 200, {handled} handled, in {ran} runs");
    assert_eq!(answered, handled);
}

/// Returns the index of the server that leads the stream.
async fn leader_of(context: &Context) -> Option<usize> {
    let info = context
        .get_stream("BOTISIMO")
        .await
        .ok()?
        .cached_info()
        .clone();
    let leader = info.cluster?.leader?;
    leader.strip_prefix('s')?.parse().ok()
}

async fn are_in_step(context: &Context) -> bool {
    let Ok(stream) = context.get_stream("BOTISIMO").await else {
        return false;
    };
    let cluster = stream.cached_info().cluster.clone();
    cluster.is_some_and(|cluster| {
        cluster.leader.is_some()
            && cluster
                .replicas
                .iter()
                .all(|one| one.current && !one.offline)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn more_workers_handle_more_events() {
    let _one = ONE_AT_A_TIME.lock().await;
    const EVENTS: usize = 1200;
    let server = Server::start().await;
    let url = server.url();
    let receivers = [Role::receiver(&url, 1), Role::receiver(&url, 1)];
    let sender = Sender::new();
    for count in [1, 2, 4] {
        let log = Log::new();
        let workers: Vec<_> = (0..count)
            .map(|_| Role::worker(&url, &log, (1, 2), 10))
            .collect();
        let begun = Instant::now();
        let sending = (0..16).map(|task| {
            let (sender, receiver) = (&sender, &receivers[task % 2].said);
            async move {
                for i in (task..EVENTS).step_by(16) {
                    let id = format!("{count}-{i}");
                    assert_eq!(sender.send(receiver, &id, 0).await, 200);
                }
            }
        });
        futures_util::future::join_all(sending).await;
        let sent = begun.elapsed();
        // A worker of the previous round may have been killed before the server knew that the worker's last
        // event had ended.
        let own = format!("{count}-");
        until("all events have been handled", async || {
            let ended = log.ended();
            ended.iter().filter(|id| id.starts_with(&own)).count() == EVENTS
        })
        .await;
        let rate = EVENTS as f64 / begun.elapsed().as_secs_f64();
        println!(
            "  {count} workers with a concurrency of 2, 10 ms per event: {rate:.0} events/s ({EVENTS} sent in {sent:.1?})"
        );
        // No worker runs more events than its concurrency allows, and each worker runs some events.
        let (most, processes) = log.spread();
        assert!(most <= 2 * count, "{most} ran at once");
        assert!(count == 1 || most > 2, "{most} ran at once");
        assert_eq!(processes, count);
        drop(workers);
    }
}
