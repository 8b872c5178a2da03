//! The receiver answers every webhook request according to the table of answers. Every other request passes
//! through untouched, with any head and any body.
#![no_main]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::{Ready, ready};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arbitrary::Arbitrary;
use botisimo_webhooks::{SharedSecret, WebhookLayer};
use botisimo_webhooks_fuzz::body::{Broken, Framed, Hint, Step};
use botisimo_webhooks_fuzz::decoding::is_envelope;
use botisimo_webhooks_fuzz::inbox::{Answer, Told};
use botisimo_webhooks_fuzz::runtime::Hand;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body;
use libfuzzer_sys::fuzz_target;
use tower_layer::Layer;
use tower_service::Service;

const PATH: &str = "/webhooks/botisimo";
const SECRET: &str = "s3 +&%41cret";
const GOOD: &str = r#"{"messageId":"m-1","timestamp":1,"eventType":"account.updated","data":{}}"#;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    endpoint: bool,
    secret: Option<Mount>,
    max_body_bytes: u8,
    answer: Answer,
    method: Verb<'a>,
    path: Path<'a>,
    query: Option<Query<'a>>,
    header: Option<&'a [u8]>,
    content_type: Option<Type<'a>>,
    encoding: Option<Encoding<'a>>,
    length: Option<Length<'a>>,
    expects_continue: bool,
    http2: bool,
    body: Content<'a>,
    steps: Vec<Step>,
    hint: Hint,
    tells_end: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Mount {
    Query,
    Header,
}

