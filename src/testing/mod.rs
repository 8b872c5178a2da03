//! Mock requests and a harness for testing handlers.
//!
//! This module needs the feature `testing`. Enable it for your tests only:
//!
//! ```toml
//! [dev-dependencies]
//! botisimo-webhooks = { version = "*", features = ["testing"] }
//! ```
//!
//! # One handler, or a router
//!
//! A [`Harness`] delivers a [`MockRequest`] to your router through a real receiver, waits until every event in the
//! inbox has ended, and returns the answer and the outcomes of the routes. The harness makes a single attempt at each
//! event. To test retries, pass an inbox to [`Harness::inbox`]. A test needs no network and no sleep:
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
//! delivered.assert_status(200);
//! delivered.assert_failed("connection.stream.started[.*]", "a stream without a title");
//! # }
//! ```
//!
//! The name of a route is its pattern, with `[.*]` for a prefix, unless [`named`] sets another name.
//!
//! # Your whole service
//!
//! [`Harness::service`] takes your service with its [`WebhookLayer`], and the handle of the layer. So
//! the test also covers your secret, your limits and your own layers:
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
//! # Invalid requests
//!
//! [`MockRequest`] also builds invalid requests. For example, a member is missing, the body isn't
//! JSON, the content type is wrong, or the body exceeds the limit. [`build`](MockRequest::build)
//! returns a plain [`http::Request`] for `tower::ServiceExt::oneshot` on any service.
//!
//! # Recorded deliveries
//!
//! `botisimo record` stores real deliveries as files. [`MockRequest::from_recording`] turns a file into a request, so a real
//! delivery becomes a test.
//!
//! # Time
//!
//! The [`Runtime`](crate::Runtime) of the inbox provides the clock. On tokio,
//! `#[tokio::test(start_paused = true)]` skips every delay, and a handler that hangs times out
//! immediately. The attribute needs tokio's feature `test-util`.
//!
//! The threads of `SqliteInbox` use real time. [`deliver`](Harness::deliver) holds a paused clock until
//! the answer arrives, for at most 2 s of real time. If a test sends a request without a harness or
//! calls [`drain`](crate::Handle::drain), the paused clock reaches the timeout first. Don't pause the
//! clock in these tests.
//!
//! [`named`]: crate::EventRouter::named
//! [`WebhookLayer`]: crate::WebhookLayer

#[cfg(feature = "tokio")]
mod clock_hold;
mod delivery_result;
mod harness;
mod mock_request;
mod recording;

pub use self::delivery_result::DeliveryResult;
pub use self::harness::Harness;
pub use self::mock_request::MockRequest;
