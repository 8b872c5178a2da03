use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Method, Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::future::ResponseFuture;
use super::receive::Receiver;
use crate::error::BoxError;
use crate::inbox::{Inbox, MemoryInbox};

/// The service of [`WebhookLayer`](crate::WebhookLayer): receives the webhooks of one path, and
/// passes all other requests to the inner service.
///
/// The service is ready when the inner service is ready. If a limit must not delay webhooks, put
/// the limit inside the inner service.
#[derive(Debug)]
pub struct Webhook<S, I = MemoryInbox> {
    inner: S,
    path: Arc<str>,
    receiver: Arc<Receiver<I>>,
}

impl<S, I> Webhook<S, I> {
    pub(super) fn new(inner: S, path: Arc<str>, receiver: Arc<Receiver<I>>) -> Self {
        Self {
            inner,
            path,
            receiver,
        }
    }
}

impl<S, I: Inbox> Webhook<S, I> {
    /// Warns of a POST request that passes through, if it probably is a webhook whose path was changed.
    ///
    /// The function isn't inlined, and computes the path again, so that other requests cost little.
    #[cold]
    #[inline(never)]
    fn examine<B>(&self, request: &Request<B>) {
        let path = request.uri().path();
        self.receiver
            .examine_path(&self.path, path, request.headers());
    }
}

impl<S, I, ReqBody, ResBody> Service<Request<ReqBody>> for Webhook<S, I>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    I: Inbox,
    ReqBody: Body<Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        if request.uri().path() == &*self.path {
            ResponseFuture::webhook(Box::pin(self.receiver.receive(request)))
        } else {
            if request.method() == Method::POST {
                self.examine(&request);
            }
            ResponseFuture::inner(self.inner.call(request))
        }
    }
}

impl<S: Clone, I> Clone for Webhook<S, I> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            path: Arc::clone(&self.path),
            receiver: Arc::clone(&self.receiver),
        }
    }
}
