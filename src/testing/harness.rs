use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use super::{DeliveryResult, MockRequest};
#[cfg(feature = "tokio")]
use crate::delivery::RetryPolicy;
use crate::delivery::{Attempt, Stats};
#[cfg(feature = "tokio")]
use crate::error::BoxError;
use crate::event::Event;
#[cfg(feature = "tokio")]
use crate::inbox::MemoryInbox;
use crate::inbox::{Handle, Inbox};
#[cfg(feature = "tokio")]
use crate::outcome::Report;
use crate::service::Endpoint;

/// Delivers mock requests to a router or to a whole service, and tells what came of them.
///
/// Its clones share what they have seen. It waits by [`Handle::wait_idle`], so for everything that
/// the inbox holds: deliver concurrently from clones if handlers wait for one another.
#[derive(Clone)]
pub struct Harness {
    send: Arc<dyn Fn(Request<Full<Bytes>>) -> BoxFuture<'static, Answer> + Send + Sync>,
    handle: Handle,
    seen: Arc<Mutex<Vec<Attempt>>>,
}

/// What was answered.
pub(super) type Answer = Result<Response<Bytes>, String>;

impl Harness {
    /// Returns a harness around a router, or a router with layers around it, behind an [`Endpoint`]
    /// with its defaults and a [`MemoryInbox`] on tokio.
    ///
    /// It makes a single attempt at each event, so that a test needn't wait for another one. To
    /// test what attempts do, hand an inbox to [`Harness::inbox`].
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
                .retry(RetryPolicy::no_retry())
                .build(service),
        )
    }

    /// Returns a harness around an inbox of yours, behind an [`Endpoint`] with its defaults.
    #[must_use]
    pub fn inbox(inbox: impl Inbox) -> Self {
        let endpoint = Endpoint::new(inbox);
        let handle = endpoint.handle();
        Self::service(endpoint, handle)
    }

    /// Returns a harness around your service, and the handle of the webhook layer or endpoint in
    /// it.
    ///
    /// Routes that fail are tried again as your inbox says, and [`deliver`](Harness::deliver) waits
    /// for it. Have the time paused, or an inbox with
    /// [`RetryPolicy::never`](crate::RetryPolicy::never).
    ///
    /// The requests' bodies are [`Full<Bytes>`](Full). A service that insists on another type gets
    /// it by a layer: `ServiceBuilder::new().map_request(|request|
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
        handle.on_attempt(move |delivery| {
            log.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(delivery.clone());
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

    /// Sends a request, waits until everything that the inbox holds has finished, and returns what
    /// came of the request.
    ///
    /// # Panics
    ///
    /// If the service fails, which a webhook request never makes it do, or if the mock's path isn't
    /// one.
    #[track_caller]
    pub fn deliver(
        &self,
        request: MockRequest,
    ) -> impl Future<Output = DeliveryResult> + Send + use<> {
        let caller = std::panic::Location::caller();
        let harness = self.clone();
        let sent = request.build();
        async move {
            let answer = (harness.send)(sent).await;
            let answer =
                answer.unwrap_or_else(|error| panic!("the service failed, at {caller}: {error}"));
            harness.handle.wait_idle().await;
            let id = Event::from_bytes(request.body_bytes()).ok();
            let id = id.map(|event| event.id().to_owned());
            let mut seen = harness.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = |delivery: &mut Attempt| id.as_deref() == Some(delivery.event().id());
            let deliveries = seen.extract_if(.., mine).collect();
            DeliveryResult::new(answer, deliveries)
        }
    }

    /// Returns the counts of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.stats()
    }
}

/// Readies the service, calls it and reads its whole answer.
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
