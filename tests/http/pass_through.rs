//! Requests for other paths pass through the layer untouched.

use std::cell::Cell;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::support::malformed::Malformed;
use crate::support::receiver::{Broken, PATH, Script, Step, ask, good, idle};
use botisimo_webhooks::{MemoryInbox, Webhook, WebhookLayer};
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use tokio_test::task::spawn;
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok};
use tower::limit::ConcurrencyLimit;
use tower::{Layer, Service, ServiceExt};
use tower_test::mock;

fn layer() -> WebhookLayer {
    WebhookLayer::new(PATH, idle())
}

/// Returns a request for another path.
fn other() -> Request<Script> {
    good().path("/other").build()
}

/// Returns a webhook request.
fn ours() -> Request<Script> {
    good().build()
}

type Mocked = (
    mock::Spawn<Webhook<mock::Mock<Request<Script>, Response<Full<Bytes>>>, MemoryInbox>>,
    mock::Handle<Request<Script>, Response<Full<Bytes>>>,
);

fn mocked() -> Mocked {
    mock::spawn_layer(layer())
}

// Readiness and capacity

#[tokio::test]
async fn the_service_is_ready_when_the_inner_service_is_ready() {
    let (mut service, mut handle) = mocked();
    handle.allow(0);
    assert_pending!(service.poll_ready());
    handle.allow(1);
    assert!(service.is_woken());
    assert_ready_ok!(service.poll_ready());
}

#[tokio::test]
async fn a_readiness_error_of_the_inner_service_passes_unchanged() {
    let (mut service, mut handle) = mocked();
    handle.send_error("not today");
    let error = assert_ready_err!(service.poll_ready());
    assert_eq!(error.to_string(), "not today");
}

#[tokio::test]
async fn a_webhook_never_reaches_the_inner_service_and_keeps_its_readiness() {
    let (mut service, mut handle) = mocked();
    handle.allow(1);
    assert_ready_ok!(service.poll_ready());
    for _ in 0..3 {
        let response = service.call(ours()).await.expect("an answer");
        assert_eq!(response.status(), 200);
    }
    assert_pending!(handle.poll_request());
    // The inner service is still ready for a request to another path.
    let mut response = spawn(service.call(other()));
    let (request, send) = assert_ready!(handle.poll_request()).expect("the request");
    assert_eq!(request.uri(), "/other");
    assert_pending!(response.poll());
    send.send_response(Response::new(Full::from("inner")));
    assert_ready_ok!(response.poll());
}

/// Returns a service that accepts one request at a time and never completes it.
fn limited() -> ConcurrencyLimit<
    impl Service<Request<Script>, Response = Response<Full<Bytes>>, Error = Infallible> + Clone,
> {
    let inner = tower::service_fn(|_| std::future::pending());
    ConcurrencyLimit::new(inner, 1)
}

#[tokio::test]
async fn a_webhook_reserves_no_inner_capacity_after_the_next_call_or_the_drop_of_its_service() {
    let service = layer().layer(limited());
    let (mut first, mut second) = (mock::Spawn::new(service.clone()), mock::Spawn::new(service));
    assert_ready_ok!(first.poll_ready());
    assert_eq!(first.call(ours()).await.expect("an answer").status(), 200);
    // The next call uses the reserved capacity.
    assert_ready_ok!(first.poll_ready());
    let call = first.call(other());
    assert_pending!(second.poll_ready());
    drop(call);
    assert_ready_ok!(second.poll_ready());
    assert_eq!(second.call(ours()).await.expect("an answer").status(), 200);
    assert_pending!(first.poll_ready());
    // The drop releases the reserved capacity.
    drop(second);
    assert!(first.is_woken());
    assert_ready_ok!(first.poll_ready());
}

#[tokio::test(start_paused = true)]
async fn a_webhook_in_flight_delays_no_other_request() {
    let mut service = layer().layer(echo());
    let stalled = good()
        .build::<Script>()
        .map(|_: Script| Script::new([Step::Stall]));
    let mut stalled = spawn(service.ready().await.expect("ready").call(stalled));
    assert_pending!(stalled.poll());
    assert_eq!(ask(&service, other()).await.status(), 418);
    assert_eq!(stalled.await.expect("an answer").status(), 408);
}

// Requests and responses

/// Returns every part of the request in the response.
fn echo<B>()
-> impl Service<Request<B>, Response = Response<B>, Error = Infallible, Future: Send> + Clone
where
    B: Send + 'static,
{
    tower::service_fn(|request: Request<B>| async {
        let (parts, body) = request.into_parts();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        *response.version_mut() = parts.version;
        *response.headers_mut() = parts.headers;
        *response.extensions_mut() = parts.extensions;
        response.extensions_mut().insert((parts.method, parts.uri));
        Ok(response)
    })
}

