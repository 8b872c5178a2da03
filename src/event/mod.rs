//! Events: the envelope, the event type and the payload. The payload is decoded when a handler
//! needs it.

mod decode;
mod envelope;
#[allow(clippy::module_inception)] // each type has its own file
mod event;
mod event_type;
mod json;
mod mismatch;
mod names;
mod payload;
mod platform;
mod traceparent;

pub(crate) use self::decode::MAX_TEXT;
pub(crate) use self::envelope::Undecoded;
pub use self::event::Event;
pub(crate) use self::event_type::DOCUMENTED;
pub use self::event_type::EventType;
pub use self::payload::{Payload, Raw};
pub use self::platform::Platform;
pub(crate) use self::traceparent::Traceparent;
