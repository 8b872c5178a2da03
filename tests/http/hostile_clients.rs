//! Hostile clients over real sockets. After each client, the receiver answers the next valid event with 200 in time,
//! the event runs, and the body budget is free.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{Event, EventRouter, Handle, WebhookLayer};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;

/// The limit for one body and for all bodies in flight. One valid event needs the whole budget.
const LIMIT: usize = 32 << 10;
const ACK: Duration = Duration::from_secs(1);
/// How long the server waits for a head. The layer sees a request only after its head has arrived.
const HEAD: Duration = Duration::from_secs(2);
/// The allowed delay of an answer on a busy machine.
const LATE: Duration = Duration::from_secs(5);

struct Server {
    addr: SocketAddr,
    handle: Handle,
    ran: UnboundedReceiver<String>,
    good: u32,
    _connections: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let (run, ran) = unbounded_channel();
        let router = EventRouter::new().on_any(move |event: Event| async move {
            run.send(event.id().to_owned()).unwrap();
        });
        let webhooks = WebhookLayer::new("/", router)
            .response_timeout(ACK)
            .max_body_bytes(LIMIT)
            .max_body_bytes_in_flight(LIMIT)
            .endpoint();
        let handle = webhooks.handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut server = auto::Builder::new(TokioExecutor::new());
            server
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD);
            server.http2().timer(TokioTimer::new());
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(webhooks.clone());
                let connection = server.serve_connection(TokioIo::new(socket), service);
                let connection = connection.into_owned();
                connections.spawn(async move {
                    // An error means that the client disconnected.
                    let _ = connection.await;
                });
            }
        });
        Self {
            addr,
            handle,
            ran,
            good: 0,
            _connections: connections,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends `text`, and reads until `answers` answers have arrived, the server closes the connection, or `for_long`
    /// has passed.
    async fn talk(&self, text: impl AsRef<[u8]>, answers: usize, for_long: Duration) -> String {
        let (mut read, mut write) = self.connect().await.into_split();
        let text = text.as_ref().to_vec();
        let write = tokio::spawn(async move {
            // The server may have closed the connection after its answer.
            let _ = write.write_all(&text).await;
            write
        });
        let mut got = Vec::new();
        let reading = async {
            while statuses(&got).len() < answers && read.read_buf(&mut got).await? > 0 {}
            std::io::Result::Ok(())
        };
        let _ = tokio::time::timeout(for_long, reading).await;
        write.abort();
        String::from_utf8_lossy(&got).into_owned()
    }

    /// Sends a valid event that needs the whole budget, waits until it has run, and returns the ids of all events that ran.
    #[track_caller]
    fn check(&mut self, after: &str) -> impl Future<Output = Vec<String>> {
        let after = after.to_owned();
        async move {
            self.good += 1;
            let id = format!("good {}", self.good);
            let start = Instant::now();
            // The server releases the last client's budget once it notices the disconnect.
            loop {
                let event = MockRequest::event("a").message_id(&id).padded(LIMIT);
                let request = post("connection: close\r\n", &event.body_bytes());
                let answer = self.talk(request, 2, LATE).await;
                if statuses(&answer) == [200] {
                    break;
                }
                assert!(start.elapsed() < LATE, "after {after}: {answer:?}");
            }
            self.handle.wait_idle().await;
            let mut ran = Vec::new();
            while let Ok(id) = self.ran.try_recv() {
                ran.push(id);
            }
            assert_eq!(ran.iter().filter(|each| **each == id).count(), 1, "{after}");
            ran
        }
    }
}

fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = format!("content-length: {}\r\n", body.len());
    framed(&format!("{length}{headers}"), body)
}

fn framed(headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST /webhooks/botisimo HTTP/1.1\r\nhost: a\r\n{headers}\r\n").into_bytes();
    request.extend(body);
    request
}

