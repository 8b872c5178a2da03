//! Explains where and why the data of an event doesn't fit a type, without quoting the data.
//!
//! serde_json's messages quote the payload. So [`explain`] decodes mismatched data again through wrappers
//! ([`Tracked`]). The wrappers use an error type ([`Problem`]) that contains only static strings, indexes and
//! positions.

mod problem;
#[cfg(test)]
mod tests;
mod tracked;

use serde::Deserialize;

use self::tracked::{Spot, Tracked};
use crate::error::{Error, ErrorKind};

/// Names that a type declares.
type Names = &'static [&'static str];

/// Explains why `data`, which is valid JSON, doesn't fit `U`. `error` is serde_json's error.
pub(super) fn explain<'a, U: Deserialize<'a>>(data: &'a str, error: &serde_json::Error) -> Error {
    let spot = Spot::default();
    let mut json = serde_json::Deserializer::from_str(data);
    let decoded = U::deserialize(Tracked {
        inner: &mut json,
        spot: &spot,
    })
    .and_then(|_| json.end().map_err(|error| spot.surfaced(&error, None)));
    let text = match decoded {
        Err(problem) => format!("`data` doesn't fit: {problem}"),
        // serde_json parses the position of a custom error from the end of the message. The message
        // may quote the payload.
        Ok(()) if error.is_data() => "`data` doesn't fit".to_owned(),
        Ok(()) => format!(
            "`data` doesn't fit (line {}, column {})",
            error.line(),
            error.column()
        ),
    };
    Error::new(ErrorKind::Payload, text)
}
