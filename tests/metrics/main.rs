//! Metrics: the counts equal `Stats`, the labels are bounded, and a recorder can't do harm.
#![allow(clippy::unwrap_used)] // a failed `unwrap` fails the test

mod counts;
mod gauges;
mod labels;
mod recorded;
mod recorders;
#[path = "../support/mod.rs"]
mod support;
