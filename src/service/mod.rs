//! The receiver: turns an HTTP request into a stored event and an answer.
//!
//! `call` decides by the path alone whether a request is a webhook. `receive.rs` processes
//! webhooks, in order from top to bottom. `reason.rs` contains the table of answers.

mod body;
mod budget;
mod collect;
mod control;
mod counters;
mod deadline;
mod endpoint;
mod future;
mod head;
mod health_service;
mod layer;
mod path_miss;
mod reason;
mod receive;
mod rejection;
mod rejection_streaks;
mod reply;
mod settings;
mod shared_secret;
mod verify;
mod webhook;

pub use self::body::ResponseBody;
pub use self::endpoint::Endpoint;
pub use self::future::ResponseFuture;
pub use self::health_service::HealthService;
pub use self::layer::WebhookLayer;
pub use self::reason::RejectionReason;
pub use self::rejection::Rejection;
pub use self::shared_secret::SharedSecret;
pub use self::verify::{Unverified, Verify};
pub use self::webhook::Webhook;
