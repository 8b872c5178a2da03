//! The rules of the envelope.

use crate::json::{Json, unescape};

/// A valid envelope.
#[derive(Debug, PartialEq)]
pub struct Envelope<'a> {
    pub id: String,
    pub event_type: String,
    pub timestamp: i64,
    pub data: &'a str,
}

const NO_JSON: &str = "the body is not JSON";

/// Reads an envelope. Returns the error message if the envelope breaks a rule.
pub fn read(body: &[u8]) -> Result<Envelope<'_>, &'static str> {
    let body = std::str::from_utf8(body).map_err(|_| NO_JSON)?;
    let members = members(body.strip_prefix('\u{feff}').unwrap_or(body))?;
    let get = |name: &str| {
        let mut all = members.iter().filter(|member| member.0 == name);
        (all.next().map(|member| member.1), all.next().is_some())
    };
    // The error names the first repeated member.
    let known = ["messageId", "id", "eventType", "timestamp", "data"];
    for (i, (name, _)) in members.iter().enumerate() {
        let before = members[..i].iter().any(|member| member.0 == *name);
        if before && let Some(place) = known.iter().position(|known| known == name) {
            return Err([
                "`messageId` is given twice",
                "`id` is given twice",
                "`eventType` is given twice",
                "`timestamp` is given twice",
                "`data` is given twice",
            ][place]);
        }
    }
    let id = match (get("messageId").0, get("id").0) {
        (Some(id), _) => text(id).ok_or("`messageId` is not a string of 1 to 255 bytes")?,
        (None, Some(id)) => text(id).ok_or("`id` is not a string of 1 to 255 bytes")?,
        (None, None) => return Err("`messageId` is missing"),
    };
    let event_type = get("eventType").0.ok_or("`eventType` is missing")?;
    let event_type = text(event_type).ok_or("`eventType` is not a string of 1 to 255 bytes")?;
    let timestamp = get("timestamp").0.ok_or("`timestamp` is missing")?;
    let timestamp = timestamp.parse();
    Ok(Envelope {
        id,
        event_type,
        timestamp: timestamp.map_err(|_| "`timestamp` is not an integer of milliseconds")?,
        data: get("data").0.unwrap_or("null"),
    })
}

/// Returns the members of a body that is a JSON object.
fn members(body: &str) -> Result<Vec<(String, &str)>, &'static str> {
    let mut json = Json::new(body);
    json.space();
    if json.peek() != Some(b'{') {
        let whole = json.value().is_some() && json.ends();
        return Err(if whole {
            "the body is not a JSON object"
        } else {
            NO_JSON
        });
    }
    object(&mut json).filter(|_| json.ends()).ok_or(NO_JSON)
}

fn object<'a>(json: &mut Json<'a>) -> Option<Vec<(String, &'a str)>> {
    let mut members = Vec::new();
    json.take(b'{')?;
    json.space();
    if json.take(b'}').is_some() {
        return Some(members);
    }
    loop {
        json.space();
        let name = unescape(json.string()?)?;
        json.space();
        json.take(b':')?;
        json.space();
        members.push((name, json.value()?));
        json.space();
        if json.take(b'}').is_some() {
            return Some(members);
        }
        json.take(b',')?;
    }
}

fn text(value: &str) -> Option<String> {
    let text = value.starts_with('"').then(|| unescape(value))??;
    (1..=255).contains(&text.len()).then_some(text)
}
