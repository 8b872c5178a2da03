//! Receives [Botisimo](https://botisimo.com)'s webhooks inside any tower service, and runs the async
//! handlers registered for them.
//!
//! ```text
//! HTTP request ─▶ WebhookLayer ─▶ Inbox ─▶ 200        the inbox owns the event from here on
//!                     │             └────▶ EventRouter ─▶ every handler whose pattern matches
//!                     └─▶ your service, for every other request
//! ```
//!
//! # Example
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use botisimo_webhooks::{Event, EventRouter, HandlerResult, SharedSecret, WebhookLayer};
//! use std::time::Duration;
//!
//! #[derive(serde::Deserialize)]
//! struct Stream { title: String }
//!
//! async fn refresh(event: Event) -> HandlerResult {
//!     tokio::fs::write("account.json", event.raw_data()).await?;
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> std::io::Result<()> {
//!     let router = EventRouter::new()
//!         .on_prefix("connection.stream.started", |event: Event<Stream>| async move {
//!             println!("{} is live: {}", event.event_type(), event.data().title);
//!         })
//!         .on("account.updated", refresh);
//!
//!     let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
//!         .verify(SharedSecret::in_query("token", "a long random text"));
//!     let handle = webhooks.handle();
//!
//!     let app = Router::new().route("/", get(|| async { "home" })).layer(webhooks);
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app)
//!         .with_graceful_shutdown(async move {
//!             let _ = tokio::signal::ctrl_c().await;
//!             let drained = handle.drain(Duration::from_secs(25)).await;
//!             println!("{} events left", drained.remaining);
//!         })
//!         .await
//! }
//! ```
//!
//! The specification doesn't say whether the start of a stream on Twitch sends
//! `connection.stream.started`, `connection.stream.started.twitch`, or both. `on_prefix` takes
//! whichever comes; if both come, its handler runs for each.
//!
//! # Where to look
//!
//! | for | see |
//! |---|---|
//! | handlers, patterns, isolation | [`EventRouter`], [`Pattern`], [`IntoOutcome`], [`HandlerError`] |
//! | events and their types | [`Event`], [`EventType`], [`Platform`] |
//! | where the layer goes in axum, hyper, tonic | [`WebhookLayer`], [`Endpoint`] |
//! | every answer, and why | [`RejectionReason`] |
//! | secrets | [`SharedSecret`], [`Verify`] |
//! | bounds, timeouts, retries, order, hooks | [`MemoryInboxBuilder`], [`RetryPolicy`], [`WebhookLayer`] |
//! | events that outlive the process | `SqliteInbox`, `SqliteInboxBuilder` (feature `sqlite`) |
//! | more than one machine | `JetStreamInbox`, `JetStreamWorker`, `StreamSettings` (feature `jetstream`) |
//! | events that were given up | [`DeadLetters`], [`DeadLetter`] |
//! | counts, drain at shutdown | [`Handle`], [`Stats`] |
//! | an inbox or an executor of your own | [`Inbox`], [`Runtime`] |
//! | tests of your handlers | the module `testing` |
//!
//! # What is guaranteed
//!
//! - A 2xx is sent only once the inbox owns the event, and it is sent without waiting for handlers.
//! - Every webhook request is answered within [`response_timeout`](WebhookLayer::response_timeout), 3 s unless
//!   set: the sender never tries an event again that it got no quick answer for, but does so after
//!   a 503.
//! - Every accepted event ends in exactly one count of [`Stats`].
//! - A handler that fails, panics, hangs, or asks for a payload that doesn't fit costs its own
//!   route and no other.
//! - Memory is bounded, by count and by bytes, whatever is sent.
//! - Requests for other paths pass through untouched, with no allocation.
//! - Neither secrets nor payloads appear in what this crate logs, nor in its errors.
//!
//! # What is not
//!
//! - [`MemoryInbox`] loses what it holds with the process: drain it before the end, and know that a
//!   crash loses what was accepted and not yet delivered. `SqliteInbox` loses nothing, nor does
//!   `JetStreamInbox`.
//! - A handler can see an event twice: its attempts, a crash right after it, a copy after the window
//!   of the ids, 24 h and 100,000 in memory, 7 days and 1,000,000 on disk. Make handlers idempotent
//!   by [`Event::id`].
//! - A route that failed is tried again, 5 times in all unless [set](RetryPolicy) otherwise. What
//!   is dead after that is kept among the [`DeadLetters`], the newest 1,000 in memory.
//! - Deliveries run in parallel, unless they are put in
//!   [order by key](MemoryInboxBuilder::ordering_key), which isn't to be had on JetStream.
//! - A handler that blocks its thread holds up whatever else runs there: use `spawn_blocking`. With
//!   `panic = "abort"` nothing can isolate a panic.
//! - Botisimo signs nothing. Without a [`SharedSecret`] anyone who knows the URL can send events.
//! - The payloads' schema isn't published, so this crate ships no types for `data`.
//!
//! # Features
//!
//! | Name | Description | Default |
//! |---|---|---|
//! | `tokio` | [`TokioRuntime`], and inboxes that use it without being told | yes |
//! | `tracing` | logs, and the request's span carried into its handlers | yes |
//! | `sqlite` | `SqliteInbox`, which keeps events on disk; builds SQLite, so it needs a C compiler | no |
//! | `jetstream` | `JetStreamInbox` and `JetStreamWorker`, which stand on NATS JetStream; turns on `tokio` | no |
//! | `testing` | mock requests and a harness for the tests of handlers | no |
//!
//! Each works alone, and none at all does too: on another executor implement [`Runtime`].
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(not(feature = "tokio"), allow(rustdoc::broken_intra_doc_links))]
// What only some inboxes use is compiled for all of them: the engine doesn't name features.
#![cfg_attr(
    not(all(feature = "jetstream", feature = "sqlite")),
    allow(dead_code, unused_imports)
)]