#[derive(Arbitrary, Debug)]
enum Verb<'a> {
    Post,
    Get,
    Other(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Path<'a> {
    Ours,
    Other(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Query<'a> {
    Right,
    Written(&'a str),
}

#[derive(Arbitrary, Debug)]
enum Type<'a> {
    Json,
    Suffixed,
    Text,
    Other(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Encoding<'a> {
    Identity,
    Gzip,
    Other(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Length<'a> {
    Number(u16),
    Other(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Content<'a> {
    Good,
    Padded(u8),
    Written(&'a [u8]),
}

fuzz_target!(|input: Input<'_>| {
    let Some(request) = request(&input) else {
        return;
    };
    let runtime = Hand::new();
    let inbox = Told::new(input.answer, runtime.clone());
    let limit = limit(&input);
    let mut layer = WebhookLayer::new(PATH, inbox.clone())
        .max_body_bytes(limit)
        .max_body_bytes_in_flight(limit);
    layer = match input.secret {
        None => layer,
        Some(Mount::Query) => layer.verify(SharedSecret::in_query("token", SECRET)),
        Some(Mount::Header) => layer.verify(SharedSecret::in_header("x-token", SECRET)),
    };
    let (mut endpoint, mut service) = (layer.endpoint(), layer.layer(Echo));
    if !input.endpoint && request.uri().path() != PATH {
        passes(&mut service, request);
        return;
    }
    let expected = expected(&input, &request);
    let status = if input.endpoint {
        answered(&runtime, &mut endpoint, request)
    } else {
        answered(&runtime, &mut service, request)
    };
    assert_eq!(status, expected);
    let owned = std::mem::take(&mut *inbox.owned.lock().expect("no thread panics"));
    let new = status == 200 && input.answer == Answer::New;
    assert_eq!(owned.len(), usize::from(new));
    if let [event] = owned.as_slice() {
        assert_eq!(event.body().as_bytes(), content(&input.body));
    }
    // The request has released its share of the budget, so the next request fits.
    *inbox.answer.lock().expect("no thread panics") = Answer::New;
    assert_eq!(answered(&runtime, &mut endpoint, good(limit)), 200);
    assert_eq!(inbox.owned.lock().expect("no thread panics").len(), 1);
});

/// Returns the body limit, which is at least the size of the valid body.
fn limit(input: &Input<'_>) -> usize {
    GOOD.len() + usize::from(input.max_body_bytes)
}

fn content(content: &Content<'_>) -> Vec<u8> {
    match content {
        Content::Good => GOOD.as_bytes().to_vec(),
        Content::Padded(bytes) => (GOOD.to_owned() + &" ".repeat((*bytes).into())).into_bytes(),
        Content::Written(bytes) => bytes.to_vec(),
    }
}

/// Returns the request, if its parts are valid.
fn request(input: &Input<'_>) -> Option<Request<Framed>> {
    let method = match input.method {
        Verb::Post => Method::POST,
        Verb::Get => Method::GET,
        Verb::Other(method) => Method::from_bytes(method).ok()?,
    };
    let path = match input.path {
        Path::Ours => PATH.to_owned(),
        Path::Other(path) => format!("/{path}"),
    };
    let query = match input.query {
        None => String::new(),
        Some(Query::Right) => "?a=b&token=s3%20%2B%26%2541cret".to_owned(),
        Some(Query::Written(query)) => format!("?{query}"),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(path + &query)
        .version(if input.http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        });
    let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).ok();
    if let Some(header) = input.header {
        request = request.header("x-token", value(header)?);
    }
    if let Some(kind) = &input.content_type {
        request = request.header(
            "content-type",
            match kind {
                Type::Json => HeaderValue::from_static("application/json; charset=utf-8"),
                Type::Suffixed => HeaderValue::from_static("application/cloudevents+JSON"),
                Type::Text => HeaderValue::from_static("text/plain"),
                Type::Other(kind) => value(kind)?,
            },
        );
    }
    if let Some(encoding) = &input.encoding {
        request = request.header(
            "content-encoding",
            match encoding {
                Encoding::Identity => HeaderValue::from_static("Identity"),
                Encoding::Gzip => HeaderValue::from_static("gzip"),
                Encoding::Other(encoding) => value(encoding)?,
            },
        );
    }
    if let Some(length) = &input.length {
        request = request.header(
            "content-length",
            match length {
                Length::Number(length) => HeaderValue::from(*length),
                Length::Other(length) => value(length)?,
            },
        );
    }
    if input.expects_continue {
        request = request.header("expect", "100-continue");
    }
    let body = Framed {
        steps: VecDeque::from(input.steps.clone()),
        bytes: content(&input.body).into(),
        hint: input.hint,
        tells_end: input.tells_end,
    };
    request.body(body).ok()
}

fn good(limit: usize) -> Request<Framed> {
    let padded = GOOD.to_owned() + &" ".repeat(limit - GOOD.len());
    let request = Request::post("/?token=s3%20%2B%26%2541cret").header("x-token", SECRET);
    let body = Framed {
        steps: VecDeque::new(),
        bytes: padded.into(),
        hint: Hint::Exact,
        tells_end: true,
    };
    request.body(body).expect("the parts are valid")
}

/// Returns the status that the table of answers requires.
fn expected(input: &Input<'_>, request: &Request<Framed>) -> u16 {
    if request.method() != Method::POST {
        return 405;
    }
    if !is_verified(input, request) {
        return 401;
    }
    if !is_json(request.headers().get("content-type")) {
        return 415;
    }
    let encoding = request.headers().get("content-encoding");
    if encoding.is_some_and(|encoding| {
        !matches!(
            &*encoding.as_bytes().to_ascii_lowercase(),
            b"" | b"identity"
        )
    }) {
        return 415;
    }
    let limit = limit(input) as u64;
    let declared = request.headers().get("content-length");
    let declared = declared.and_then(|length| length.to_str().ok()?.parse().ok());
    let said = request.body().size_hint().lower();
    if declared.unwrap_or(0_u64).max(said) > limit {
        return 413;
    }
    let mut left = content(&input.body).len();
    let mut read = 0;
    for step in &input.steps {
        match step {
            Step::Data(some) => {
                let some = left.min((*some).into());
                (left, read) = (left - some, read + some as u64);
                if read > limit {
                    return 413;
                }
            }
            Step::Trailers | Step::Wait => {}
            Step::Stall => return 408,
            Step::Fail => return 400,
        }
    }
    if read + left as u64 > limit {
        return 413;
    }
    if !is_envelope(&content(&input.body)) {
        return 400;
    }
    match input.answer {
        Answer::New | Answer::Duplicate => 200,
        Answer::Full | Answer::Draining | Answer::Unavailable | Answer::Never => 503,
    }
}

fn is_verified(input: &Input<'_>, request: &Request<Framed>) -> bool {
    match input.secret {
        None => true,
        Some(Mount::Header) => request
            .headers()
            .get("x-token")
            .is_some_and(|value| value == SECRET),
        Some(Mount::Query) => {
            let pairs = request.uri().query().unwrap_or_default().split('&');
            pairs
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .any(|(name, value)| {
                    decoded(name) == b"token"
                        && (decoded(value) == SECRET.as_bytes()
                            || decoded(&value.replace('+', " ")) == SECRET.as_bytes())
                })
        }
    }
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = text.get(at + 1..at + 3);
        let hex = hex
            .filter(|hex| bytes[at] == b'%' && hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let Some(content_type) = content_type else {
        return true;
    };
    if content_type.as_bytes().trim_ascii().is_empty() {
        return true;
    }
    let Ok(content_type) = content_type.to_str() else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default();
    let essence = essence.trim().to_ascii_lowercase();
    match essence.split_once('/') {
        Some(("application", "json")) => true,
        Some((_, subtype)) => subtype.ends_with("+json"),
        None => false,
    }
}

/// Polls a request until it is answered, moves the runtime's clock as needed, and returns the status.
fn answered<S, B>(runtime: &Hand, service: &mut S, request: Request<Framed>) -> u16
where
    S: Service<Request<Framed>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Debug>,
{
    let waits = request.body().steps.len();
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut answer = pin!(service.call(request));
    // Each wait of the body takes one poll. A request that is still pending ends at the deadline.
    for _ in 0..=waits {
        if let Poll::Ready(answer) = answer.as_mut().poll(&mut cx) {
            return status(answer);
        }
    }
    runtime.pass(Duration::from_secs(3));
    match answer.as_mut().poll(&mut cx) {
        Poll::Ready(answer) => status(answer),
        Poll::Pending => panic!("no answer within the deadline"),
    }
}

fn status<B: Body<Data = Bytes, Error: Debug>>(answer: Result<Response<B>, Infallible>) -> u16 {
    let answer = answer.unwrap_or_else(|never| match never {});
    let size = answer
        .body()
        .size_hint()
        .exact()
        .expect("the receiver's bodies have an exact size");
    let status = answer.status().as_u16();
    assert_eq!(size == 0, status == 200);
    let retry = answer.headers().get("retry-after");
    assert_eq!(retry.is_some(), status == 503);
    let frames = frames(pin!(answer.into_body()));
    assert_eq!(frames.len(), usize::from(size > 0));
    status
}

/// An inner service that answers with the parts of the request.
#[derive(Clone)]
struct Echo;

impl Service<Request<Framed>> for Echo {
    type Response = Response<Framed>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Framed>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Framed>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let mut response = Response::new(body);
        *response.headers_mut() = parts.headers;
        *response.version_mut() = parts.version;
        response.extensions_mut().insert((parts.method, parts.uri));
        ready(Ok(response))
    }
}

/// Sends a request through the layer and compares the response.
fn passes<S, B>(service: &mut S, request: Request<Framed>)
where
    S: Service<Request<Framed>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = Broken>,
{
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let (headers, version, body) = (
        request.headers().clone(),
        request.version(),
        request.body().clone(),
    );
    let mut answer = pin!(service.call(request));
    let Poll::Ready(Ok(answer)) = answer
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    else {
        panic!("the inner service answers at once")
    };
    assert_eq!((answer.headers(), answer.version()), (&headers, version));
    assert_eq!(answer.extensions().get(), Some(&(method, uri)));
    assert_eq!(answer.body().is_end_stream(), body.is_end_stream());
    assert_eq!(answer.body().size_hint().exact(), body.size_hint().exact());
    assert_eq!(frames(pin!(answer.into_body())), frames(pin!(body)));
}

/// Returns the frames of a body up to a stall or an error: data, or `None` for trailers and waits.
fn frames<B: Body<Data = Bytes, Error: Debug>>(mut body: Pin<&mut B>) -> Vec<Option<Bytes>> {
    let mut frames = Vec::new();
    loop {
        match body
            .as_mut()
            .poll_frame(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(Some(Ok(frame))) => frames.push(frame.into_data().ok()),
            Poll::Pending if frames.len() < 1_000 => frames.push(None),
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => return frames,
        }
    }
}
