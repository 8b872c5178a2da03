//! Bodies and inboxes that follow a script, for the tests of the receiver.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use botisimo_webhooks::testing::MockRequest;
use botisimo_webhooks::{
    AcceptError, Accepted, BoxFuture, Event, EventRouter, Handle, Inbox, MemoryInbox,
    RejectionReason, Runtime,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tower::{Service, ServiceExt};

pub(crate) const PATH: &str = "/webhooks/botisimo";

/// Returns a valid request.
pub(crate) fn good() -> MockRequest {
    MockRequest::event("account.updated")
}

/// Returns a router that matches every event and does nothing.
pub(crate) fn idle() -> EventRouter {
    EventRouter::new().on_any(|_: Event| async {})
}

/// An inner service that answers 418 to every request.
pub(crate) fn teapot<B>()
-> impl Service<Request<B>, Response = Response<Full<Bytes>>, Error = Infallible, Future: Send> + Clone
{
    tower::service_fn(|_| async {
        let mut response = Response::new(Full::from("inner"));
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        Ok(response)
    })
}

/// Waits until the service is ready, calls it, and reads the whole answer.
pub(crate) async fn ask<S, B, R>(service: &S, request: Request<B>) -> Response<Bytes>
where
    S: Service<Request<B>, Response = Response<R>, Error: fmt::Debug> + Clone,
    R: Body<Error: fmt::Debug>,
{
    let response = service.clone().oneshot(request).await;
    read(response.expect("a webhook request never fails")).await
}

/// Reads a whole response.
pub(crate) async fn read<R: Body<Error: fmt::Debug>>(response: Response<R>) -> Response<Bytes> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("the answer has a body");
    Response::from_parts(parts, body.to_bytes())
}

/// Asserts the status, the body and all headers. An answer with a message also has the content type of plain
/// text.
#[track_caller]
pub(crate) fn assert_answer(
    answer: &Response<Bytes>,
    status: u16,
    text: &str,
    header: Option<(&str, &str)>,
) {
    assert_eq!(
        (
            answer.status().as_u16(),
            &*String::from_utf8_lossy(answer.body())
        ),
        (status, text),
        "{answer:?}"
    );
    let mut expected = HeaderMap::new();
    if !text.is_empty() {
        let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
        expected.insert(http::header::CONTENT_TYPE, plain);
    }
    if let Some((name, value)) = header {
        let name: http::HeaderName = name.parse().expect("the name of a header");
        expected.insert(name, value.parse().expect("the value of a header"));
    }
    assert_eq!(*answer.headers(), expected);
}

/// The response of a body to a poll.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Data(Bytes),
    Trailers,
    /// Returns pending once, and wakes immediately.
    Wait,
    /// Returns pending, and never wakes.
    Stall,
    /// Returns pending until the test sends to the channel.
    Signal(Arc<Notify>),
    Fail,
    Panic,
    /// Returns the same frame forever, and panics after a million frames.
    Endless(Bytes),
    EndlessTrailers,
}

/// A body that follows a script, and counts the calls of its methods.
#[derive(Debug)]
pub(crate) struct Script {
    steps: VecDeque<Step>,
    declared: Option<u64>,
    seen: Seen,
    signal: Option<Pin<Box<OwnedNotified>>>,
}

/// The counts of a [`Script`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    polls: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl Seen {
    pub(crate) fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
pub(crate) struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection broke")
    }
}

impl std::error::Error for Broken {}

impl Script {
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            declared: None,
            seen: Seen::default(),
            signal: None,
        }
    }

    /// Declares a length, as a server does for `Content-Length`.
    pub(crate) fn declaring(mut self, bytes: u64) -> Self {
        self.declared = Some(bytes);
        self
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.clone()
    }
}

impl From<Bytes> for Script {
    fn from(body: Bytes) -> Self {
        Self::new([Step::Data(body)])
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let polls = self.seen.polls.fetch_add(1, Ordering::SeqCst);
        assert!(polls < 1_000_000, "the body is polled without end");
        if let Some(signal) = &mut self.signal {
            ready!(signal.as_mut().poll(cx));
            self.signal = None;
        }
        let Some(step) = self.steps.pop_front() else {
            return Poll::Ready(None);
        };
        let frame = match step.clone() {
            Step::Data(data) | Step::Endless(data) => {
                self.seen.bytes.fetch_add(data.len(), Ordering::SeqCst);
                Frame::data(data)
            }
            Step::Trailers | Step::EndlessTrailers => Frame::trailers(HeaderMap::new()),
            Step::Wait => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Step::Stall => {
                self.steps.push_front(step);
                return Poll::Pending;
            }
            Step::Signal(signal) => {
                self.signal = Some(Box::pin(signal.notified_owned()));
                return self.poll_frame(cx);
            }
            Step::Fail => return Poll::Ready(Some(Err(Broken))),
            Step::Panic => panic!("the body was polled"),
        };
        if matches!(step, Step::Endless(_) | Step::EndlessTrailers) {
            self.steps.push_front(step);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn size_hint(&self) -> SizeHint {
        self.declared
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Returns a valid request with a scripted body.
pub(crate) fn scripted(steps: impl IntoIterator<Item = Step>) -> Request<Script> {
    good().build::<Script>().map(|_: Script| Script::new(steps))
}

type Accept = dyn Fn(MemoryInbox, Event) -> BoxFuture<Result<Accepted, AcceptError>> + Send + Sync;

/// An inbox that answers with a closure, in front of an inbox in memory.
#[derive(Clone)]
pub(crate) struct Scripted {
    inner: MemoryInbox,
    accept: Arc<Accept>,
}

impl Scripted {
    pub(crate) fn new<F>(accept: impl Fn(MemoryInbox, Event) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Accepted, AcceptError>> + Send + 'static,
    {
        Self::over(MemoryInbox::new(idle()), accept)
    }

    pub(crate) fn over<F>(
        inner: MemoryInbox,
        accept: impl Fn(MemoryInbox, Event) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Accepted, AcceptError>> + Send + 'static,
    {
        Self {
            inner,
            accept: Arc::new(move |inner, event| Box::pin(accept(inner, event))),
        }
    }
}

impl Inbox for Scripted {
    fn accept(
        &self,
        event: Event,
    ) -> impl Future<Output = Result<Accepted, AcceptError>> + Send + 'static {
        (self.accept)(self.inner.clone(), event)
    }

    fn runtime(&self) -> Arc<dyn Runtime> {
        self.inner.runtime()
    }

    fn handle(&self) -> Handle {
        self.inner.handle()
    }
}

/// The reasons that an `on_rejection` hook received.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reasons(Arc<Mutex<Vec<RejectionReason>>>);

impl Reasons {
    pub(crate) fn add(&self, reason: RejectionReason) {
        self.0.lock().expect("no test panics here").push(reason);
    }

    /// Returns the reasons since the previous call.
    pub(crate) fn take(&self) -> Vec<RejectionReason> {
        std::mem::take(&mut self.0.lock().expect("no test panics here"))
    }
}
