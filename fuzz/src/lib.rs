//! What the fuzz targets compare the crate with: the rules, written a second time and as plainly as
//! can be, and bodies, an inbox and a clock that do as an input says.

pub mod body;
pub mod decoding;
pub mod envelope;
pub mod inbox;
pub mod json;
pub mod pattern;
pub mod runtime;
