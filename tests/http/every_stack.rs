//! Runs one suite of checks over real sockets on every supported stack.
//!
//! The module `checks` defines each check once. The module `stacks` defines each stack once. The macro at the end
//! runs each check on each stack. Checks of HTTP/1.1 framing write raw bytes.

use std::convert::Infallible;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, Accepted, Event, EventRouter, Handle, Inbox, MemoryInbox, Runtime, SharedSecret,
    WebhookLayer,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Channel, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tower::{Layer, Service, service_fn};

use crate::support::malformed::Malformed;

const PATH: &str = "/webhooks/botisimo";
const LIMIT: usize = 32 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Returns a webhook with the right secret.
fn webhook() -> MockRequest {
    MockRequest::event("connection.stream.started").query("token", "s3cret")
}

/// Returns a webhook without the secret. The receiver answers this webhook before reading the body.
fn stranger() -> MockRequest {
    MockRequest::event("connection.stream.started")
}

/// A server that receives webhooks, and the channels through which the test observes it.
struct Stack {
    addr: SocketAddr,
    version: Version,
    handle: Handle,
    signals: UnboundedReceiver<Signal>,
    ran: UnboundedReceiver<String>,
    mood: watch::Sender<Mood>,
    /// Stops the server when the test ends.
    _server: JoinSet<()>,
}

/// The stages of a request that the server signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    /// The request's head has arrived.
    Began,
    /// The inbox has stored the request's event.
    Owned,
    /// The request's future has completed or was dropped.
    Ended,
}

/// The behaviour of the inbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    /// The inbox stores the event and answers.
    Answers,
    /// The inbox stores the event and answers late.
    Waits,
    /// The inbox panics.
    Panics,
}

/// The parts from which a stack is built.
struct Parts {
    webhooks: WebhookLayer<Moody>,
    signals: UnboundedSender<Signal>,
}

impl Stack {
    /// Starts a server. `serve` receives the parts and the socket, and runs until it is dropped.
    async fn start<F, Fut>(version: Version, serve: F) -> Self
    where
        F: FnOnce(Parts, TcpListener) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (signal, signals) = unbounded_channel();
        let (run, ran) = unbounded_channel();
        let (mood, moods) = watch::channel(Mood::Answers);
        let router = EventRouter::new().on_prefix("connection", move |event: Event| async move {
            run.send(event.id().to_owned())?;
            Ok::<_, BoxError>(())
        });
        let inbox = Moody {
            inner: MemoryInbox::new(router),
            signals: signal.clone(),
            moods,
        };
        let webhooks = WebhookLayer::new(PATH, inbox)
            .verify(SharedSecret::in_query("token", "s3cret"))
            .max_body_bytes(LIMIT);
        let handle = webhooks.handle();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let parts = Parts {
            webhooks,
            signals: signal,
        };
        let mut server = JoinSet::new();
        server.spawn(serve(parts, listener));
        Self {
            addr,
            version,
            handle,
            signals,
            ran,
            mood,
            _server: server,
        }
    }

    /// Waits for a signal and discards all others.
    async fn until(&mut self, signal: Signal) {
        while self.signals.recv().await.expect("the server runs") != signal {}
    }

    /// Waits until the inbox is idle, and returns the ids of the events that ran.
    async fn ran(&mut self) -> Vec<String> {
        self.handle.wait_idle().await;
        let mut ran = Vec::new();
        while let Ok(id) = self.ran.try_recv() {
            ran.push(id);
        }
        ran
    }

    async fn connect(&self) -> Client {
        Client::connect(self.addr, self.version).await
    }

    async fn connect_raw(&self) -> BufReader<TcpStream> {
        assert_eq!(self.version, Version::HTTP_11);
        BufReader::new(TcpStream::connect(self.addr).await.unwrap())
    }
}

