//! Testing your handlers.
//!
//! This module is behind the feature `testing`. Turn it on for your tests only:
//!
//! ```toml
//! [dev-dependencies]
//! botisimo-webhooks = { version = "*", features = ["testing"] }
//! ```
//!
//! # One handler, or a router
//!
//! A [`Harness`] takes your router, delivers a [`MockRequest`] through the real front door, waits
//! until everything that it set off has finished, and tells what was answered and which routes ran.
//! It makes a single attempt at each event; what further attempts do is tested with an inbox of
//! yours, [`Harness::inbox`].
//! There is no network in it, and nothing to sleep for:
//!
//! ```
//! use botisimo_webhooks::testing::{Harness, MockRequest};
//! use botisimo_webhooks::{Event, EventRouter, HandlerError};
//! use serde_json::json;
//!
//! #[derive(serde::Deserialize)]
//! struct Stream { title: String }
//!
//! fn router() -> EventRouter {
//!     EventRouter::new().on_prefix("connection.stream.started", |event: Event<Stream>| async move {
//!         if event.data().title.is_empty() {
//!             return Err(HandlerError::permanent("a stream without a title"));
//!         }
//!         Ok(())
//!     })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let harness = Harness::new(router());
//!
//! let request = MockRequest::event("connection.stream.started.twitch").data(json!({ "title": "hello" }));
//! harness.deliver(request).await.assert_handled("connection.stream.started[.*]");
//!
//! let request = MockRequest::event("connection.stream.started").data(json!({ "title": "" }));
//! let delivered = harness.deliver(request).await;
//! delivered.assert_accepted();
//! delivered.assert_failed("connection.stream.started[.*]", "a stream without a title");
//! # }
//! ```
//!
//! A route's name is its pattern, with `[.*]` for a prefix, or what [`named`] says.
//!
//! # Your whole service
//!
//! [`Harness::service`] takes your service with its [`WebhookLayer`] and the layer's handle, so
//! that your secret, your limits and your own layers are under test too:
//!
//! ```
//! use axum::routing::get;
//! use botisimo_webhooks::testing::{Harness, MockRequest};
//! use botisimo_webhooks::{Event, EventRouter, SharedSecret, WebhookLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let router = EventRouter::new().on("account.updated", |_: Event| async {});
//! let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
//!     .verify(SharedSecret::in_query("token", "s3cret"));
//! let handle = webhooks.handle();
//! let app: axum::Router = axum::Router::new().route("/", get(|| async { "home" })).layer(webhooks);
//!
//! let harness = Harness::service(app, handle);
//! let request = MockRequest::event("account.updated");
//! harness.deliver(request.clone()).await.assert_status(401);
//! harness.deliver(request.query("token", "s3cret")).await.assert_handled("account.updated");
//! # }
//! ```
//!
//! # Wrong on purpose
//!
//! [`MockRequest`] also makes what no sender should send: a member that is missing, a body that is
//! no JSON, another content type, a body over the limit. It builds a plain [`http::Request`] of any
//! body type that can be made from [`Bytes`](bytes::Bytes), for `tower::ServiceExt::oneshot` on any
//! service.
//!
//! # Time
//!
//! All time comes from the inbox's [`Runtime`](crate::Runtime). On tokio a test with
//! `#[tokio::test(start_paused = true)]` skips every wait, and times out handlers that hang at
//! once.
//!
//! [`named`]: crate::EventRouter::named
//! [`WebhookLayer`]: crate::WebhookLayer

mod delivery_result;
mod harness;
mod mock_request;

pub use self::delivery_result::DeliveryResult;
pub use self::harness::Harness;
pub use self::mock_request::MockRequest;
