//! Reads a request head's declarations about the body.

use http::{HeaderMap, HeaderValue, header};

/// Returns whether the content type is JSON, absent or empty.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return true;
    };
    if value == "application/json" || value.as_bytes().trim_ascii().is_empty() {
        return true;
    }
    let Ok(value) = value.to_str() else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    let Some((kind, subtype)) = essence.split_once('/') else {
        return false;
    };
    let json = kind.eq_ignore_ascii_case("application") && subtype.eq_ignore_ascii_case("json");
    json || subtype
        .get(subtype.len().saturating_sub(5)..)
        .is_some_and(|end| end.eq_ignore_ascii_case("+json"))
}

/// Returns whether a content encoding other than `identity` is declared.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    let identity = |value: &HeaderValue| {
        value.is_empty() || value.as_bytes().eq_ignore_ascii_case(b"identity")
    };
    !headers
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(identity)
}

/// Returns the declared length, or 0.
pub(super) fn declared(headers: &HeaderMap) -> u64 {
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

pub(super) fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