#[derive(Clone)]
struct Moody {
    inner: MemoryInbox,
    signals: UnboundedSender<Signal>,
    moods: watch::Receiver<Mood>,
}

impl Inbox for Moody {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        assert_ne!(*self.moods.borrow(), Mood::Panics, "on purpose");
        let accept = self.inner.accept(event);
        let (signals, mut moods) = (self.signals.clone(), self.moods.clone());
        async move {
            let accepted = accept.await;
            let _ = signals.send(Signal::Owned);
            let _ = moods.wait_for(|mood| *mood == Mood::Answers).await;
            accepted
        }
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.inner.runtime()
    }

    fn handle(&self) -> Handle {
        self.inner.handle()
    }
}

/// Signals when a request arrives and when its future is dropped.
#[derive(Clone)]
struct Watched<S> {
    inner: S,
    signals: UnboundedSender<Signal>,
}

fn watched<S>(signals: UnboundedSender<Signal>) -> impl Layer<S, Service = Watched<S>> + Clone {
    tower::layer::layer_fn(move |inner| Watched {
        inner,
        signals: signals.clone(),
    })
}

impl<S, B> Service<Request<B>> for Watched<S>
where
    S: Service<Request<B>, Future: Send + 'static>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        struct Ending(UnboundedSender<Signal>);

        impl Drop for Ending {
            fn drop(&mut self) {
                let _ = self.0.send(Signal::Ended);
            }
        }

        let _ = self.signals.send(Signal::Began);
        let ending = Ending(self.signals.clone());
        let future = self.inner.call(request);
        Box::pin(async move {
            let response = future.await;
            drop(ending);
            response
        })
    }
}

/// The inner service: a page, and an echo that ends with trailers.
async fn site<B>(
    request: Request<B>,
) -> Result<Response<UnsyncBoxBody<Bytes, BoxError>>, Infallible>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    if request.uri().path() == "/" {
        let body = Full::from("home").map_err(|never| match never {});
        return Ok(Response::new(body.boxed_unsync()));
    }
    let trailers = HeaderMap::from_iter([(
        header::HeaderName::from_static("x-end"),
        HeaderValue::from_static("reached"),
    )]);
    let body = request.into_body().map_err(Into::into);
    let body = body.with_trailers(async { Some(Ok(trailers)) });
    let mut response = Response::new(body.boxed_unsync());
    let names = HeaderValue::from_static("x-end");
    response.headers_mut().insert(header::TRAILER, names);
    Ok(response)
}

mod stacks {
    use axum::Router;
    use axum::body::Body;
    use hyper_util::service::TowerToHyperService;
    use tonic::service::Routes;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;

    use super::*;

    fn axum_site() -> Router {
        Router::new()
            .route_service("/", service_fn(site::<Body>))
            .route_service("/echo", service_fn(site::<Body>))
    }

    async fn serve_axum(router: Router, listener: TcpListener) {
        axum::serve(listener, router).await.unwrap();
    }

    pub(super) async fn axum_layer() -> Stack {
        Stack::start(Version::HTTP_11, |parts, listener| {
            let app = axum_site().layer(parts.webhooks);
            serve_axum(app.layer(watched(parts.signals)), listener)
        })
        .await
    }

    pub(super) async fn axum_endpoint() -> Stack {
        Stack::start(Version::HTTP_11, |parts, listener| {
            let app = axum_site().route_service(PATH, parts.webhooks.endpoint());
            serve_axum(app.layer(watched(parts.signals)), listener)
        })
        .await
    }

    pub(super) async fn axum_nested_endpoint() -> Stack {
        Stack::start(Version::HTTP_11, |parts, listener| {
            let nested = Router::new().route_service("/botisimo", parts.webhooks.endpoint());
            let app = axum_site().nest("/webhooks", nested);
            serve_axum(app.layer(watched(parts.signals)), listener)
        })
        .await
    }

