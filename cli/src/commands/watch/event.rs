//! Events as the inspector serializes them, with texts that are safe for a terminal.

use std::fmt;
use std::ops::Deref;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::text::visible;

/// Text from the sender, from a handler or from the server, without characters that control a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn new(text: &str) -> Self {
        Self(visible(text).into_owned())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Event {
    pub(super) id: u64,
    pub(super) message_id: Text,
    /// `None` if the server can't decode the event.
    pub(super) event_type: Option<Text>,
    pub(super) state: Text,
    #[serde(default)]
    pub(super) routes: Vec<RouteResult>,
    pub(super) cause: Option<Text>,
    #[serde(default)]
    pub(super) attempts: u64,
    #[serde(default)]
    pub(super) history: Vec<Attempt>,
    /// Milliseconds since 1970.
    received_at: i64,
    ended_at: Option<i64>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Attempt {
    pub(super) number: u64,
    started_at: i64,
    /// Seconds.
    duration: f64,
    #[serde(default)]
    pub(super) routes: Vec<RouteResult>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct RouteResult {
    pub(super) route: Text,
    /// `None` if the route has handled the event.
    pub(super) reason: Option<Text>,
}

impl Event {
    /// Reads an event. Returns `None` if the object isn't an event.
    pub(super) fn read(value: &Value) -> Option<Self> {
        Self::deserialize(value).ok()
    }

    pub(super) fn event_type(&self) -> &str {
        self.event_type.as_deref().unwrap_or("can't be decoded")
    }

    pub(super) fn received_at(&self) -> SystemTime {
        time(self.received_at)
    }

    pub(super) fn ended_at(&self) -> Option<SystemTime> {
        self.ended_at.map(time)
    }

    /// Returns the result on one line: the failed routes with their reasons, or the routes that handled the event.
    pub(super) fn result(&self) -> String {
        let failed = self.routes.iter().filter_map(|result| {
            let reason = result.reason.as_ref()?;
            Some(format!("{}: {reason}", result.route))
        });
        let mut parts: Vec<_> = failed.collect();
        if parts.is_empty() {
            parts.extend(self.routes.iter().map(|result| result.route.to_string()));
        }
        if let (true, Some(cause)) = (parts.is_empty(), &self.cause) {
            parts.push(cause.to_string());
        }
        parts.join(", ")
    }
}

impl Attempt {
    pub(super) fn started_at(&self) -> SystemTime {
        time(self.started_at)
    }

    pub(super) fn duration(&self) -> Duration {
        Duration::try_from_secs_f64(self.duration).unwrap_or_default()
    }
}

fn time(millis: i64) -> SystemTime {
    // The year 9999 is the last that a text of a time can have.
    let millis = u64::try_from(millis).unwrap_or_default();
    UNIX_EPOCH + Duration::from_millis(millis.min(253_402_300_799_999))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_text_of_an_event_can_control_the_terminal() {
        let hostile = "x\u{1b}]0;title\u{7}\n\u{202e}";
        let event = Event::read(&json!({
            "id": 1, "message_id": hostile, "event_type": hostile, "state": hostile, "cause": hostile, "attempts": 1,
            "routes": [{ "route": hostile, "reason": hostile }],
            "history": [{ "number": 1, "started_at": -5, "duration": -1.0, "routes": [{ "route": hostile, "reason": null }] }],
            "received_at": i64::MAX, "ended_at": null
        }));
        let event = event.expect("the event is complete");
        let texts = format!("{} {event:?} {}", event.result(), event.message_id);
        let is_raw = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!texts.contains(is_raw), "{texts:?}");
        assert_eq!(&*event.message_id, "x\\u{1b}]0;title\\u{7}\\n\\u{202e}");
        let _ = humantime::format_rfc3339(event.received_at()).to_string();
        assert_eq!(event.history[0].duration(), Duration::ZERO);
    }
}