fn chunked(body: &[u8], size: usize, extension: &str) -> Vec<u8> {
    let mut chunks = Vec::new();
    for chunk in body.chunks(size) {
        chunks.extend(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    framed("transfer-encoding: chunked\r\n", &chunks)
}

fn statuses(answers: impl AsRef<[u8]>) -> Vec<u16> {
    let answers = String::from_utf8_lossy(answers.as_ref());
    let heads = answers.split("HTTP/1.1 ").skip(1);
    // An incomplete head doesn't count.
    let heads = heads.filter_map(|head| head.get(..3)?.parse().ok());
    heads.collect()
}

/// Returns an event with this JSON as its data. The id depends on the length of the data.
fn data(data: impl AsRef<str>) -> Vec<u8> {
    let (data, id) = (data.as_ref(), data.as_ref().len());
    let event =
        format!(r#"{{"messageId":"data {id}","timestamp":1,"eventType":"a","data":{data}}}"#);
    event.into_bytes()
}

fn body(id: &str) -> Vec<u8> {
    MockRequest::event("a").message_id(id).body_bytes().to_vec()
}

/// A name, the bytes to send, and the accepted lists of statuses. If a list is empty, the server may close the
/// connection without an answer.
type Case = (&'static str, Vec<u8>, &'static [&'static [u16]]);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_hostile_http_1_clients_other_clients_still_get_answers() {
    let mut server = Server::start().await;
    let own = body("own");
    let short = |lie: usize| framed(&format!("content-length: {}\r\n", own.len() + lie), &own);
    let many = |count: usize| {
        (0..count)
            .map(|i| format!("x-{i}: y\r\n"))
            .collect::<String>()
    };
    let endless = vec![b' '; 1 << 20];
    let padded = MockRequest::event("a").padded(LIMIT).body_bytes();
    let large = MockRequest::event("a").padded(LIMIT + 1).body_bytes();
    let cases: Vec<Case> = vec![
        ("half a head", b"POST / HTTP/1.1\r\nhost".to_vec(), &[&[]]),
        ("half a body", short(10), &[&[408]]),
        (
            "a body longer than declared",
            [post("", &own), b"GARBAGE\r\n\r\n".to_vec()].concat(),
            &[&[200, 400]],
        ),
        ("one byte in each chunk", chunked(&padded, 1, ""), &[&[200]]),
        (
            "extensions",
            chunked(&own, 1, &";a=b".repeat(50)),
            &[&[200], &[400]],
        ),
        (
            "a huge chunk extension",
            chunked(&own, 10, &";a".repeat(100_000)),
            &[&[400]],
        ),
        (
            "too large a body in small chunks",
            chunked(&endless, 10, ""),
            &[&[413]],
        ),
        ("too large a body in one piece", post("", &large), &[&[413]]),
        (
            "a chunk size that overflows",
            framed("transfer-encoding: chunked\r\n", b"fffffffffffffffff\r\n"),
            &[&[400]],
        ),
        (
            "the largest chunk size",
            framed("transfer-encoding: chunked\r\n", b"ffffffffffffffff\r\nab"),
            &[&[400], &[408], &[413]],
        ),
        (
            "gzip, chunked",
            framed(
                "transfer-encoding: gzip, chunked\r\n",
                b"2\r\nab\r\n0\r\n\r\n",
            ),
            &[&[400], &[415], &[501]],
        ),
        (
            "chunked, gzip",
            framed(
                "transfer-encoding: chunked, gzip\r\n",
                b"2\r\nab\r\n0\r\n\r\n",
            ),
            &[&[400], &[415]],
        ),
        (
            "two lengths",
            framed("content-length: 1\r\ncontent-length: 2\r\n", b"ab"),
            &[&[400]],
        ),
        (
            "both a length and chunks",
            post("transfer-encoding: chunked\r\n", b"2\r\nab\r\n0\r\n\r\n"),
            &[&[400]],
        ),
        (
            "a negative length",
            framed("content-length: -1\r\n", b"ab"),
            &[&[400]],
        ),
        (
            "a length that overflows",
            framed("content-length: 99999999999999999999\r\n", b""),
            &[&[400]],
        ),
        (
            "the largest length",
            framed("content-length: 18446744073709551610\r\n", b""),
            &[&[413], &[400]],
        ),
        (
            "two types",
            post(
                "content-type: application/json\r\ncontent-type: text/plain\r\n",
                &body("types"),
            ),
            &[&[200], &[415]],
        ),
        ("101 headers", post(&many(101), &own), &[&[431], &[400]]),
        (
            "a head of one megabyte",
            post(&format!("x: {}\r\n", "y".repeat(1 << 20)), &own),
            &[&[431]],
        ),
        (
            "deep nesting",
            post("", &data("[".repeat(10_000) + &"]".repeat(10_000))),
            &[&[200]],
        ),
        (
            "unclosed nesting",
            post("", &data("[".repeat(10_000))),
            &[&[400]],
        ),
        (
            "a huge number",
            post("", &data(format!("-{}e{0}", "9".repeat(5_000)))),
            &[&[200]],
        ),
        (
            "an unpaired surrogate in data",
            post("", &data(r#""\ud800""#)),
            &[&[200]],
        ),
        (
            "an unpaired surrogate in an id",
            post(
                "",
                br#"{"messageId":"\udc00","timestamp":1,"eventType":"a"}"#,
            ),
            &[&[400]],
        ),
        (
            "no UTF-8",
            post(
                "",
                b"{\"messageId\":\"\xff\",\"timestamp\":1,\"eventType\":\"a\"}",
            ),
            &[&[400]],
        ),
        (
            "a byte order mark",
            post("", &["\u{feff}".as_bytes(), &own].concat()),
            &[&[200]],
        ),
        (
            "a client that expects a 100",
            post("expect: 100-continue\r\n", &body("expects")),
            &[&[100, 200]],
        ),
        ("nothing", Vec::new(), &[&[]]),
        ("no HTTP", vec![0; 100], &[&[400]]),
    ];
    for (name, request, allowed) in cases {
        let answers = allowed[0].len();
        let for_long = if answers == 0 { ACK } else { LATE };
        let answer = server.talk(request, answers, for_long).await;
        let got = statuses(&answer);
        assert!(allowed.contains(&&got[..]), "{name}: {answer:?}");
        server.check(name).await;
    }
    // The answers arrive in order, with a 200 for every valid event.
    let pipeline = [
        post("", &body("p1")),
        framed("content-length: 2\r\n", b"{}"),
        post("content-type: text/plain\r\n", &body("no")),
        chunked(&body("p2"), 7, ""),
        post("content-encoding: gzip\r\n", &body("no")),
        post("", &large),
        post("", &body("p3")),
        post("connection: close\r\n", &body("p4")),
    ];
    let answer = server.talk(pipeline.concat(), 9, LATE).await;
    assert_eq!(statuses(&answer), [200, 400, 415, 200, 415, 413, 200, 200]);
    let ran = server.check("pipelining").await;
    for id in ["p1", "p2", "p3", "p4"] {
        assert!(ran.iter().any(|each| each == id), "{id}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_timer_closes_a_connection_whose_head_never_ends() {
    let mut server = Server::start().await;
    let (mut read, mut write) = server.connect().await.into_split();
    let writing = tokio::spawn(async move {
        write.write_all(b"POST / HTTP/1.1\r\n").await?;
        for i in 0.. {
            write.write_all(format!("x-{i}: y\r\n").as_bytes()).await?;
            tokio::time::sleep(HEAD / 20).await;
        }
        std::io::Result::Ok(())
    });
    let mut answer = Vec::new();
    let reading = async { while read.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(LATE, reading).await.expect("an end");
    assert!(writing.await.unwrap().is_err(), "the connection is closed");
    server.check("an endless head").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_chunked_body_is_answered_in_time() {
    let mut server = Server::start().await;
    let (mut read, mut write) = server.connect().await.into_split();
    let head = framed("transfer-encoding: chunked\r\n", b"");
    let writing = tokio::spawn(async move {
        write.write_all(&head).await?;
        for _ in 0.. {
            write.write_all(b"1\r\n \r\n").await?;
            tokio::time::sleep(ACK / 100).await;
        }
        std::io::Result::Ok(())
    });
    let mut answer = Vec::new();
    let reading = async { while read.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {} };
    tokio::time::timeout(LATE, reading).await.expect("an end");
    assert_eq!(statuses(&answer), [408]);
    assert!(writing.await.unwrap().is_err(), "the connection is closed");
    server.check("an endless body").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_http_1_clients_that_disconnect_or_stall_other_clients_still_get_answers() {
    let mut server = Server::start().await;
    let event = MockRequest::event("a").padded(LIMIT).body_bytes();
    let request = post("", &event);
    for cut in [
        1,
        30,
        100,
        request.len() / 2,
        request.len() - 1,
        request.len(),
    ] {
        for reset in [true, false] {
            let mut clients = Vec::new();
            for _ in 0..20 {
                let mut client = server.connect().await;
                client.write_all(&request[..cut]).await.unwrap();
                if reset {
                    client.set_zero_linger().unwrap();
                } else {
                    client.shutdown().await.unwrap();
                    clients.push(client);
                }
            }
            server.check(&format!("{cut} bytes, reset: {reset}")).await;
        }
    }
    // Endless bodies hold the budget no longer than their deadline.
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut client = server.connect().await;
        client
            .write_all(&request[..request.len() - 1])
            .await
            .unwrap();
        slow.push(client);
    }
    server.check("slow bodies").await;
    for mut client in slow {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(LATE, client.read_to_end(&mut answer)).await;
        read.expect("an answer").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            [vec![408], vec![503]].contains(&statuses(&answer)),
            "{answer:?}"
        );
    }
    let mut idle = Vec::new();
    for _ in 0..300 {
        idle.push(server.connect().await);
    }
    server.check("idle connections").await;
}

mod http_2 {
    use super::*;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// Returns the connection preface with a window of `window` bytes for each answer.
    fn hello(window: u32) -> Vec<u8> {
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut setting = 4_u16.to_be_bytes().to_vec();
        setting.extend(window.to_be_bytes());
        hello.extend(frame(SETTINGS, 0, 0, &setting));
        hello.extend(frame(SETTINGS, 1, 0, &[]));
        hello
    }

    fn head(stream: u32, flags: u8) -> Vec<u8> {
        let mut head = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "a"),
        ] {
            // A literal header field without indexing: RFC 7541, 6.2.2.
            head.push(0);
            for text in [name, value] {
                head.push(u8::try_from(text.len()).unwrap());
                head.extend(text.as_bytes());
            }
        }
        frame(HEADERS, END_HEADERS | flags, stream, &head)
    }

    fn streams(count: u32) -> impl Iterator<Item = u32> {
        (0..count).map(|i| 2 * i + 1)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_hostile_http_2_clients_other_clients_still_get_answers() {
        answer_after_hostile_clients(65_535).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn after_hostile_http_2_clients_with_a_window_of_0_other_clients_still_get_answers() {
        answer_after_hostile_clients(0).await;
    }

    async fn answer_after_hostile_clients(window: u32) {
        let mut server = Server::start().await;
        let part = vec![b' '; 10_000];
        let reset = 8_u32.to_be_bytes();
        let cases: Vec<(&str, Vec<Vec<u8>>)> = vec![
            (
                "stalled streams",
                streams(150).map(|s| head(s, 0)).collect(),
            ),
            (
                "stalled bodies",
                streams(6)
                    .flat_map(|s| [head(s, 0), frame(DATA, 0, s, &part)])
                    .collect(),
            ),
            (
                "resets after the head",
                streams(150)
                    .flat_map(|s| [head(s, 0), frame(RST_STREAM, 0, s, &reset)])
                    .collect(),
            ),
            (
                "resets in the middle of the body",
                streams(6)
                    .flat_map(|s| {
                        [
                            head(s, 0),
                            frame(DATA, 0, s, &part),
                            frame(RST_STREAM, 0, s, &reset),
                        ]
                    })
                    .collect(),
            ),
            (
                "resets after the end",
                streams(150)
                    .flat_map(|s| {
                        [
                            head(s, 0),
                            frame(DATA, END_STREAM, s, &body("own")),
                            frame(RST_STREAM, 0, s, &reset),
                        ]
                    })
                    .collect(),
            ),
            (
                "empty frames",
                std::iter::once(head(1, 0))
                    .chain((0..5000).map(|_| frame(DATA, 0, 1, &[])))
                    .collect(),
            ),
            (
                "small frames",
                std::iter::once(head(1, 0))
                    .chain((0..5000).map(|_| frame(DATA, 0, 1, b" ")))
                    .collect(),
            ),
            (
                "a body without a head",
                vec![frame(DATA, END_STREAM, 1, &part)],
            ),
        ];
        for (name, frames) in &cases {
            let text = [hello(window), frames.concat()].concat();
            let mut client = server.connect().await;
            let _ = client.write_all(&text).await;
            server.check(&format!("{name}, window {window}")).await;
            drop(client);
            server.talk(&text, 1, ACK / 2).await;
            server
                .check(&format!("{name}, window {window}, left"))
                .await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_window_of_0_delays_no_status() {
        let server = Server::start().await;
        let frames = streams(3).flat_map(|s| {
            let data = [body("1"), b"{}".to_vec(), vec![b' '; 10_000]][s as usize / 2].clone();
            [
                head(s, 0),
                frame(DATA, if s < 5 { END_STREAM } else { 0 }, s, &data),
            ]
        });
        let text = [hello(0), frames.collect::<Vec<_>>().concat()].concat();
        let mut client = server.connect().await;
        client.write_all(&text).await.unwrap();
        let (mut heads, mut all) = (0, Vec::new());
        let read = async {
            while heads < 3 {
                let mut head = [0; 9];
                client.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let mut payload = vec![0; length];
                client.read_exact(&mut payload).await.unwrap();
                if head[3] == HEADERS {
                    heads += 1;
                    all.push(payload[0]);
                }
            }
        };
        tokio::time::timeout(LATE, read).await.expect("all heads");
        // The indexes of 200 and 400 in RFC 7541, appendix A. 408 is a literal.
        all.sort_unstable();
        assert_eq!((all[1], all[2]), (0x88, 0x8c), "{all:x?}");
    }
}
