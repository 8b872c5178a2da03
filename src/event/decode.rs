//! Reads the members of an envelope in one pass over the body, without building a tree of values.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind};

/// The maximum length of a `messageId` or an `eventType`, in bytes.
pub(crate) const MAX_TEXT: usize = 255;

/// The members of an envelope. Members without escapes borrow from the body.
pub(super) struct Members<'a> {
    pub(super) id: Cow<'a, str>,
    pub(super) event_type: Cow<'a, str>,
    pub(super) timestamp: i64,
    pub(super) data: Option<&'a str>,
}

/// Decodes an envelope, and skips a leading byte order mark.
///
/// # Errors
///
/// Returns an error if the body isn't an envelope. Each rule has a static message, because
/// serde_json's messages quote the payload.
pub(super) fn decode(body: &str) -> Result<Members<'_>, Error> {
    // RFC 8259, 8.1: a parser may ignore the mark.
    let json = body.strip_prefix('\u{feff}').unwrap_or(body);
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let found = deserializer
        .deserialize_map(Envelope)
        .and_then(|found| deserializer.end().map(|()| found));
    match found {
        Ok(found) => found.check(),
        // The body is JSON, but a scalar or an array.
        Err(_)
            if !json.trim_ascii_start().starts_with('{')
                && serde_json::from_str::<IgnoredAny>(json).is_ok() =>
        {
            Err(fault("the body is not a JSON object"))
        }
        Err(_) => Err(fault("the body is not JSON")),
    }
}

/// Returns an error of kind [`ErrorKind::Envelope`].
pub(super) fn fault(text: &'static str) -> Error {
    Error::new(ErrorKind::Envelope, text)
}

/// The members of an envelope before validation.
#[derive(Default)]
struct Found<'a> {
    message_id: Option<&'a RawValue>,
    id: Option<&'a RawValue>,
    event_type: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
    data: Option<&'a RawValue>,
    /// The error message for the first duplicate member.
    twice: Option<&'static str>,
}

impl<'a> Found<'a> {
    fn check(self) -> Result<Members<'a>, Error> {
        if let Some(text) = self.twice {
            return Err(fault(text));
        }
        let id = match (self.message_id, self.id) {
            (Some(value), _) => text(value).ok_or("`messageId` is not a string of 1 to 255 bytes"),
            (None, Some(value)) => text(value).ok_or("`id` is not a string of 1 to 255 bytes"),
            (None, None) => Err("`messageId` is missing"),
        };
        let event_type = match self.event_type {
            Some(value) => text(value).ok_or("`eventType` is not a string of 1 to 255 bytes"),
            None => Err("`eventType` is missing"),
        };
        let timestamp = match self.timestamp {
            Some(value) => value
                .get()
                .parse()
                .map_err(|_| "`timestamp` is not an integer of milliseconds"),
            None => Err("`timestamp` is missing"),
        };
        Ok(Members {
            id: id.map_err(fault)?,
            event_type: event_type.map_err(fault)?,
            timestamp: timestamp.map_err(fault)?,
            data: self.data.map(RawValue::get),
        })
    }
}

/// Decodes a string of 1 to 255 bytes.
fn text(value: &RawValue) -> Option<Cow<'_, str>> {
    let written = value.get();
    let quoted = written.strip_prefix('"')?.strip_suffix('"')?;
    let text = if quoted.contains('\\') {
        let Text(text) = serde_json::from_str(written).ok()?;
        text
    } else {
        // A JSON string without escapes equals its text.
        Cow::Borrowed(quoted)
    };
    (1..=MAX_TEXT).contains(&text.len()).then_some(text)
}

/// Visits the top-level object.
struct Envelope;

impl<'de> Visitor<'de> for Envelope {
    type Value = Found<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let mut found = Found::default();
        while let Some(Text(name)) = map.next_key()? {
            let (member, twice) = match &*name {
                "messageId" => (&mut found.message_id, "`messageId` is given twice"),
                "id" => (&mut found.id, "`id` is given twice"),
                "eventType" => (&mut found.event_type, "`eventType` is given twice"),
                "timestamp" => (&mut found.timestamp, "`timestamp` is given twice"),
                "data" => (&mut found.data, "`data` is given twice"),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if member.replace(map.next_value()?).is_some() {
                // `check` returns this error only if the whole body is JSON.
                found.twice.get_or_insert(twice);
            }
        }
        Ok(found)
    }
}

/// A string that is borrowed unless it has escapes. serde's own `Cow` is always owned.
pub(super) struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text<'de>, E> {
        Ok(Text(Cow::Owned(text.to_owned())))
    }
}
