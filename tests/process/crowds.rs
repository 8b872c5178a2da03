//! Ten thousand idle connections, and more unfinished and endless bodies than the budget allows, over real
//! sockets.
//!
//! The server runs in its own process. The server's memory stays bounded, and the next valid event gets a 200.

use std::collections::BTreeMap;
use std::env;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::process::{Process, end_with_parent, own_binary};
use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, WebhookLayer};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The size limit of a body, and of all bodies together.
const LIMIT: usize = 1 << 20;
const ACK: Duration = Duration::from_secs(3);
/// The maximum delay of an answer on a busy machine.
const LATE: Duration = Duration::from_secs(60);
const CROWD: u64 = 10_000;

/// Raises the soft limit of open files, and returns how many connections that limit allows.
fn room() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let room = limit
        .maximum
        .map_or(CROWD, |files| files.saturating_sub(100));
    if room < CROWD {
        println!("{room} connections, because the limit of open files is lower");
    }
    room.min(CROWD)
}

#[test]
#[ignore = "other tests run this test in a child process"]
fn server() {
    if env::var_os("CROWD_SERVER").is_none() {
        return;
    }
    end_with_parent();
    room();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(serve());
}

async fn serve() {
    let webhooks = WebhookLayer::new("/", EventRouter::new().on_any(async |_: Event| {}))
        .response_timeout(ACK)
        .max_body_bytes(LIMIT)
        .max_body_bytes_in_flight(LIMIT)
        .endpoint();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("\nlistening {}", listener.local_addr().unwrap());
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let service = TowerToHyperService::new(webhooks.clone());
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new());
        let connection = server.serve_connection(TokioIo::new(socket), service);
        // An error means that the client has disconnected.
        tokio::spawn(connection);
    }
}

struct Server {
    process: Process,
    addr: SocketAddr,
}

impl Server {
    fn start() -> Self {
        let mut command = Command::new(own_binary());
        command.env("CROWD_SERVER", "yes");
        let (tell, told) = mpsc::channel();
        let process = Process::start(command, "crowds::server", move |line| {
            if let Some(addr) = line.strip_prefix("listening ") {
                tell.send(addr.parse().unwrap()).unwrap();
            }
        });
        let addr = told.recv_timeout(LATE).expect("the server listens");
        Self { process, addr }
    }

    /// Returns the peak of the server's memory in KiB.
    fn peak(&self) -> u64 {
        self.process.memory("VmHWM:").unwrap()
    }

    async fn crowd(&self, count: u64, text: &[u8]) -> Vec<TcpStream> {
        let mut crowd = Vec::new();
        for number in 1..=count {
            let mut client = TcpStream::connect(self.addr).await.unwrap();
            client.write_all(text).await.unwrap();
            crowd.push(client);
            // If the queue of the listener is full, the kernel delays a client by a second.
            if number % 64 == 0 {
                self.accept_all().await;
            }
        }
        crowd
    }

    /// Waits until the server has accepted all connections. The server accepts them in order.
    async fn accept_all(&self) {
        let mut client = TcpStream::connect(self.addr).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        assert_eq!(status(&mut client).await, Some(405));
    }

    /// Sends a valid event that needs the whole budget of bodies.
    async fn good(&self) {
        let event = MockRequest::event("a").padded(LIMIT).body_bytes();
        let mut request = head(&format!("content-length: {LIMIT}\r\nconnection: close\r\n"));
        request.extend(event);
        let start = Instant::now();
        loop {
            let mut client = TcpStream::connect(self.addr).await.unwrap();
            client.write_all(&request).await.unwrap();
            match status(&mut client).await {
                Some(200) => return,
                // The server releases the budget of the last client when it detects that the client has
                // disconnected.
                other => assert!(start.elapsed() < LATE, "answered {other:?}"),
            }
        }
    }
}

fn head(headers: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n").into_bytes()
}

/// Reads until the connection ends, and returns the status, if the server sent one.
async fn status(client: &mut TcpStream) -> Option<u16> {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LATE, client.read_to_end(&mut answer));
    let _ = read
        .await
        .expect("the server answers and closes the connection");
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?;
    Some(status.parse().unwrap())
}

#[tokio::test]
async fn idle_connections_take_a_few_kilobytes_each_and_delay_no_client() {
    let (room, server) = (room(), Server::start());
    server.good().await;
    let before = server.peak();
    let idle = server.crowd(room, b"").await;
    server.good().await;
    let each = (server.peak() - before) * 1024 / room;
    println!("{room} idle connections, {each} bytes each");
    assert!(each < 32 << 10, "{each}");
    drop(idle);
    server.good().await;
}

#[tokio::test]
async fn ten_thousand_unfinished_bodies_are_bounded_and_released_at_the_deadline() {
    /// The number of bytes that each client sends. A few clients are enough to fill the budget, so they fill it
    /// before their deadline.
    const SENT: usize = 4096;
    let (room, server) = (room(), Server::start());
    server.good().await;
    let before = server.peak();
    let mut text = head("content-length: 8000\r\n");
    text.extend([b' '; SENT]);
    let crowd = server.crowd(room, &text).await;
    let mut answers = BTreeMap::<_, u64>::new();
    for mut client in crowd {
        *answers.entry(status(&mut client).await).or_default() += 1;
    }
    server.good().await;
    let each = (server.peak() - before) * 1024 / room;
    println!("{room} unfinished bodies: {answers:?}, {each} bytes each");
    let known = |status: &Option<u16>| matches!(status, Some(408 | 503));
    assert!(answers.keys().all(known), "{answers:?}");
    assert!(answers.contains_key(&Some(408)), "{answers:?}");
    if room > 2 * (LIMIT / SENT) as u64 {
        assert!(answers.contains_key(&Some(503)), "{answers:?}");
    }
    // hyper keeps a read buffer of 8 KiB for each connection that has sent anything.
    assert!(each < 32 << 10, "{each}");
}

#[tokio::test]
async fn endless_chunked_bodies_are_answered_413_or_503_and_not_kept() {
    let server = Server::start();
    server.good().await;
    let before = server.peak();
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        let mut client = TcpStream::connect(server.addr).await.unwrap();
        clients.spawn(async move {
            let chunk = [b"4000\r\n", &[b' '; 0x4000][..], b"\r\n"].concat();
            let (mut read, mut write) = client.split();
            write
                .write_all(&head("transfer-encoding: chunked\r\n"))
                .await
                .unwrap();
            let endless = async {
                let mut sent = 0_u64;
                // Sends until the server closes the connection.
                while write.write_all(&chunk).await.is_ok() {
                    sent += chunk.len() as u64;
                }
                sent
            };
            let answer = async {
                let mut answer = [0; 12];
                let read = read.read_exact(&mut answer).await;
                read.expect("the answer comes before the connection ends");
                let answer = std::str::from_utf8(&answer).unwrap();
                answer[9..].parse::<u16>().unwrap()
            };
            tokio::time::timeout(LATE, async { tokio::join!(endless, answer) }).await
        });
    }
    let mut sent = 0;
    while let Some(client) = clients.join_next().await {
        let (bytes, status) = client.unwrap().expect("the server closes");
        assert!([413, 503].contains(&status), "{status}");
        sent += bytes;
    }
    server.good().await;
    let grown = server.peak() - before;
    println!(
        "{} KiB sent without end, {grown} KiB more in memory",
        sent / 1024
    );
    // All bodies together take 1 MiB, and each read buffer of hyper takes up to 400 KiB.
    assert!(grown < 32 << 10, "{grown} KiB");
}
