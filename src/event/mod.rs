//! Events: the envelope, its type, and the payload that is decoded only when a handler asks for it.

mod decode;
mod envelope;
#[allow(clippy::module_inception)] // the type of the module, in a file of its own like every other
mod event;
mod event_type;
mod mismatch;
mod names;
mod payload;
mod platform;

pub(crate) use self::decode::MAX_TEXT;
pub(crate) use self::envelope::Undecoded;
pub use self::event::Event;
pub(crate) use self::event_type::DOCUMENTED;
pub use self::event_type::{EventType, UndocumentedType};
pub use self::payload::{Payload, Raw};
pub use self::platform::Platform;
