//! The JSON object that the sender puts around an event.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// An envelope in the order of the specification, with any further members.
#[derive(Clone, Debug)]
pub(crate) struct Envelope(Map<String, Value>);

impl Envelope {
    pub(crate) fn new(id: &str, timestamp: i64, event_type: &str, data: Value) -> Self {
        let members = [
            ("messageId", json!(id)),
            ("timestamp", json!(timestamp)),
            ("eventType", json!(event_type)),
            ("data", data),
        ];
        Self(
            members
                .map(|(name, value)| (name.to_owned(), value))
                .into_iter()
                .collect(),
        )
    }

    pub(crate) fn set_id(&mut self, id: &str) {
        self.0["messageId"] = json!(id);
    }

    pub(crate) fn set_timestamp(&mut self, timestamp: i64) {
        self.0["timestamp"] = json!(timestamp);
    }

    /// Sets the member at a path such as `data.title` or `data.items.0`. Creates missing objects.
    pub(crate) fn set(&mut self, path: &str, value: Value) -> Result<(), String> {
        let mut names = path.split('.').peekable();
        let first = names.next().filter(|name| !name.is_empty());
        let first = first.ok_or_else(|| "the path is empty".to_owned())?;
        let mut place = self.0.entry(first).or_insert(Value::Null);
        for name in names {
            if name.is_empty() {
                return Err(format!("the path {path} has an empty segment"));
            }
            place = match place {
                Value::Object(members) => members.entry(name).or_insert(Value::Null),
                Value::Array(items) => {
                    let count = items.len();
                    let index = name.parse::<usize>().ok();
                    index.and_then(|index| items.get_mut(index)).ok_or_else(|| {
                        format!("{path}: the array has {count} items, and {name} is not the index of one")
                    })?
                }
                Value::Null => {
                    *place = Value::Object(Map::new());
                    match place {
                        Value::Object(members) => members.entry(name).or_insert(Value::Null),
                        _ => unreachable!("it was just set to an object"),
                    }
                }
                other => {
                    return Err(format!(
                        "{path}: {other} is not an object, so it has no member {name}"
                    ));
                }
            };
        }
        *place = value;
        Ok(())
    }

    pub(crate) fn to_bytes(&self) -> Bytes {
        Bytes::from(serde_json::to_vec(&self.0).expect("JSON serializes"))
    }
}

/// Returns a random UUID, as the sender uses.
pub(crate) fn random_id(random: &mut fastrand::Rng) -> String {
    let bits = random.u128(..);
    let bits = (bits & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}

/// Returns the milliseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(path: &str, value: Value) -> Result<Value, String> {
        let mut envelope = Envelope::new(
            "m-1",
            1,
            "a.b",
            json!({ "items": [{ "n": 1 }], "title": "x" }),
        );
        envelope.set(path, value)?;
        Ok(Value::Object(envelope.0))
    }

    #[test]
    fn a_path_sets_a_member_an_item_or_a_new_object() {
        assert_eq!(set("data.title", json!("y")).unwrap()["data"]["title"], "y");
        assert_eq!(
            set("data.items.0.n", json!(2)).unwrap()["data"]["items"][0]["n"],
            2
        );
        assert_eq!(
            set("data.a.b", json!(true)).unwrap()["data"]["a"]["b"],
            true
        );
        assert_eq!(set("extra", json!(null)).unwrap()["extra"], json!(null));
        assert_eq!(
            set("timestamp", json!("soon")).unwrap()["timestamp"],
            "soon"
        );
    }

    #[test]
    fn a_path_into_a_value_that_has_no_members_is_an_error() {
        assert!(
            set("data.title.x", json!(1))
                .unwrap_err()
                .contains("is not an object")
        );
        assert!(
            set("data.items.9", json!(1))
                .unwrap_err()
                .contains("has 1 items")
        );
        assert!(
            set("data..x", json!(1))
                .unwrap_err()
                .contains("empty segment")
        );
        assert!(set("", json!(1)).unwrap_err().contains("empty"));
    }

    #[test]
    fn random_ids_are_uuids_and_repeat_with_the_seed() {
        let id = random_id(&mut fastrand::Rng::with_seed(7));
        assert_eq!(id, random_id(&mut fastrand::Rng::with_seed(7)));
        assert_eq!(id.len(), 36);
        assert_eq!(id.as_bytes()[14], b'4');
        assert!(
            matches!(id.as_bytes()[19], b'8' | b'9' | b'a' | b'b'),
            "{id}"
        );
    }
}
