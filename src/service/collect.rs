use std::error::Error as StdError;
use std::pin::Pin;

use bytes::{Buf, BufMut};
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError};

use super::budget::Permit;
use super::deadline::Deadline;
use super::reason::RejectionReason;
use crate::error::BoxError;

/// The maximum number of bytes that the receiver drains from an unread body before an early answer.
///
/// If the body limit is larger, the receiver drains up to the body limit. So the sender of any event
/// of an allowed size can read the answer.
const DRAIN: usize = 64 << 10;

/// The reason why a body wasn't read to the end.
pub(super) struct Unread {
    pub(super) reason: RejectionReason,
    /// Whether the deadline hasn't passed and the rest of the body can be read.
    pub(super) open: bool,
}

impl Unread {
    pub(super) fn open(reason: RejectionReason) -> Self {
        Self { reason, open: true }
    }

    fn broken(reason: RejectionReason) -> Self {
        Self {
            reason,
            open: false,
        }
    }
}

/// Reads a body into an exact allocation.
///
/// Copies each frame immediately, because a frame keeps the server's whole read buffer alive.
pub(super) async fn collect<B>(
    mut body: Pin<&mut B>,
    limit: usize,
    permit: &mut Permit,
    deadline: &mut Deadline,
) -> Result<Box<[u8]>, Unread>
where
    B: Body<Error: Into<BoxError>>,
{
    let mut bytes = Vec::new();
    let mut has_frames = false;
    while !body.is_end_stream() {
        let frame = match deadline.bound(body.frame()).await {
            None => return Err(Unread::broken(RejectionReason::Incomplete)),
            Some(None) => break,
            Some(Some(Err(error))) => {
                return Err(Unread::broken(unreadable(error.into().as_ref())));
            }
            Some(Some(Ok(frame))) => frame,
        };
        // A body with an endless number of small frames may never be pending. The first frame isn't checked, because most
        // bodies have only one frame.
        if std::mem::replace(&mut has_frames, true) && deadline.is_over() {
            return Err(Unread::broken(RejectionReason::Incomplete));
        }
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if data.remaining() > limit - bytes.len() {
            return Err(Unread::open(RejectionReason::TooLarge));
        }
        if !permit.grow(data.remaining()) {
            return Err(Unread::open(RejectionReason::Busy));
        }
        bytes.reserve(data.remaining());
        bytes.put(data);
    }
    Ok(bytes.into_boxed_slice())
}

/// Reads and discards a body, and returns whether it reached the end.
///
/// If a server closes a connection before the request has been read, the connection is reset, and
/// the sender can't read the answer.
pub(super) async fn drain<B: Body>(
    mut body: Pin<&mut B>,
    limit: usize,
    deadline: &mut Deadline,
) -> bool {
    let mut left = limit.max(DRAIN);
    while !body.is_end_stream() {
        if deadline.is_over() {
            return false;
        }
        let frame = match deadline.bound(body.frame()).await {
            Some(Some(Ok(frame))) => frame,
            Some(None) => return true,
            Some(Some(Err(_))) | None => return false,
        };
        let read = frame.data_ref().map_or(0, Buf::remaining);
        if read >= left {
            return body.is_end_stream();
        }
        left -= read;
    }
    true
}

/// Returns the reason for a body's error. An outer layer may limit the length of the body.
fn unreadable(error: &(dyn StdError + 'static)) -> RejectionReason {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<LengthLimitError>() {
            return RejectionReason::TooLarge;
        }
        next = error.source();
    }
    RejectionReason::Unreadable
}