/// A value in the extensions, such as the handle of an upgrade.
#[derive(Clone, Debug, PartialEq)]
struct Marker(&'static str);

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-a", "1"),
        ("x-a", "2"),
        ("content-length", "7"),
        ("expect", "100-continue"),
    ] {
        headers.append(name, HeaderValue::from_static(value));
    }
    headers.append(
        "x-bytes",
        HeaderValue::from_bytes(b"\xff").expect("a valid header value"),
    );
    headers
}

#[tokio::test]
async fn every_part_of_requests_and_responses_is_untouched() {
    let service = layer().layer(echo());
    let uri = "https://user@example.com:8443/webhooks/botisimo/?a=b%20c&a=";
    for version in [
        Version::HTTP_09,
        Version::HTTP_10,
        Version::HTTP_11,
        Version::HTTP_2,
        Version::HTTP_3,
    ] {
        let mut request = Request::new(Script::new([]));
        *request.method_mut() = Method::from_bytes(b"PURGE").expect("a method");
        *request.uri_mut() = uri.parse().expect("a URI");
        *request.version_mut() = version;
        *request.headers_mut() = headers();
        request.extensions_mut().insert(Marker("request"));

        let response = service.clone().oneshot(request).await.expect("a response");
        assert_eq!(
            (response.status(), response.version()),
            (StatusCode::IM_A_TEAPOT, version)
        );
        assert_eq!(*response.headers(), headers());
        let extensions = response.extensions();
        assert_eq!(extensions.get(), Some(&Marker("request")));
        let (method, uri_got) = extensions
            .get::<(Method, http::Uri)>()
            .expect("the received parts");
        assert_eq!(
            (method.as_str(), uri_got.to_string().as_str()),
            ("PURGE", uri)
        );
    }
}

#[tokio::test]
async fn connect_with_an_authority_passes_for_any_path() {
    for path in [PATH, "/"] {
        let service = WebhookLayer::new(path, idle()).layer(echo());
        for (method, uri) in [(Method::CONNECT, "example.com:443"), (Method::OPTIONS, "*")] {
            let mut request = Request::new(Script::new([]));
            *request.method_mut() = method.clone();
            *request.uri_mut() = uri.parse().expect("a URI");
            let response = service.clone().oneshot(request).await.expect("a response");
            let got = response.extensions().get::<(Method, http::Uri)>();
            assert_eq!(got, Some(&(method, uri.parse().expect("a URI"))));
        }
    }
}

#[tokio::test]
async fn an_upgrade_passes_through() {
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let inner = tower::service_fn(|mut request: Request<hyper::body::Incoming>| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgrade.await.expect("the upgrade"));
            let mut ping = [0; 4];
            io.read_exact(&mut ping).await.expect("four bytes");
            io.write_all(&ping.map(|byte| byte.to_ascii_uppercase()))
                .await
                .expect("room");
        });
        let mut response = Response::new(Empty::<Bytes>::new());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("ping"));
        Ok::<_, Infallible>(response)
    });
    let (client, server) = tokio::io::duplex(1 << 10);
    let service = hyper_util::service::TowerToHyperService::new(layer().layer(inner));
    let server = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(server), service)
        .with_upgrades();
    tokio::spawn(server);

    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client))
        .await
        .expect("a connection");
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/socket")
        .header("host", "example.com")
        .header("connection", "upgrade")
        .header("upgrade", "ping")
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let response = send.send_request(request).await.expect("a response");
    assert_eq!(response.status(), 101);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.expect("the upgrade"));
    io.write_all(b"ping").await.expect("room");
    let mut pong = [0; 4];
    io.read_exact(&mut pong).await.expect("four bytes");
    assert_eq!(&pong, b"PING");
}

// Errors

/// An error that doesn't implement `std::error::Error`.
#[derive(Debug, PartialEq)]
struct Opaque(Rc<str>);

