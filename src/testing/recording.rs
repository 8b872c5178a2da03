//! Files that `botisimo record` writes: one delivery each.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::Value;

/// The only version of the format.
const VERSION: u64 = 1;

/// The request of a recording. Other members, such as the answer, are ignored.
pub(super) struct Recording {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Recording {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path)?;
        Self::parse(&text).map_err(|reason| {
            let text = format!("{} is not a recording: {reason}", path.display());
            Error::new(ErrorKind::InvalidData, text)
        })
    }

    fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let file: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        match file.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(version) => {
                return Err(format!(
                    "version {version} of the format is not supported: update this crate"
                ));
            }
            None => return Err("`version` is missing".to_owned()),
        }
        let text = |name: &str| file.get(name).and_then(Value::as_str);
        let body = match (text("body"), text("body_hex")) {
            (Some(body), _) => Bytes::copy_from_slice(body.as_bytes()),
            (None, Some(hex)) => Bytes::from(bytes(hex).ok_or("`body_hex` is not hexadecimal")?),
            (None, None) => return Err("its body was not recorded".to_owned()),
        };
        let method = text("method").and_then(|method| method.parse().ok());
        Ok(Self {
            method: method.ok_or("`method` is not valid")?,
            path: text("path").ok_or("`path` is missing")?.to_owned(),
            headers: headers(&file["headers"]).ok_or("`headers` are not valid")?,
            body,
        })
    }
}

/// Returns the headers, except the headers that belong to the recorded connection.
fn headers(pairs: &Value) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in pairs.as_array()? {
        let name: HeaderName = pair.get(0)?.as_str()?.parse().ok()?;
        let value: HeaderValue = pair.get(1)?.as_str()?.parse().ok()?;
        if ![CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING].contains(&name) {
            headers.append(name, value);
        }
    }
    Some(headers)
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).ok())
        .collect()
}
