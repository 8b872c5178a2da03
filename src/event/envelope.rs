use std::borrow::Cow;
use std::ops::Range;
use std::time::SystemTime;

use super::decode::{self, fault};
use super::event_type::EventType;
use super::traceparent::Traceparent;
use crate::error::Error;

/// The part that all clones of an event share: the body, and the ranges of its members.
pub(super) struct Envelope {
    /// A copy of exactly the body's size. A frame would keep the server's whole read buffer alive.
    pub(super) body: Box<str>,
    id: Id,
    pub(super) event_type: EventType,
    pub(super) timestamp: i64,
    /// Empty if the envelope has no `data`, because no JSON value is empty.
    data: Range<usize>,
    pub(super) received_at: SystemTime,
    pub(super) traceparent: Option<Traceparent>,
}

/// A body that isn't an envelope.
pub(crate) struct Undecoded {
    pub(crate) error: Error,
    pub(crate) body: Box<[u8]>,
}

/// The location of the id.
enum Id {
    /// A range of the body.
    Body(Range<usize>),
    /// A copy, because the id has escapes in the body.
    Here(Box<str>),
}

impl Envelope {
    pub(super) fn decode(
        body: Box<[u8]>,
        received_at: SystemTime,
        traceparent: Option<Traceparent>,
    ) -> Result<Self, Undecoded> {
        let body = match String::from_utf8(body.into_vec()) {
            Ok(body) => body.into_boxed_str(),
            Err(error) => {
                let body = error.into_bytes().into_boxed_slice();
                return Err(Undecoded {
                    error: fault("the body is not JSON"),
                    body,
                });
            }
        };
        let members = match decode::decode(&body) {
            Ok(members) => members,
            Err(error) => {
                return Err(Undecoded {
                    error,
                    body: body.into_boxed_bytes(),
                });
            }
        };
        let id = match members.id {
            Cow::Borrowed(id) => Id::Body(place(&body, id)),
            Cow::Owned(id) => Id::Here(id.into_boxed_str()),
        };
        let event_type = EventType::from(&*members.event_type);
        let timestamp = members.timestamp;
        let data = members.data.map_or(0..0, |data| place(&body, data));
        Ok(Self {
            body,
            id,
            event_type,
            timestamp,
            data,
            received_at,
            traceparent,
        })
    }

    pub(super) fn id(&self) -> &str {
        match &self.id {
            Id::Body(range) => &self.body[range.clone()],
            Id::Here(id) => id,
        }
    }

    pub(super) fn data(&self) -> &str {
        match &self.body[self.data.clone()] {
            "" => "null",
            data => data,
        }
    }
}

/// Returns the range of `part`, which is a slice of `body`.
fn place(body: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr() - body.as_ptr().addr();
    start..start + part.len()
}
