use std::convert::Infallible;
use std::fmt;
use std::future::Ready;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use pin_project_lite::pin_project;

use super::body::ResponseBody;
use super::reply::Reply;
use crate::runtime::BoxFuture;

pin_project! {
    /// The response future of [`Webhook`](crate::Webhook) and [`Endpoint`](crate::Endpoint).
    ///
    /// `F` is the future of the inner service. The default applies if there is no inner service.
    ///
    /// # Cancel safety
    ///
    /// If the client disconnects, the server drops this future. If the inbox has received the event
    /// by then, the inbox delivers it. Otherwise the receiver discards the event.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F = Ready<Result<Response<Empty<Bytes>>, Infallible>>> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<F> {
        Inner { #[pin] future: F },
        Webhook { reply: BoxFuture<Reply> },
    }
}

impl<F> ResponseFuture<F> {
    #[inline]
    pub(super) fn inner(future: F) -> Self {
        Self {
            kind: Kind::Inner { future },
        }
    }

    pub(super) fn webhook(reply: BoxFuture<Reply>) -> Self {
        Self {
            kind: Kind::Webhook { reply },
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().kind.project() {
            KindProj::Inner { future } => {
                ready!(future.poll(cx)).map(|response| response.map(ResponseBody::inner))
            }
            KindProj::Webhook { reply } => Ok(ready!(reply.as_mut().poll(cx)).into_response()),
        })
    }
}

impl<F> fmt::Debug for ResponseFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
