use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;

use super::feed::Watcher;

/// The body of an [`Inspector`](super::Inspector)'s response: a page, or a live feed of events.
pub struct InspectorBody {
    kind: Kind,
}

enum Kind {
    Page(Full<Bytes>),
    Feed(Watcher),
}

impl InspectorBody {
    pub(super) fn page(page: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Page(Full::new(page.into())),
        }
    }

    pub(super) fn feed(watcher: Watcher) -> Self {
        Self {
            kind: Kind::Feed(watcher),
        }
    }
}

/// Returns an empty body.
impl Default for InspectorBody {
    fn default() -> Self {
        Self::page(Bytes::new())
    }
}

impl Body for InspectorBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().kind {
            Kind::Page(page) => Pin::new(page).poll_frame(cx),
            Kind::Feed(watcher) => watcher
                .poll_message(cx)
                .map(|message| message.map(|message| Ok(Frame::data(message)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Page(page) => page.is_end_stream(),
            Kind::Feed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Page(page) => page.size_hint(),
            Kind::Feed(_) => SizeHint::default(),
        }
    }
}

impl fmt::Debug for InspectorBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectorBody").finish_non_exhaustive()
    }
}
