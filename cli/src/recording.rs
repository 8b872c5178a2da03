//! The files of `botisimo record`: one JSON object for each delivery.

use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fs, io};

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// `MockRequest::from_recording` of the library reads the same format.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Recording {
    pub(crate) version: u32,
    /// RFC 3339, with milliseconds.
    pub(crate) received_at: String,
    pub(crate) method: String,
    /// The path without the query, because the query contains the secret.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// The body, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<String>,
    /// The body as hexadecimal digits, if it isn't UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_hex: Option<String>,
    /// Why the body isn't here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body_omitted: Option<String>,
    pub(crate) answer: RecordedAnswer,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct RecordedAnswer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    pub(crate) took_ms: f64,
    /// Why the endpoint behind the recorder gave no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

impl Recording {
    pub(crate) const VERSION: u32 = 1;

    pub(crate) fn received_at(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.received_at).ok()
    }
}

/// Returns the headers as pairs of text. A value that isn't UTF-8 loses bytes.
pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

/// Returns the recordings in a folder, in the order of their arrival.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failure = |error: io::Error| {
        Failure::usage(format_args!(
            "can't read the folder {}: {error}",
            folder.display()
        ))
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failure)? {
        let path = entry.map_err(failure)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
