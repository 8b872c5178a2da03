//! Events and the router: decoding, patterns, handlers, and the user's layers around them.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod decoding;
#[cfg(feature = "tokio")]
mod handler_forms;
#[cfg(feature = "tokio")]
mod handler_mistakes;
mod json;
#[cfg(feature = "tokio")]
mod matching;
#[path = "../support/mod.rs"]
mod support;
#[cfg(feature = "tokio")]
mod user_layers;