#[tokio::test]
async fn errors_of_the_inner_service_pass_unchanged() {
    let error = Rc::<str>::from("of the inner service");
    let thrown = Rc::clone(&error);
    let inner = tower::service_fn(move |_: Request<Script>| {
        ready(Err::<Response<Full<Bytes>>, _>(Opaque(Rc::clone(&thrown))))
    });
    let service = layer().layer(inner);
    let got = service
        .clone()
        .oneshot(other())
        .await
        .expect_err("the inner service fails");
    assert!(Rc::ptr_eq(&got.0, &error));
    // The receiver still answers a webhook.
    let answer = service
        .oneshot(ours())
        .await
        .expect("a webhook never fails");
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn an_error_of_the_inner_body_passes_unchanged() {
    let service = layer().layer(echo());
    let request = other().map(|_| Script::new([Step::Data(Bytes::from_static(b"a")), Step::Fail]));
    let response = service.oneshot(request).await.expect("a response");
    let error = response
        .into_body()
        .collect()
        .await
        .expect_err("the body fails");
    let Broken = error;
}

// Bodies

/// A custom type of body data.
#[derive(Debug, PartialEq)]
struct Own(Bytes);

impl From<Bytes> for Own {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Buf for Own {
    fn remaining(&self) -> usize {
        self.0.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.0.chunk()
    }

    fn advance(&mut self, bytes: usize) {
        self.0.advance(bytes);
    }
}

/// A body that is neither `Send` nor `Sync`, with custom data and error types.
#[derive(Debug)]
struct Odd {
    frames: VecDeque<Frame<Own>>,
    pending: Rc<Cell<bool>>,
    ended: bool,
}

impl Body for Odd {
    type Data = Own;
    type Error = Opaque;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Own>, Opaque>>> {
        if self.pending.replace(!self.pending.get()) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(3);
        hint.set_upper(7);
        hint
    }
}

fn odd(ended: bool) -> Odd {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let data = |text| Frame::data(Own(Bytes::from_static(text)));
    Odd {
        frames: [
            data(b"one"),
            data(b""),
            data(b"two"),
            Frame::trailers(trailers),
        ]
        .into(),
        pending: Rc::new(Cell::new(true)),
        ended,
    }
}

/// A service that answers with an odd body, and is neither `Clone`, `Send` nor `Sync`.
struct OddService {
    ended: bool,
    _alone: Rc<()>,
}

impl Service<Request<Script>> for OddService {
    type Response = Response<Odd>;
    type Error = Opaque;
    type Future = Ready<Result<Response<Odd>, Opaque>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Opaque>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Script>) -> Self::Future {
        ready(Ok(Response::new(odd(self.ended))))
    }
}

fn odd_service(ended: bool) -> Webhook<OddService> {
    layer().layer(OddService {
        ended,
        _alone: Rc::new(()),
    })
}

#[tokio::test]
async fn frames_and_trailers_of_any_body_pass_one_at_a_time() {
    let response = odd_service(false)
        .oneshot(other())
        .await
        .expect("a response");
    let mut body = response.into_body();
    for expected in [&b"one"[..], b"", b"two"] {
        let frame = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data").0, expected);
    }
    let frame = body.frame().await.expect("a frame").expect("no error");
    let trailers = frame.into_trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn size_hint_and_end_of_the_inner_body_pass_unchanged() {
    for ended in [false, true] {
        let response = odd_service(ended)
            .oneshot(other())
            .await
            .expect("a response");
        let hint = response.body().size_hint();
        assert_eq!((hint.lower(), hint.upper()), (3, Some(7)));
        assert_eq!(response.body().is_end_stream(), ended);
    }
}

#[tokio::test]
async fn a_pending_inner_body_is_pending_and_wakes() {
    let response = odd_service(false)
        .oneshot(other())
        .await
        .expect("a response");
    let mut body = response.into_body();
    let mut frame = spawn(body.frame());
    assert_pending!(frame.poll());
    assert!(frame.is_woken());
    assert!(assert_ready!(frame.poll()).is_some());
}

#[tokio::test]
async fn the_receivers_answer_uses_the_inner_bodys_data_type() {
    let request = good().truncated().build::<Script>();
    let response = odd_service(false)
        .oneshot(request)
        .await
        .expect("an answer");
    let text = "the body is not JSON";
    let mut body = response.into_body();
    assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
    assert!(!body.is_end_stream());
    let frame = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(
        frame.into_data().expect("data"),
        Own(Bytes::from_static(text.as_bytes()))
    );
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.frame().await.is_none());

    let response = odd_service(false).oneshot(ours()).await.expect("an answer");
    assert!(response.body().is_end_stream());
    assert_eq!(response.body().size_hint().exact(), Some(0));
    assert!(response.into_body().frame().await.is_none());
}

#[tokio::test]
async fn the_body_of_a_request_for_another_path_is_never_polled() {
    let service = layer().layer(echo());
    let request = other().map(|_| Script::new([Step::Panic]));
    let seen = request.body().seen();
    service.oneshot(request).await.expect("a response");
    assert_eq!(seen.polls(), 0);
}