    async fn serve_hyper(parts: Parts, listener: TcpListener, version: Version) {
        let service = parts.webhooks.layer(service_fn(site::<Incoming>));
        let service = watched(parts.signals).layer(service);
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (socket, service) = (TokioIo::new(socket), service.clone());
            let service = TowerToHyperService::new(service);
            connections.spawn(async move {
                // An error means that the client disconnected.
                if version == Version::HTTP_2 {
                    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(socket, service).await;
                } else {
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(socket, service).await;
                }
            });
        }
    }

    pub(super) async fn hyper_http1() -> Stack {
        let version = Version::HTTP_11;
        Stack::start(version, |parts, listener| {
            serve_hyper(parts, listener, version)
        })
        .await
    }

    pub(super) async fn hyper_http2() -> Stack {
        let version = Version::HTTP_2;
        Stack::start(version, |parts, listener| {
            serve_hyper(parts, listener, version)
        })
        .await
    }

    async fn serve_tonic(parts: Parts, listener: TcpListener) {
        let (_, health) = tonic_health::server::health_reporter();
        Server::builder()
            .accept_http1(true)
            .layer(watched(parts.signals))
            .layer(parts.webhooks)
            .add_routes(Routes::from(axum_site()).add_service(health))
            .serve_with_incoming(TcpIncoming::from(listener))
            .await
            .unwrap();
    }

    pub(super) async fn tonic_http1() -> Stack {
        Stack::start(Version::HTTP_11, serve_tonic).await
    }

    pub(super) async fn tonic_http2() -> Stack {
        Stack::start(Version::HTTP_2, serve_tonic).await
    }
}

/// A connection of either HTTP version.
struct Client {
    addr: SocketAddr,
    sender: Sender,
    /// Closes the socket when the client is dropped.
    _connection: JoinSet<()>,
}

type ClientBody = UnsyncBoxBody<Bytes, Infallible>;

enum Sender {
    Http1(hyper::client::conn::http1::SendRequest<ClientBody>),
    Http2(hyper::client::conn::http2::SendRequest<ClientBody>),
}

impl Client {
    async fn connect(addr: SocketAddr, version: Version) -> Self {
        let socket = TokioIo::new(TcpStream::connect(addr).await.unwrap());
        let mut tasks = JoinSet::new();
        let sender = if version == Version::HTTP_2 {
            let http = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            let (sender, connection) = http.handshake(socket).await.unwrap();
            tasks.spawn(async move { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let http = hyper::client::conn::http1::Builder::new();
            let (sender, connection) = http.handshake(socket).await.unwrap();
            tasks.spawn(async move { drop(connection.await) });
            Sender::Http1(sender)
        };
        Self {
            addr,
            sender,
            _connection: tasks,
        }
    }

    /// Sends a request and returns the head of the answer.
    async fn start<B>(&mut self, request: Request<B>) -> Response<Incoming>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let mut request = request.map(BodyExt::boxed_unsync);
        match &mut self.sender {
            Sender::Http1(sender) => {
                let host = HeaderValue::try_from(self.addr.to_string()).unwrap();
                request.headers_mut().insert(header::HOST, host);
                sender.ready().await.expect("the connection is open");
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                let uri = format!("http://{}{}", self.addr, request.uri());
                *request.uri_mut() = uri.parse().unwrap();
                sender.ready().await.expect("the connection is open");
                sender.send_request(request).await
            }
        }
        .expect("an answer")
    }

    /// Sends a request and returns the whole answer.
    async fn send<B>(&mut self, request: Request<B>) -> Response<Bytes>
    where
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let (head, body) = self.start(request).await.into_parts();
        let body = body.collect().await.expect("the whole answer");
        Response::from_parts(head, body.to_bytes())
    }

    async fn deliver(&mut self, request: &MockRequest) -> Response<Bytes> {
        self.send(request.build::<Full<Bytes>>()).await
    }

