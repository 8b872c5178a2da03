use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use super::{DeliveryResult, MockRequest};
use crate::delivery::Attempt;
#[cfg(feature = "tokio")]
use crate::delivery::DeliverySettings;
#[cfg(feature = "tokio")]
use crate::error::BoxError;
use crate::event::Event;
#[cfg(feature = "tokio")]
use crate::inbox::MemoryInbox;
use crate::inbox::{Handle, Inbox};
#[cfg(feature = "tokio")]
use crate::outcome::Report;
use crate::outcome::RetryPolicy;
use crate::service::Endpoint;

/// Delivers mock requests to a router or to a whole service, and returns their results.
///
/// The harness waits with [`Handle::wait_idle`], so it waits for every event in the inbox. If
/// handlers wait for one another, deliver concurrently from clones. Clones share the recorded
/// attempts.
#[derive(Clone)]
pub struct Harness {
    send: Arc<dyn Fn(Request<Full<Bytes>>) -> BoxFuture<'static, Answer> + Send + Sync>,
    handle: Handle,
    seen: Arc<Mutex<Vec<Attempt>>>,
}

/// The answer, or the service's error message.
pub(super) type Answer = Result<Response<Bytes>, String>;

impl Harness {
    /// Returns a harness over a router, or over a router in layers, behind an [`Endpoint`] and a
    /// [`MemoryInbox`] on tokio.
    ///
    /// The inbox makes a single attempt at each event, so that a test doesn't wait for retries. To test
    /// retries, pass an inbox to [`Harness::inbox`].
    ///
    /// # Panics
    ///
    /// Panics if two routes of the router have the same name.
    #[cfg(feature = "tokio")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
    #[must_use]
    #[track_caller]
    pub fn new<S>(service: S) -> Self
    where
        S: Service<Event, Response = Report, Error: Into<BoxError>, Future: Send>
            + Clone
            + Send
            + 'static,
    {
        Self::inbox(
            MemoryInbox::builder()
                .delivery(DeliverySettings::new().retry(RetryPolicy::no_retry()))
                .build(service),
        )
    }

    /// Returns a harness over an inbox, behind an [`Endpoint`].
    #[must_use]
    pub fn inbox(inbox: impl Inbox) -> Self {
        let endpoint = Endpoint::new(inbox);
        let handle = endpoint.handle();
        Self::service(endpoint, handle)
    }

    /// Returns a harness over a service. `handle` is the handle of the layer or the endpoint in the service.
    ///
    /// The inbox retries failed routes, and [`deliver`](Harness::deliver) waits for the retries. Pause
    /// the test's clock, or use an inbox with [`RetryPolicy::no_retry`](crate::RetryPolicy::no_retry).
    ///
    /// The bodies of the requests are [`Full<Bytes>`](Full). If the service needs another type, convert
    /// it in a layer: `ServiceBuilder::new().map_request(|request|
    /// request.map(Body::new)).service(…)`.
    #[must_use]
    pub fn service<S, B>(service: S, handle: Handle) -> Self
    where
        S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: fmt::Debug, Future: Send>,
        S: Clone + Send + Sync + 'static,
        B: Body<Data: Send, Error: fmt::Debug> + Send + 'static,
    {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        handle.on_attempt(move |attempt| {
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(attempt.clone());
        });
        let send = move |request: Request<Full<Bytes>>| -> BoxFuture<'static, Answer> {
            let service = service.clone();
            Box::pin(answer(service, request))
        };
        Self {
            send: Arc::new(send),
            handle,
            seen,
        }
    }

    /// Sends a request, waits until every event in the inbox has ended, and returns the result of the
    /// request.
    ///
    /// # Panics
    ///
    /// Panics if the path of the request isn't valid. Panics if the service returns an error. A
    /// receiver never returns an error for a webhook.
    #[track_caller]
    pub fn deliver(
        &self,
        request: MockRequest,
    ) -> impl Future<Output = DeliveryResult> + Send + use<> {
        let caller = std::panic::Location::caller();
        let harness = self.clone();
        let sent = request.build();
        async move {
            #[cfg(feature = "tokio")]
            let hold = super::clock_hold::ClockHold::new();
            let answer = (harness.send)(sent).await;
            #[cfg(feature = "tokio")]
            drop(hold);
            let answer =
                answer.unwrap_or_else(|error| panic!("the service failed, at {caller}: {error}"));
            harness.handle.wait_idle().await;
            let id = Event::from_bytes(request.body_bytes()).ok();
            let id = id.map(|event| event.id().to_owned());
            let mut seen = harness.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = |attempt: &mut Attempt| id.as_deref() == Some(attempt.event().id());
            let attempts = seen.extract_if(.., mine).collect();
            DeliveryResult::new(answer, attempts)
        }
    }

    /// Returns the handle of the inbox: use it to read the counts and the dead letters.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Calls the service once it is ready, and reads the whole answer.
async fn answer<S, B>(mut service: S, request: Request<Full<Bytes>>) -> Answer
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error: fmt::Debug>,
    B: Body<Error: fmt::Debug>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .map_err(|error| format!("{error:?}"))?;
    let response = service
        .call(request)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|error| format!("{error:?}"))?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}
