//! Models for the fuzz targets. Simple code implements the rules. Bodies, an inbox and a clock follow the
//! input.

pub mod body;
pub mod decoding;
pub mod envelope;
pub mod inbox;
pub mod json;
pub mod pattern;
pub mod runtime;
