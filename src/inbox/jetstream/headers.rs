//! What goes beside a body: in headers, each of whose values is encoded, or digits.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;

use crate::runtime::to_millis;

/// When the event was received, in milliseconds since the Unix epoch.
const RECEIVED: &str = "Botisimo-Received";

pub(super) fn set_received_at(headers: &mut HeaderMap, at: SystemTime) {
    headers.insert(RECEIVED, to_millis(at).to_string());
}

pub(super) fn received_at(headers: &HeaderMap) -> Option<SystemTime> {
    time(headers, RECEIVED)
}

pub(super) fn time(headers: &HeaderMap, name: &str) -> Option<SystemTime> {
    let millis = headers.get(name)?.as_str().parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}
