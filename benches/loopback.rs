//! Requests per second and CPU time per request over loopback, of servers that do the same job, side
//! by side in one run: `cargo bench --bench loopback`.
//!
//! Each server is a process on a core of its own, and so is the load, where the machine has two cores
//! and `taskset`: so the thread that writes to the disk shares the core of the one that serves.
//! `-- SECONDS CONNECTIONS…` sets how long each is measured and with how many connections; with `free`
//! before that the servers may use all cores, of which the load has one too.

mod common;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, fs, process, thread};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use botisimo_webhooks::{EventRouter, SqliteInbox};
use bytes::Bytes;
use common::{Envelope, Home, PATH, Ran, by_hand, event, ours, router};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

type Fault = Box<dyn Error + Send + Sync>;

/// The size of an event's body, in bytes.
const SIZE: usize = 600;

/// The servers: name, what it is, and the path that is asked for.
const SERVERS: [(&str, &str, &str); 7] = [
    ("bare", "hyper, which reads the body and answers 200", PATH),
    ("memory", "this crate, in memory", PATH),
    ("axum", "by hand on axum: decode, match, spawn", PATH),
    ("sqlite", "this crate, on disk", PATH),
    (
        "commit",
        "by hand on axum: one insert and commit a request",
        PATH,
    ),
    ("home", "GET /, without the layer", "/"),
    ("through", "GET /, through the layer", "/"),
];

fn main() -> Result<(), Fault> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["server", name, folder] => server(name, Path::new(folder)),
        ["load", address, path, connections, millis] => load(
            address.parse()?,
            path,
            connections.parse()?,
            Duration::from_millis(millis.parse()?),
        ),
        ["free", arguments @ .., "--bench"] => bench(None, arguments),
        [arguments @ .., "--bench"] => bench(Some(0), arguments),
        // As a test: each server once, for a moment.
        _ => compare(Some(0), Duration::from_millis(200), &[4]),
    }
}

/// `core` is that of the servers, unless they may use all.
fn bench(core: Option<usize>, arguments: &[&str]) -> Result<(), Fault> {
    let [seconds, connections @ ..] = arguments else {
        return compare(core, Duration::from_secs(4), &[32, 64, 256]);
    };
    let connections: Result<Vec<usize>, _> = connections.iter().map(|n| n.parse()).collect();
    compare(
        core,
        Duration::from_secs_f64(seconds.parse()?),
        &connections?,
    )
}

/// Measures every server with each number of connections, and prints one table.
fn compare(core: Option<usize>, time: Duration, connections: &[usize]) -> Result<(), Fault> {
    println!("{}", machine());
    println!("fsync of 4 KiB: {:.0} µs\n", fsync()?.as_secs_f64() * 1e6);
    for &connections in connections {
        println!("{connections} connections, {} s each", time.as_secs_f64());
        println!(
            "{:<8} {:>10} {:>12} {:>8}",
            "", "requests/s", "CPU µs each", "ratio"
        );
        let mut first = None;
        for (name, what, path) in SERVERS {
            let measured = measure(core, name, path, connections, time)?;
            let base = *first.get_or_insert(measured.per_second);
            println!(
                "{name:<8} {:>10.0} {:>12.2} {:>8.3}  {what}",
                measured.per_second,
                measured.cpu.as_secs_f64() * 1e6,
                measured.per_second / base,
            );
            if name == "commit" {
                // The rest is another job.
                first = None;
            }
        }
        println!();
    }
    Ok(())
}

struct Measured {
    per_second: f64,
    /// The server's, per request.
    cpu: Duration,
}

fn measure(
    core: Option<usize>,
    name: &str,
    path: &str,
    connections: usize,
    time: Duration,
) -> Result<Measured, Fault> {
    let folder = Folder::new(name)?;
    let mut server = spawn(core, &["server", name, folder.path()])?;
    let stdout = server.0.stdout.take().ok_or("no output")?;
    let mut address = String::new();
    BufReader::new(stdout).read_line(&mut address)?;
    let address = address.trim();
    let pid = server.0.id();
    let millis = |time: Duration| time.as_millis().to_string();
    let run = |time: Duration| -> Result<(u64, Duration), Fault> {
        let connections = connections.to_string();
        let mut load = spawn(
            Some(1),
            &["load", address, path, &connections, &millis(time)],
        )?;
        let mut said = String::new();
        let stdout = load.0.stdout.take().ok_or("no output")?;
        BufReader::new(stdout).read_line(&mut said)?;
        if !load.0.wait()?.success() {
            return Err(format!("the load on {name} failed").into());
        }
        let (count, nanos) = said.trim().split_once(' ').ok_or("no count")?;
        Ok((count.parse()?, Duration::from_nanos(nanos.parse()?)))
    };
    run(time / 4)?;
    let before = cpu(pid)?;
    let (count, took) = run(time)?;
    let spent = cpu(pid)?.saturating_sub(before);
    Ok(Measured {
        per_second: count as f64 / took.as_secs_f64(),
        cpu: spent / u32::try_from(count.max(1))?,
    })
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts this program again, on a core of its own if it isn't to use all.
fn spawn(core: Option<usize>, arguments: &[&str]) -> Result<Running, Fault> {
    let program = env::current_exe()?;
    let cores = thread::available_parallelism()?.get();
    let pinned = Command::new("taskset")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    let core = core.filter(|_| cores > 1 && pinned.is_ok_and(|status| status.success()));
    let mut command = match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
        None => Command::new(program),
    };
    let child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    Ok(Running(child))
}

