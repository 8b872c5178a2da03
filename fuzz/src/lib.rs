//! The models that the fuzz targets compare the crate with: the rules as simple code, and bodies, an
//! inbox and a clock that follow the input.

pub mod body;
pub mod decoding;
pub mod envelope;
pub mod inbox;
pub mod json;
pub mod pattern;
pub mod runtime;
