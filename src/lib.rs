//! Receives [Botisimo](https://botisimo.com) webhooks inside any tower service, and runs the async handlers that are
//! registered for them.
//!
//! ```text
//! HTTP request ─▶ WebhookLayer ─▶ Inbox ─▶ 200        the inbox has stored the event
//!                     │             └────▶ EventRouter ─▶ every handler whose pattern matches
//!                     └─▶ your service, for every other request
//! ```
//!
//! # Example
//!
//! ```no_run
//! use std::sync::{Arc, Mutex};
//! use axum::{Router, routing::get};
//! use botisimo_webhooks::{Event, EventRouter, HandlerResult, SharedSecret, WebhookLayer};
//!
//! #[derive(serde::Deserialize)]
//! struct Stream { title: String }
//!
//! async fn refresh(event: Event) -> HandlerResult {
//!     tokio::fs::write("account.json", event.raw_data()).await?; // an error is retried
//!     Ok(())
//! }
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let titles = Arc::new(Mutex::new(Vec::new()));
//!     let router = EventRouter::new()
//!         .on_prefix("connection.stream.started", move |event: Event<Stream>| async move {
//!             titles.lock().unwrap().push(event.into_data().title);
//!         })
//!         .on("account.updated", refresh);
//!
//!     // Register https://example.com/webhooks/botisimo?token=<BOTISIMO_SECRET> in the dashboard.
//!     let webhooks = WebhookLayer::new("/webhooks/botisimo", router)
//!         .verify(SharedSecret::from_env("BOTISIMO_SECRET")?);
//!     let handle = webhooks.handle();
//!     let app = Router::new().route("/", get(|| async { "home" })).layer(webhooks);
//!
//!     // On SIGTERM or Ctrl-C, the receiver answers 503 and the sender retries. The server closes
//!     // after the accepted events have ended, because a closed port may lose an event.
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     let ended = handle
//!         .shutdown_on_signal()
//!         .serve(|drained| axum::serve(listener, app).with_graceful_shutdown(drained))
//!         .await?;
//!     println!("{} events remain", ended.remaining);
//!     Ok(())
//! }
//! ```
//!
//! The specification doesn't say whether a stream start on Twitch is sent as `connection.stream.started`, as
//! `connection.stream.started.twitch` or as both. [`on_prefix`](EventRouter::on_prefix) handles either. If the sender sends
//! both, the handler runs twice.
//!
//! # Where to look
//!
//! The [`guide`] explains each part with examples that compile.
//!
//! | topic | items | guide |
//! |---|---|---|
//! | a first service | [`WebhookLayer`], [`Endpoint`] | [`guide::getting_started`] |
//! | handlers, patterns, errors | [`EventRouter`], [`Pattern`], [`IntoOutcome`], [`HandlerError`] | [`guide::handlers`] |
//! | events and their types | [`Event`], [`EventType`], [`Platform`] | [`guide::handlers`] |
//! | stale events, timeout and retries of one route | [`EventRouter::fresh_within`], [`EventRouter::timeout`], [`EventRouter::retry`] | [`guide::route_options`] |
//! | answers and secrets | [`RejectionReason`], [`SharedSecret`], [`Verify`] | [`guide::getting_started`] |
//! | limits | [`MemoryInboxBuilder`], [`SqliteInboxBuilder`] | [`guide::inboxes`] |
//! | concurrency, timeouts, order, hooks | [`DeliverySettings`] | [`guide::inboxes`] |
//! | events that survive a crash | [`SqliteInbox`] (feature `sqlite`) | [`guide::inboxes`] |
//! | events in flight and ended events, replays | [`EventLog`], [`EventRecord`], [`EventFilter`] | [`guide::events`] |
//! | pages in a browser | [`Inspector`], [`Access`] (feature `inspector`) | [`guide::inspector`] |
//! | dead letters | [`DeadLetters`], [`DeadLetter`] | [`guide::dead_letters`] |
//! | retries | [`RetryPolicy`] | [`guide::retries`] |
//! | shutdown, containers, proxies, backups | [`Shutdown`], [`Handle`] | [`guide::deployment`] |
//! | tests of your handlers | the module [`testing`] | [`guide::testing`] |
//! | counts, logs, faults | [`Stats`] | [`guide::operating`] |
//! | health, probes | [`Health`], [`HealthService`], [`HealthLimits`] | [`guide::operating`] |
//! | metrics | the feature `metrics` | [`guide::metrics`] |
//! | more than one machine | [`PostgresInbox`] (feature `postgres`), [`JetStreamInbox`], [`JetStreamWorker`] (feature `jetstream`) | [`guide::scaling`] |
//! | a wrapper around an inbox, another executor | [`Inbox`], [`Runtime`] | [`guide::inboxes`] |
//!
//! # Guarantees
//!
//! - The receiver answers 2xx only once the inbox has stored the event, and doesn't wait for handlers.
//! - The receiver answers every webhook request within [`response_timeout`](WebhookLayer::response_timeout), by default
//!   3 s. The sender drops events that time out, and retries events that get a 503.
//! - Every accepted event ends with exactly one outcome, which [`Stats`] counts.
//! - A handler that fails, panics, hangs or can't decode its payload affects only its own route.
//! - Memory is bounded by count and by bytes, regardless of the requests.
//! - Requests for other paths pass through untouched, without an allocation.
//! - This crate never writes secrets or payloads to its logs or errors. The log contains handlers' error messages, unless
//!   [`redact_handler_errors`](DeliverySettings::redact_handler_errors) is set.
//!
//! # Limits
//!
//! - [`MemoryInbox`] stores events only in the memory of the process. [Drain](Handle::shutdown_on_signal) before the process
//!   exits. A crash loses every accepted event that hasn't finished. `SqliteInbox`, `PostgresInbox` and
//!   `JetStreamInbox` lose no events in a crash.
//! - A handler may see an event more than once: after a failed attempt or a crash, or if a copy arrives after the
//!   duplicate window. The window is 24 h and 100,000 ids in memory, 7 days and 1,000,000 ids on disk. Use
//!   [`Event::id`] to make handlers idempotent.
//! - A failed route is retried. By [default](RetryPolicy) a route gets 5 attempts in all. After the last attempt the
//!   event becomes a [dead letter](DeadLetters). The memory inbox keeps the newest 1,000 dead letters.
//! - Events run in parallel, unless the inbox has an [ordering key](DeliverySettings::ordering_key). JetStream doesn't
//!   support ordering keys.
//! - A handler that blocks its thread delays other tasks: use `spawn_blocking`. With `panic = "abort"` a panic ends the
//!   process.
//! - Botisimo doesn't sign its webhooks. Without a [`SharedSecret`], any client that knows the URL can send events.
//! - The sender doesn't publish the schema of payloads, so this crate ships no types for `data`.
//!
//! # Features
//!
//! | Name | Description | Default |
//! |---|---|---|
//! | `tokio` | [`TokioRuntime`], and constructors that use it | yes |
//! | `inspector` | [`Inspector`], pages that list and replay events | no |
//! | `signal` | [`Handle::shutdown_on_signal`]; enables `tokio` | yes |
//! | `tracing` | logs, and spans of attempts and routes in the request's span | yes |
//! | `metrics` | metrics through the facade crate `metrics`: see [`guide::metrics`] | no |
//! | `sqlite` | [`SqliteInbox`], which stores events on disk; compiles SQLite, so it needs a C compiler | no |
//! | `postgres` | [`PostgresInbox`], which stores events in PostgreSQL for any number of processes; enables `tokio` | no |
//! | `jetstream` | [`JetStreamInbox`] and [`JetStreamWorker`], over NATS JetStream; enables `tokio` | no |
//! | `testing` | mock requests and a test harness for handlers | no |
//!
//! Each feature works on its own, and the crate works without any feature. To use another executor, implement [`Runtime`].
#![cfg_attr(docsrs, feature(doc_cfg))]
// The docs link to items of all features. A build with all features checks the links.
#![cfg_attr(
    not(all(
        feature = "inspector",
        feature = "jetstream",
        feature = "postgres",
        feature = "signal",
        feature = "sqlite",
        feature = "testing",
        feature = "tokio"
    )),
    allow(rustdoc::broken_intra_doc_links)
)]
// Delivery code has no feature gates, so some builds compile items that they don't use.
#![cfg_attr(
    not(all(
        feature = "inspector",
        feature = "jetstream",
        feature = "metrics",
        feature = "postgres",
        feature = "sqlite"
    )),
    allow(dead_code, unused_imports)
)]