/// The time that a process has run on a core.
fn cpu(pid: u32) -> Result<Duration, Fault> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let schedstat = fs::read_to_string(task?.path().join("schedstat"))?;
        let ran = schedstat.split_whitespace().next().ok_or("no time")?;
        nanos += ran.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("an unknown processor", |model| {
        model.trim_start_matches([' ', '\t', ':'])
    });
    let cores = thread::available_parallelism().map_or(1, usize::from);
    format!("{cores} cores of {model}")
}

/// The median time that the disk takes to write and sync one page.
fn fsync() -> Result<Duration, Fault> {
    let folder = Folder::new("fsync")?;
    let mut file = fs::File::create(folder.0.join("file"))?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let since = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(since.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

/// A folder on the disk that the program is on, and not in memory as a temporary one may be.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self, Fault> {
        let beside = env::current_exe()?;
        let folder = beside.with_file_name(format!("loopback-{}-{name}", process::id()));
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// The servers.

fn server(name: &str, folder: &Path) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", listener.local_addr()?);
        // Ends with the benchmark, whatever becomes of that.
        thread::spawn(|| {
            let _ = std::io::stdin().read_line(&mut String::new());
            #[allow(clippy::exit)] // no state to lose
            process::exit(0);
        });
        let ran = Ran::default();
        match name {
            "bare" => serve(listener, service_fn(bare)).await,
            "memory" => serve(listener, hyper(ours(router(&ran)))).await,
            "axum" => serve(listener, hyper(by_hand(&ran))).await,
            "sqlite" => {
                let inbox = SqliteInbox::open(folder.join("inbox.db"), router(&ran)).await?;
                serve(listener, hyper(ours(inbox))).await
            }
            "commit" => serve(listener, hyper(commit(&ran, folder)?)).await,
            "home" => serve(listener, hyper(Home)).await,
            "through" => serve(listener, hyper(ours(EventRouter::new()))).await,
            other => Err(format!("no server {other}").into()),
        }
    })
}

async fn bare(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok(Response::default())
}

/// Returns a service of tower as one of hyper.
fn hyper<S>(service: S) -> TowerToHyperService<S> {
    TowerToHyperService::new(service)
}

/// The same server for all of them.
async fn serve<S, B>(listener: TcpListener, service: S) -> Result<(), Fault>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<Fault>, Future: Send>
        + Clone
        + Send
        + 'static,
    B: Body<Data: Send, Error: Into<Fault>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let service = service.clone();
        tokio::spawn(async move {
            let http = http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// What it takes by hand not to lose an event: a table with a unique id, and a commit before the 200.
fn commit(ran: &Ran, folder: &Path) -> Result<Router, Fault> {
    type Shared = (Arc<Mutex<rusqlite::Connection>>, Ran);

    async fn receive(
        State((database, ran)): State<Shared>,
        Json(envelope): Json<Envelope>,
    ) -> StatusCode {
        let written = tokio::task::spawn_blocking(move || {
            let database = database.lock().expect("nobody panics under the lock");
            let data = envelope.data.to_string();
            let sql = "INSERT OR IGNORE INTO events (id, type, data) VALUES (?1, ?2, ?3)";
            database.execute(sql, (envelope.message_id, &envelope.event_type, data))?;
            Ok::<_, rusqlite::Error>(envelope.event_type)
        });
        match written.await {
            Ok(Ok(event_type)) if event_type.starts_with("connection.stream.started") => {
                tokio::spawn(async move { ran.one() });
                StatusCode::OK
            }
            Ok(Ok(_)) => StatusCode::OK,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
    let database = rusqlite::Connection::open(folder.join("events.db"))?;
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE events (id TEXT PRIMARY KEY, type TEXT, data TEXT);",
    )?;
    let shared: Shared = (Arc::new(Mutex::new(database)), ran.clone());
    Ok(Router::new().route(PATH, post(receive)).with_state(shared))
}

// The load.

/// Sends requests over connections, each as soon as the one before is answered, and prints how many
/// were answered 200 in which time.
#[tokio::main(flavor = "current_thread")]
async fn load(
    address: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
) -> Result<(), Fault> {
    let (count, over) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let since = Instant::now();
    let clients = (0..connections).map(|_| {
        let (count, over) = (Arc::clone(&count), Arc::clone(&over));
        tokio::spawn(client(address, path.to_owned(), count, over))
    });
    let clients: Vec<_> = clients.collect();
    tokio::time::sleep(time).await;
    println!(
        "{} {}",
        count.load(Ordering::Relaxed),
        since.elapsed().as_nanos()
    );
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    Ok(())
}

async fn client(
    address: SocketAddr,
    path: String,
    count: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) -> Result<(), Fault> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut request, id) = template(&path);
    let mut answer = vec![0; 4096];
    // Ids of no other connection or run: the upper half is drawn at random.
    let mut number = u64::from(fastrand::u32(..)) << 24;
    while !over.load(Ordering::Relaxed) {
        if let Some(place) = id {
            number += 1;
            request[place..place + 16].copy_from_slice(format!("{number:016x}").as_bytes());
        }
        stream.write_all(&request).await?;
        let read = stream.read(&mut answer).await?;
        // Every server here answers in one piece.
        if !answer[..read].starts_with(b"HTTP/1.1 200") {
            let said = String::from_utf8_lossy(&answer[..read]).into_owned();
            return Err(format!("not answered 200: {said}").into());
        }
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A request, and where in it an id of 16 digits stands.
fn template(path: &str) -> (Vec<u8>, Option<usize>) {
    if path == "/" {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        return (request.into_bytes(), None);
    }
    let body = event(0, SIZE).replace("-000000000000", "-0000000000000000");
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let place = body
        .find("-0000000000000000")
        .map(|place| head.len() + place + 1);
    (format!("{head}{body}").into_bytes(), place)
}
