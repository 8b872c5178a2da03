//! The front door: from an HTTP request to an event that an inbox owns, and to the answer.
//!
//! `call` decides by path alone whose request it is. Ours goes through `receive.rs` from top to
//! bottom, and the table of answers is in `rejection.rs`.

mod body;
mod budget;
mod collect;
mod deadline;
mod endpoint;
mod future;
mod head;
mod layer;
mod receive;
mod rejection;
mod reply;
mod settings;
mod shared;
mod verify;
mod webhook;

pub use self::body::ResponseBody;
pub use self::endpoint::{Endpoint, EndpointFuture};
pub use self::future::ResponseFuture;
pub use self::layer::WebhookLayer;
pub use self::rejection::{Rejection, RejectionReason};
pub use self::verify::{SharedSecret, Unverified, Verify};
pub use self::webhook::Webhook;
