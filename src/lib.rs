//! Receives Botisimo's webhooks inside any tower service, and runs the async handlers registered
//! for them.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod contain;
mod delivery;
mod error;
mod event;
mod inbox;
mod outcome;
mod router;
mod runtime;
mod service;
mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

pub use crate::delivery::{Delivery, Stats, Verdict};
pub use crate::error::{Error, ErrorKind};
pub use crate::event::{Event, EventType, Payload, Platform, Raw, UndocumentedType};
pub use crate::inbox::{
    Accepted, Control, Drained, Handle, Inbox, IntoInbox, MemoryInbox, MemoryInboxBuilder, Refused,
    RefusedKind,
};
pub use crate::outcome::{HandlerError, HandlerResult, IntoOutcome, Outcome, Report, RouteReport};
pub use crate::router::{EventRouter, Pattern, Route, RouterFuture};
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use crate::runtime::TokioRuntime;
pub use crate::runtime::{BoxFuture, Runtime};
pub use crate::service::{
    Endpoint, EndpointFuture, Reason, Rejection, ResponseBody, ResponseFuture, SharedSecret,
    Unverified, Verify, Webhook, WebhookLayer,
};
