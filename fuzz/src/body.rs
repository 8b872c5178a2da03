use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use arbitrary::Arbitrary;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// One step of a body.
#[derive(Arbitrary, Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Returns this many bytes, or all remaining bytes.
    Data(u8),
    Trailers,
    /// Returns pending once.
    Wait,
    /// Returns pending from now on.
    Stall,
    Fail,
}

/// The size hint of a body.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Hint {
    None,
    /// The exact size.
    Exact,
    /// A smaller or a larger size.
    Lie(u16),
}

/// A body that follows its steps and then returns its remaining bytes.
#[derive(Clone, Debug)]
pub struct Framed {
    pub steps: VecDeque<Step>,
    pub bytes: Bytes,
    pub hint: Hint,
    /// Whether `is_end_stream` returns true at the end.
    pub tells_end: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection broke")
    }
}

impl std::error::Error for Broken {}

impl Body for Framed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let left = self.bytes.len();
        let frame = match self.steps.pop_front() {
            Some(Step::Data(some)) => Frame::data(self.bytes.split_to(left.min(some.into()))),
            Some(Step::Trailers) => Frame::trailers(HeaderMap::new()),
            Some(Step::Wait) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(Step::Stall) => {
                self.steps.push_front(Step::Stall);
                return Poll::Pending;
            }
            Some(Step::Fail) => return Poll::Ready(Some(Err(Broken))),
            None if left == 0 => return Poll::Ready(None),
            None => Frame::data(self.bytes.split_to(left)),
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.steps.is_empty() && self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.hint {
            Hint::None => SizeHint::default(),
            Hint::Exact => SizeHint::with_exact(self.bytes.len() as u64),
            Hint::Lie(size) => SizeHint::with_exact(size.into()),
        }
    }
}