    /// Sends the body in frames without declaring its length.
    async fn deliver_in_frames(&mut self, request: &MockRequest, size: usize) -> Response<Bytes> {
        let body = request.body_bytes();
        let frames: Vec<_> = body
            .chunks(size)
            .map(|frame| Ok(Frame::data(Bytes::copy_from_slice(frame))))
            .collect();
        let body = StreamBody::new(futures_util::stream::iter(frames));
        self.send(request.build::<Full<Bytes>>().map(|_| body))
            .await
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

/// Asserts the status and returns the value of this header.
#[track_caller]
fn assert_answer<B: Debug>(
    answer: &Response<B>,
    status: u16,
    name: Option<header::HeaderName>,
) -> &str {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert!(answer.headers().get("grpc-status").is_none(), "{answer:?}");
    let value = name.and_then(|name| answer.headers().get(name));
    value.map_or("", |value| value.to_str().unwrap())
}

/// Returns the raw bytes of a request.
fn raw(request: &MockRequest, headers: &str, body: &[u8]) -> Vec<u8> {
    let uri = request.build::<Full<Bytes>>().uri().clone();
    let mut text = format!(
        "POST {uri} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}\r\n"
    )
    .into_bytes();
    text.extend_from_slice(body);
    text
}

fn raw_whole(request: &MockRequest) -> Vec<u8> {
    let body = request.body_bytes();
    raw(
        request,
        &format!("content-length: {}\r\n", body.len()),
        &body,
    )
}

/// Reads the raw bytes of one answer, including its body, and returns the status.
async fn read_raw<R: AsyncBufReadExt + Unpin>(socket: &mut R) -> u16 {
    let mut status = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        socket.read_line(&mut line).await.expect("an answer");
        let line = line.strip_suffix("\r\n").expect("a whole line");
        if status.is_none() {
            let code = line.strip_prefix("HTTP/1.1 ").expect("a status line");
            status = Some(code[..3].parse().unwrap());
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.expect("a whole body");
    status.unwrap()
}

mod checks {
    use super::*;

    /// Sends all requests on one connection. The connection must stay usable after every answer.
    pub(super) async fn every_answer(mut stack: Stack) {
        let mut client = stack.connect().await;

        let first = webhook().message_id("first");
        let answer = client.deliver(&first).await;
        assert_answer(&answer, 200, None);
        assert!(answer.body().is_empty(), "{answer:?}");
        assert_eq!(answer.version(), stack.version);

        let answer = client.deliver(&stranger()).await;
        let challenge = assert_answer(&answer, 401, Some(header::WWW_AUTHENTICATE));
        assert!(!challenge.is_empty());

        let answer = client.deliver(&webhook().method(Method::GET)).await;
        assert_eq!(assert_answer(&answer, 405, Some(header::ALLOW)), "POST");

        let large = webhook().padded(LIMIT + 1);
        assert_answer(&client.deliver(&large).await, 413, None);
        assert_answer(&client.deliver_in_frames(&large, 1024).await, 413, None);

        let answer = client
            .deliver(&webhook().header("content-type", "text/xml"))
            .await;
        assert_answer(&answer, 415, None);
        let answer = client
            .deliver(&webhook().header("content-encoding", "gzip"))
            .await;
        let encodings = assert_answer(&answer, 415, Some(header::ACCEPT_ENCODING));
        assert_eq!(encodings, "identity");

        let answer = client.deliver(&webhook().without("timestamp")).await;
        assert_answer(&answer, 400, None);
        assert!(
            answer.body().windows(9).any(|text| text == b"timestamp"),
            "{answer:?}"
        );
        let answer = client.deliver(&webhook().truncated()).await;
        assert_answer(&answer, 400, None);

        let last = webhook().message_id("last").padded(LIMIT);
        assert_answer(&client.deliver(&last).await, 200, None);

        assert_eq!(
            stack.handle.drain(Duration::from_secs(60)).await.remaining,
            0
        );
        let answer = client.deliver(&webhook()).await;
        assert_eq!(assert_answer(&answer, 503, Some(header::RETRY_AFTER)), "5");

        assert_eq!(stack.ran().await, ["first", "last"]);
        let stats = stack.handle.stats();
        assert_eq!((stats.accepted, stats.handled, stats.refused), (2, 2, 1));
        assert_eq!(
            (stats.unverified, stats.malformed, stats.rejected),
            (1, 2, 5)
        );
    }

    /// The answer is a 503 even on stacks that translate a service's errors.
    pub(super) async fn an_inbox_that_panics(mut stack: Stack) {
        let mut client = stack.connect().await;
        stack.mood.send_replace(Mood::Panics);
        let answer = client.deliver(&webhook()).await;
        assert_eq!(assert_answer(&answer, 503, Some(header::RETRY_AFTER)), "5");

        stack.mood.send_replace(Mood::Answers);
        let request = webhook().message_id("again");
        assert_answer(&client.deliver(&request).await, 200, None);
        assert_eq!(stack.ran().await, ["again"]);
    }

    pub(super) async fn other_requests_pass_through(mut stack: Stack) {
        let mut client = stack.connect().await;

        let home = client.send(get("/")).await;
        assert_answer(&home, 200, None);
        assert_eq!(
            (home.version(), &home.body()[..]),
            (stack.version, &b"home"[..])
        );
        let length = assert_answer(&home, 200, Some(header::CONTENT_LENGTH));
        assert_eq!(length, "4");

        // The site may answer these webhooks in any way. The counts below show that the inbox accepted none of them.
        for path in ["/webhooks/botisimo/", "/webhooks", "/webhooks/Botisimo"] {
            client.deliver(&webhook().path(path)).await;
        }

        // Each frame is echoed before the next frame is sent, so neither direction buffers.
        let (mut frames, body) = Channel::<Bytes, Infallible>::new(1);
        let echo = Request::post("/echo").header(header::TE, "trailers");
        let mut echo = client.start(echo.body(body).unwrap()).await.into_body();
        for text in ["one", "two", "three"] {
            frames.send_data(Bytes::from(text)).await.unwrap();
            let frame = echo.frame().await.expect("a frame").unwrap();
            assert_eq!(frame.into_data().unwrap(), text);
        }
        drop(frames);
        let trailers = echo.frame().await.expect("trailers").unwrap();
        assert_eq!(trailers.into_trailers().unwrap()["x-end"], "reached");
        assert!(echo.frame().await.is_none());

        assert!(stack.ran().await.is_empty());
        assert_eq!(stack.handle.stats(), Default::default());
    }

    pub(super) async fn a_body_in_many_frames(mut stack: Stack) {
        let mut client = stack.connect().await;
        let request = webhook().message_id("by bytes");

        assert_answer(&client.deliver_in_frames(&request, 1).await, 200, None);
        assert_eq!(stack.ran().await, ["by bytes"]);
    }

    /// An early answer drains the body and keeps the connection open.
    pub(super) async fn an_early_answer_keeps_the_connection(mut stack: Stack) {
        let mut client = stack.connect().await;
        for _ in 0..3 {
            let large = stranger().padded(60 << 10);
            assert_answer(&client.deliver(&large).await, 401, None);
            assert_answer(&client.deliver_in_frames(&large, 4096).await, 401, None);
        }
        let request = webhook().message_id("next");
        assert_answer(&client.deliver(&request).await, 200, None);
        assert_eq!(stack.ran().await, ["next"]);
    }

    pub(super) async fn an_early_answer_to_an_endless_body(mut stack: Stack) {
        let body = vec![b' '; 8 << 20];
        if stack.version == Version::HTTP_2 {
            let mut client = stack.connect().await;
            let large = stranger().body(body);
            assert_answer(&client.deliver(&large).await, 401, None);
            let request = webhook().message_id("next");
            assert_answer(&client.deliver(&request).await, 200, None);
            assert_eq!(stack.ran().await, ["next"]);
        } else {
            let socket = TcpStream::connect(stack.addr).await.unwrap();
            let (read, mut write) = socket.into_split();
            let head = raw(&stranger(), "content-length: 8388608\r\n", b"");
            let mut writer = JoinSet::new();
            writer.spawn(async move {
                // The server closes the connection after the answer, while this write is running.
                let _ = write.write_all(&[head, body].concat()).await;
                write
            });
            assert_eq!(read_raw(&mut BufReader::new(read)).await, 401);
            assert!(stack.ran().await.is_empty());
        }
    }

    pub(super) async fn a_client_that_disconnects_during_the_body(mut stack: Stack) {
        let body = webhook().body_bytes();
        let half = body.slice(..body.len() / 2);
        // The client sends half of the declared length. Without a declared length, it sends half an event or a
        // whole event, and never ends the body.
        let declared = Some(body.len());
        for (length, part) in [(declared, half.clone()), (None, half), (None, body)] {
            if stack.version == Version::HTTP_2 {
                let mut client = stack.connect().await;
                let mut other = match &client.sender {
                    Sender::Http2(sender) => sender.clone(),
                    Sender::Http1(_) => unreachable!("the client has the stack's HTTP version"),
                };
                let (mut frames, body) = Channel::<Bytes, Infallible>::new(1);
                let mut request = webhook().build::<Full<Bytes>>().map(|_| body);
                if let Some(length) = length {
                    let headers = request.headers_mut();
                    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
                }
                let never = client.start(request);
                let leave = async {
                    frames.send_data(part).await.unwrap();
                    // Once a later request is answered, the frame has arrived.
                    let uri = format!("http://{}/", stack.addr);
                    other.ready().await.unwrap();
                    let home = get(&uri).map(BodyExt::boxed_unsync);
                    assert_eq!(other.send_request(home).await.unwrap().status(), 200);
                };
                tokio::select! {
                    biased;
                    answer = never => panic!("the receiver answered before the body was complete: {answer:?}"),
                    () = leave => {}
                }
                stack.until(Signal::Ended).await;
            } else {
                let head = match length {
                    Some(length) => format!("content-length: {length}\r\n"),
                    None => format!("transfer-encoding: chunked\r\n\r\n{:x}", part.len()),
                };
                let mut socket = stack.connect_raw().await;
                let request = raw(&webhook(), &head, &part);
                socket.write_all(&request).await.unwrap();
                stack.until(Signal::Began).await;
            }
            stack.until(Signal::Ended).await;
        }

        assert!(stack.ran().await.is_empty());
        assert_eq!(stack.handle.stats().accepted, 0);
        let request = webhook().message_id("whole");
        assert_answer(&stack.connect().await.deliver(&request).await, 200, None);
        assert_eq!(stack.ran().await, ["whole"]);
    }

    pub(super) async fn a_client_that_disconnects_before_the_answer(mut stack: Stack) {
        stack.mood.send_replace(Mood::Waits);
        let mut client = stack.connect().await;
        let request = webhook().message_id("owned");
        tokio::select! {
            biased;
            answer = client.deliver(&request) => panic!("the receiver answered too early: {answer:?}"),
            () = stack.until(Signal::Owned) => {}
        }
        drop(client);
        stack.until(Signal::Ended).await;

        assert_eq!(stack.ran().await, ["owned"]);

        // The client received no answer, so it sends a copy.
        stack.mood.send_replace(Mood::Answers);
        let mut client = stack.connect().await;
        assert_answer(&client.deliver(&request).await, 200, None);
        assert!(stack.ran().await.is_empty());
        let stats = stack.handle.stats();
        assert_eq!((stats.accepted, stats.handled, stats.duplicates), (1, 1, 1));
    }
}

/// Checks for HTTP/1.1 only.
mod http1_checks {
    use super::*;

    pub(super) async fn expect_continue(mut stack: Stack) {
        let request = webhook().message_id("continued");
        let body = request.body_bytes();
        let headers = format!("expect: 100-continue\r\ncontent-length: {}\r\n", body.len());

        let mut socket = stack.connect_raw().await;
        socket
            .write_all(&raw(&request, &headers, b""))
            .await
            .unwrap();
        assert_eq!(read_raw(&mut socket).await, 100);
        socket.write_all(&body).await.unwrap();
        assert_eq!(read_raw(&mut socket).await, 200);
        assert_eq!(stack.ran().await, ["continued"]);

        // The server doesn't send a 100 to an unverified client.
        let mut socket = stack.connect_raw().await;
        socket
            .write_all(&raw(&stranger(), &headers, b""))
            .await
            .unwrap();
        assert_eq!(read_raw(&mut socket).await, 401);
    }

    /// Sends chunk extensions, a trailer, and chunks split at arbitrary bytes.
    pub(super) async fn a_chunked_body(mut stack: Stack) {
        let request = webhook().message_id("chunked");
        let body = request.body_bytes();
        let (first, second) = body.split_at(7);
        let mut chunks = b"7;name=value\r\n".to_vec();
        chunks.extend_from_slice(first);
        chunks.extend_from_slice(format!("\r\n{:X}\r\n", second.len()).as_bytes());
        chunks.extend_from_slice(second);
        chunks.extend_from_slice(b"\r\n0\r\nx-end: reached\r\n\r\n");

        let mut socket = stack.connect_raw().await;
        let whole = raw(&request, "transfer-encoding: chunked\r\n", &chunks);
        for part in whole.chunks(5) {
            socket.write_all(part).await.unwrap();
            socket.flush().await.unwrap();
        }
        assert_eq!(read_raw(&mut socket).await, 200);
        assert_eq!(stack.ran().await, ["chunked"]);
    }

    pub(super) async fn pipelined_requests(mut stack: Stack) {
        let sent = [
            webhook().message_id("one"),
            stranger().padded(10_000),
            webhook().truncated(),
            webhook().message_id("two"),
        ];
        let mut socket = stack.connect_raw().await;
        let all: Vec<_> = sent.iter().flat_map(raw_whole).collect();
        socket.write_all(&all).await.unwrap();
        for status in [200, 401, 400, 200] {
            assert_eq!(read_raw(&mut socket).await, status);
        }
        assert_eq!(stack.ran().await, ["one", "two"]);
    }
}

macro_rules! run {
    ($checks:ident on $stack:ident: $($check:ident)+) => {
        $(
            #[tokio::test]
            async fn $check() {
                super::$checks::$check(super::stacks::$stack().await).await;
            }
        )+
    };
}

macro_rules! conformance {
    (http1: $($http1:ident)+; http2: $($http2:ident)+;) => {
        $(
            mod $http1 {
                conformance!(on $http1);
                run!(http1_checks on $http1: expect_continue a_chunked_body pipelined_requests);
            }
        )+
        $(
            mod $http2 {
                conformance!(on $http2);
            }
        )+
    };
    (on $stack:ident) => {
        run!(
            checks on $stack:
            every_answer
            an_inbox_that_panics
            other_requests_pass_through
            a_body_in_many_frames
            an_early_answer_keeps_the_connection
            an_early_answer_to_an_endless_body
            a_client_that_disconnects_during_the_body
            a_client_that_disconnects_before_the_answer
        );
    };
}

conformance! {
    http1: axum_layer axum_endpoint axum_nested_endpoint hyper_http1 tonic_http1;
    http2: hyper_http2 tonic_http2;
}

/// Surprising behaviour of the stacks themselves.
mod traps {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tonic::transport::Server;
    use tonic::transport::server::TcpIncoming;
    use tower::ServiceExt;

    use super::*;

    fn layer(path: &str) -> WebhookLayer {
        WebhookLayer::new(path, EventRouter::new())
    }

    fn site() -> Router {
        Router::new().route("/home", get(async || "home"))
    }

    async fn status(app: Router) -> u16 {
        let Ok(answer) = app.oneshot(webhook().build::<Body>()).await;
        answer.status().as_u16()
    }

    #[tokio::test]
    async fn axum_runs_a_route_layer_only_for_routes_that_exist() {
        assert_eq!(status(site().layer(layer(PATH))).await, 200);
        assert_eq!(status(site().route_layer(layer(PATH))).await, 404);

        let app = site().route(PATH, get(async || "there"));
        assert_eq!(status(app.route_layer(layer(PATH))).await, 200);
    }

    /// The layer matches neither the whole path nor the path without its nested prefix.
    #[tokio::test]
    async fn axum_runs_a_layer_in_a_nested_router_only_for_routes_that_exist() {
        for path in [PATH, "/botisimo"] {
            let app = Router::new().nest("/webhooks", site().layer(layer(path)));
            assert_eq!(status(app).await, 404, "{path}");
        }
        let app = Router::new().nest("/webhooks", site()).layer(layer(PATH));
        assert_eq!(status(app).await, 200);
        let endpoint = layer("/unused").endpoint();
        let nested = site().route_service("/botisimo", endpoint);
        assert_eq!(status(Router::new().nest("/webhooks", nested)).await, 200);
    }

    /// If the error isn't a tonic status, tonic closes the connection instead. A webhook must cause neither.
    #[tokio::test]
    async fn tonic_answers_200_to_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (_, health) = tonic_health::server::health_reporter();
        let fails = tower::layer::layer_fn(|_| {
            service_fn(async |_: Request<tonic::body::Body>| {
                Err::<Response<tonic::body::Body>, _>(tonic::Status::unavailable("no room"))
            })
        });
        let server = Server::builder()
            .accept_http1(true)
            .layer(fails)
            .layer(layer(PATH))
            .add_service(health);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let incoming = TcpIncoming::from(listener);
            server.serve_with_incoming(incoming).await.unwrap();
        });

        let mut client = Client::connect(addr, Version::HTTP_11).await;
        let answer = client.deliver(&webhook()).await;
        assert_eq!(answer.status(), 200);
        assert_ne!(answer.headers()["grpc-status"], "0");
    }

