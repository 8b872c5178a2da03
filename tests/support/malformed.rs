//! Mock requests whose body isn't a valid event.

use botisimo_webhooks::testing::MockRequest;
use serde_json::{Map, Value};

/// Changes the body of a mock request. Set members before calling these methods.
pub(crate) trait Malformed {
    /// Removes the last byte of the body, so that the body isn't JSON.
    fn truncated(self) -> Self;

    /// Removes a member of the envelope.
    fn without(self, name: &str) -> Self;

    /// Adds a member to the envelope as JSON text, even if the envelope has a member of the same name.
    fn twice(self, name: &str, value: impl AsRef<str>) -> Self;
}

impl Malformed for MockRequest {
    fn truncated(self) -> Self {
        let body = self.body_bytes();
        let cut = body.slice(..body.len() - 1);
        self.body(cut)
    }

    fn without(self, name: &str) -> Self {
        let mut members: Map<String, Value> = serde_json::from_slice(&self.body_bytes()).unwrap();
        assert!(members.remove(name).is_some(), "there is no {name}");
        self.body(serde_json::to_vec(&members).unwrap())
    }

    fn twice(self, name: &str, value: impl AsRef<str>) -> Self {
        let body = self.body_bytes();
        let members = str::from_utf8(&body).unwrap().strip_suffix('}').unwrap();
        let body = format!("{members},\"{name}\":{}}}", value.as_ref());
        self.body(body)
    }
}
