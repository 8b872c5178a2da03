//! Verifies what the layer's docs say about the outer server, hyper or axum.

use std::io;
use std::time::Duration;

use botisimo_webhooks::{Endpoint, Event, EventRouter, MemoryInbox};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;

const HOUR: Duration = Duration::from_secs(3600);
const START: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\n";

fn endpoint() -> Endpoint<MemoryInbox> {
    Endpoint::new(EventRouter::new().on_any(async |_: Event| {}))
}

fn served(server: &http1::Builder) -> DuplexStream {
    let (client, socket) = duplex(1 << 20);
    let service = TowerToHyperService::new(endpoint());
    tokio::spawn(server.serve_connection(TokioIo::new(socket), service));
    client
}

/// Sends the rest of a request with a slow head, and returns the answer.
async fn finish(mut client: DuplexStream, headers: &str) -> String {
    let rest = format!("{headers}content-length: 2\r\nconnection: close\r\n\r\n{{}}");
    // The write fails if the server has closed the connection.
    let _ = client.write_all(rest.as_bytes()).await;
    let mut answer = String::new();
    let _ = client.read_to_string(&mut answer).await;
    answer
}

#[tokio::test(start_paused = true)]
async fn hyper_with_a_timer_closes_a_connection_whose_head_takes_more_than_30_s() {
    for (takes, status) in [(29, "HTTP/1.1 400"), (31, "")] {
        let mut client = served(http1::Builder::new().timer(TokioTimer::new()));
        client.write_all(START).await.unwrap();
        tokio::time::sleep(Duration::from_secs(takes)).await;
        let answer = finish(client, "").await;
        assert_eq!(answer.get(..12).unwrap_or_default(), status, "{takes} s");
    }
}

#[tokio::test(start_paused = true)]
async fn hyper_without_a_timer_waits_for_a_head_without_limit() {
    let mut client = served(&http1::Builder::new());
    client.write_all(START).await.unwrap();
    tokio::time::sleep(HOUR).await;
    let answer = finish(client, "").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
}

struct Listener(mpsc::Receiver<DuplexStream>);

impl axum::serve::Listener for Listener {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(socket) => (socket, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn axum_serve_waits_for_a_head_without_limit() {
    let (connect, connections) = mpsc::channel(1);
    let app = axum::Router::new().route_service("/", endpoint());
    tokio::spawn(axum::serve(Listener(connections), app).into_future());
    let (mut client, socket) = duplex(1 << 20);
    connect.send(socket).await.unwrap();
    client.write_all(START).await.unwrap();
    tokio::time::sleep(HOUR).await;
    let answer = finish(client, "").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer:?}");
}

#[tokio::test]
async fn hyper_answers_431_to_too_many_headers() {
    let headers = |count: usize| {
        (0..count)
            .map(|i| format!("x-{i}: y\r\n"))
            .collect::<String>()
    };
    // The headers `host`, `content-length` and `connection` count towards the limit too.
    for (most, count, status) in [
        (None, 97, "400"),
        (None, 98, "431"),
        (Some(20), 17, "400"),
        (Some(20), 18, "431"),
    ] {
        let mut server = http1::Builder::new();
        if let Some(most) = most {
            server.max_headers(most);
        }
        let mut client = served(&server);
        client.write_all(START).await.unwrap();
        let answer = finish(client, &headers(count)).await;
        assert_eq!(answer.get(9..12), Some(status), "{most:?}, {count}");
    }
}
