use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Empty;
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response: the unchanged body of the inner service, or the text of the receiver's answer.
    ///
    /// The default is an empty body. Layers such as tower-http's `CorsLayer` and `TimeoutLayer` need a
    /// default.
    #[derive(Debug)]
    pub struct ResponseBody<B = Empty<Bytes>> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Inner { #[pin] body: B },
        Text { text: &'static str },
    }
}

impl<B> ResponseBody<B> {
    #[inline]
    pub(super) fn inner(body: B) -> Self {
        Self {
            kind: Kind::Inner { body },
        }
    }

    pub(super) fn text(text: &'static str) -> Self {
        Self {
            kind: Kind::Text { text },
        }
    }
}

/// Returns an empty body, even if the inner body has no default.
impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::text("")
    }
}

/// The inner body's data type must implement `From<Bytes>`, because the receiver's messages are [`Bytes`].
impl<B: Body<Data: From<Bytes>>> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Inner { body } => body.poll_frame(cx),
            KindProj::Text { text: &mut "" } => Poll::Ready(None),
            KindProj::Text { text } => {
                let data = Bytes::from_static(std::mem::take(text).as_bytes());
                Poll::Ready(Some(Ok(Frame::data(data.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Inner { body } => body.is_end_stream(),
            Kind::Text { text } => text.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Inner { body } => body.size_hint(),
            Kind::Text { text } => SizeHint::with_exact(text.len() as u64),
        }
    }
}
