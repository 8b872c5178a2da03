//! The inbox on NATS JetStream and its workers, on real servers. `NATS_SERVER` names the program.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod contract;
mod events;
mod facts;
mod inbox;
mod kit;
mod operators;
mod processes;
mod shutdown;
#[path = "../support/mod.rs"]
mod support;
mod worker;