    #[tokio::test]
    async fn tonic_serves_grpc_with_its_trailers_next_to_webhooks() {
        let mut stack = stacks::tonic_http1().await;
        let mut grpc = Client::connect(stack.addr, Version::HTTP_2).await;
        let call = |path: &str| {
            let request = Request::post(path)
                .header(header::CONTENT_TYPE, "application/grpc")
                .header(header::TE, "trailers");
            // An empty message requests the health of the whole server.
            request.body(Full::from(&[0_u8; 5][..])).unwrap()
        };

        let request = webhook().message_id("before");
        assert_answer(&stack.connect().await.deliver(&request).await, 200, None);

        let answer = grpc.start(call("/grpc.health.v1.Health/Check")).await;
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/grpc");
        assert!(answer.headers().get("grpc-status").is_none(), "{answer:?}");
        let body = answer.into_body().collect().await.unwrap();
        let trailers = body.trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
        // The message has two bytes: the tag of the field `status`, and SERVING.
        assert_eq!(&body.to_bytes()[..], [0, 0, 0, 0, 2, 8, 1]);

        let answer = grpc.send(call("/grpc.health.v1.Health/None")).await;
        assert_eq!(answer.headers()["grpc-status"], "12");

        let request = webhook().message_id("after");
        assert_answer(&grpc.deliver(&request).await, 200, None);
        assert_eq!(stack.ran().await, ["before", "after"]);
    }
}
