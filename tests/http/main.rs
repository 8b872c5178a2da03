//! The receiver: from a request to its answer.
#![cfg(feature = "tokio")]
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

#[cfg(feature = "tracing")]
mod almost_the_path;
mod answers;
mod auto_traits;
mod client_disconnect;
mod connection_close;
mod deadline;
mod environment;
mod every_stack;
mod health;
mod hostile_clients;
mod layer_inbox;
mod outer_server;
mod pass_through;
#[path = "../support/mod.rs"]
mod support;
mod testing_kit;
mod tower_http_layers;
mod traceparent;
mod verification;