mod catch_panic;
mod delivery;
mod error;
mod event;
mod inbox;
mod outcome;
mod router;
mod runtime;
mod service;
mod sync;
mod telemetry;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;
mod waiters;

pub use crate::delivery::{Attempt, DeadLetter, EventOutcome, RetryPolicy, RouteResult, Stats};
pub use crate::error::{Error, ErrorKind};
pub use crate::event::{Event, EventType, Payload, Platform, Raw, UndocumentedType};
pub use crate::inbox::{
    AcceptError, AcceptErrorKind, Accepted, DeadLetterStore, DeadLetters, Drained, Handle, Inbox,
    InboxControl, IntoInbox, MemoryInbox, MemoryInboxBuilder,
};
#[cfg(feature = "jetstream")]
#[cfg_attr(docsrs, doc(cfg(feature = "jetstream")))]
pub use crate::inbox::{
    JetStreamInbox, JetStreamInboxBuilder, JetStreamWorker, JetStreamWorkerBuilder, StartAt,
    StreamSettings, WorkerStats,
};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use crate::inbox::{SqliteInbox, SqliteInboxBuilder};
pub use crate::outcome::{HandlerError, HandlerResult, IntoOutcome, Outcome, Report, RouteReport};
pub use crate::router::{EventRouter, Pattern, Route, RouterFuture};
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use crate::runtime::TokioRuntime;
pub use crate::runtime::{BoxFuture, Runtime};
pub use crate::service::{
    Endpoint, EndpointFuture, Rejection, RejectionReason, ResponseBody, ResponseFuture,
    SharedSecret, Unverified, Verify, Webhook, WebhookLayer,
};

/// The README's examples, compiled and run as tests.
#[cfg(all(doctest, feature = "sqlite", feature = "testing", feature = "tokio"))]
#[doc = include_str!("../README.md")]
struct Readme;
