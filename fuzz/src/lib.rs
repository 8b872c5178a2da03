//! Models for the fuzz targets: simple implementations of the rules, and bodies, an inbox and a clock that
//! follow the input.

pub mod body;
pub mod decoding;
pub mod inbox;
pub mod pattern;
pub mod runtime;

#[path = "../../tests/support/envelope.rs"]
mod envelope;