mod catch_panic;
mod delivery;
mod error;
mod event;
// Compiled only for the docs and their tests. The links and the code of a page need all features.
#[cfg(all(
    doc,
    any(
        not(doctest),
        all(feature = "signal", feature = "sqlite", feature = "testing")
    )
))]
pub mod guide;
mod inbox;
#[cfg(feature = "inspector")]
mod inspector;
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

pub use crate::delivery::{
    Attempt, AttemptRecord, DeadLetter, DeliverySettings, EventOutcome, EventRecord, EventState,
    Replay, RouteResult, Stats,
};
pub use crate::error::{Error, ErrorKind};
pub use crate::event::{Event, EventType, Payload, Platform, Raw};
pub use crate::inbox::{
    AcceptError, AcceptErrorKind, Accepted, DeadLetters, Drained, EventFilter, EventLog, Handle,
    Health, HealthLimits, HealthProblem, HealthProblemKind, Inbox, IntoInbox, MemoryInbox,
    MemoryInboxBuilder, Shutdown,
};
#[cfg(feature = "postgres")]
#[cfg_attr(docsrs, doc(cfg(feature = "postgres")))]
pub use crate::inbox::{Completion, PostgresInbox, PostgresInboxBuilder};
#[cfg(feature = "jetstream")]
#[cfg_attr(docsrs, doc(cfg(feature = "jetstream")))]
pub use crate::inbox::{
    JetStreamInbox, JetStreamInboxBuilder, JetStreamWorker, JetStreamWorkerBuilder, StartAt,
    StreamSettings, WorkerStats,
};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use crate::inbox::{
    SqliteFile, SqliteFileCheck, SqliteFileStats, SqliteInbox, SqliteInboxBuilder,
};
#[cfg(feature = "inspector")]
#[cfg_attr(docsrs, doc(cfg(feature = "inspector")))]
pub use crate::inspector::{Access, Inspector, InspectorAction, InspectorBody, Permission};
pub use crate::outcome::{
    HandlerError, HandlerResult, IntoOutcome, Outcome, Report, RetryPolicy, SkipReason,
};
pub use crate::router::{EventRouter, Pattern, Route, RouterFuture};
#[cfg(feature = "tokio")]
#[cfg_attr(docsrs, doc(cfg(feature = "tokio")))]
pub use crate::runtime::TokioRuntime;
pub use crate::runtime::{BoxFuture, Runtime};
pub use crate::service::{
    Endpoint, HealthService, Rejection, RejectionReason, ResponseBody, ResponseFuture,
    SharedSecret, Unverified, Verify, Webhook, WebhookLayer,
};

/// The README's examples, compiled and run as tests.
#[cfg(all(doctest, feature = "signal", feature = "sqlite", feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;
