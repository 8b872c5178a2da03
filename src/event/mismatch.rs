use serde::Deserialize;

use crate::error::{Error, ErrorKind};

pub(super) fn explain<'a, U: Deserialize<'a>>(_data: &'a str, error: &serde_json::Error) -> Error {
    let text = format!(
        "`data` doesn't fit (line {}, column {})",
        error.line(),
        error.column()
    );
    Error::new(ErrorKind::Payload, text)
}
