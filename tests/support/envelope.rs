//! The rules of the envelope over serde_json. The crate's own decoder gives the same results. The fuzz targets use this file, too.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// A valid envelope.
#[derive(Debug)]
pub(crate) struct Envelope<'a> {
    pub(crate) id: String,
    pub(crate) event_type: String,
    pub(crate) timestamp: i64,
    pub(crate) data: &'a str,
}

const NO_JSON: &str = "the body is not JSON";

/// Reads an envelope. Returns the error message if the envelope breaks a rule.
pub(crate) fn read(body: &[u8]) -> Result<Envelope<'_>, &'static str> {
    let body = std::str::from_utf8(body).map_err(|_| NO_JSON)?;
    let members = members(body.strip_prefix('\u{feff}').unwrap_or(body))?;
    // The error names the first repeated member.
    for (i, (name, _)) in members.iter().enumerate() {
        if members[..i].iter().any(|member| member.0 == *name) {
            match name.as_str() {
                "messageId" => return Err("`messageId` is given twice"),
                "id" => return Err("`id` is given twice"),
                "eventType" => return Err("`eventType` is given twice"),
                "timestamp" => return Err("`timestamp` is given twice"),
                "data" => return Err("`data` is given twice"),
                _ => {}
            }
        }
    }
    let get = |name: &str| {
        let member = members.iter().find(|member| member.0 == name);
        member.map(|(_, value)| value.get())
    };
    let id = match (get("messageId"), get("id")) {
        (Some(id), _) => text(id).ok_or("`messageId` is not a string of 1 to 255 bytes")?,
        (None, Some(id)) => text(id).ok_or("`id` is not a string of 1 to 255 bytes")?,
        (None, None) => return Err("`messageId` is missing"),
    };
    let event_type = get("eventType").ok_or("`eventType` is missing")?;
    let event_type = text(event_type).ok_or("`eventType` is not a string of 1 to 255 bytes")?;
    let timestamp = get("timestamp").ok_or("`timestamp` is missing")?;
    let timestamp = timestamp.parse();
    Ok(Envelope {
        id,
        event_type,
        timestamp: timestamp.map_err(|_| "`timestamp` is not an integer of milliseconds")?,
        data: get("data").unwrap_or("null"),
    })
}

/// Returns the members of a body that is a JSON object.
fn members(body: &str) -> Result<Vec<(String, &RawValue)>, &'static str> {
    let mut deserializer = serde_json::Deserializer::from_str(body);
    let members = deserializer.deserialize_map(Members);
    match members.and_then(|members| deserializer.end().map(|()| members)) {
        Ok(members) => Ok(members),
        Err(_) if body.trim_start().starts_with('{') => Err(NO_JSON),
        Err(_) => match serde_json::from_str::<&RawValue>(body) {
            Ok(_) => Err("the body is not a JSON object"),
            Err(_) => Err(NO_JSON),
        },
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        std::iter::from_fn(|| map.next_entry().transpose()).collect()
    }
}

fn text(value: &str) -> Option<String> {
    let text: String = serde_json::from_str(value).ok()?;
    (1..=255).contains(&text.len()).then_some(text)
}
