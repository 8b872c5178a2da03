//! Reads the members of an envelope in one pass over the body, without building a tree of values.

use std::borrow::Cow;

use super::json;
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
/// Returns an error if the body isn't an envelope. Each rule has a static message, so that no message quotes the payload.
pub(super) fn decode(body: &str) -> Result<Members<'_>, Error> {
    // RFC 8259, 8.1: a parser may ignore the mark.
    let body = body.strip_prefix('\u{feff}').unwrap_or(body);
    match Found::read(body) {
        Some(found) => found.check(),
        None if is_other_json(body.as_bytes()) => Err(fault("the body is not a JSON object")),
        None => Err(fault("the body is not JSON")),
    }
}

/// Returns an error of kind [`ErrorKind::Envelope`].
pub(super) fn fault(text: &'static str) -> Error {
    Error::new(ErrorKind::Envelope, text)
}

/// Returns whether a body is JSON, but a scalar or an array.
fn is_other_json(body: &[u8]) -> bool {
    let after = match json::next(body) {
        None | Some((b'{', _)) => None,
        Some(_) => json::value(body),
    };
    after.is_some_and(json::is_space)
}

/// The members of an envelope before validation.
#[derive(Default)]
struct Found<'a> {
    message_id: Option<Part<'a>>,
    id: Option<Part<'a>>,
    event_type: Option<Part<'a>>,
    timestamp: Option<Part<'a>>,
    data: Option<Part<'a>>,
    /// The error message for the first duplicate member.
    twice: Option<&'static str>,
}

impl<'a> Found<'a> {
    /// Reads a JSON object. Returns `None` if the body isn't a JSON object.
    fn read(body: &'a str) -> Option<Self> {
        let mut found = Self::default();
        let mut rest = json::skip(b'{', body.as_bytes())?;
        if let Some(after) = json::skip(b'}', rest) {
            return json::is_space(after).then_some(found);
        }
        loop {
            let name = json::skip(b'"', rest)?;
            let end = json::string(name)?;
            let name = &body[body.len() - name.len()..body.len() - end.after.len() - 1];
            rest = json::space(json::skip(b':', end.after)?);
            let (value, after) = Part::value(body, rest)?;
            // Only a Unicode escape can be a letter or a surrogate. Names with other escapes are ignored members.
            if !end.escaped {
                found.set(name, value);
            } else if name.contains('u') {
                found.set(&json::unescape(name)?, value);
            }
            match json::next(after)? {
                (b',', after) => rest = after,
                (b'}', after) => return json::is_space(after).then_some(found),
                _ => return None,
            }
        }
    }

    fn set(&mut self, name: &str, value: Part<'a>) {
        let (member, twice) = match name {
            "messageId" => (&mut self.message_id, "`messageId` is given twice"),
            "id" => (&mut self.id, "`id` is given twice"),
            "eventType" => (&mut self.event_type, "`eventType` is given twice"),
            "timestamp" => (&mut self.timestamp, "`timestamp` is given twice"),
            "data" => (&mut self.data, "`data` is given twice"),
            _ => return,
        };
        if member.replace(value).is_some() {
            // `check` returns this error only if the whole body is JSON.
            self.twice.get_or_insert(twice);
        }
    }

    fn check(self) -> Result<Members<'a>, Error> {
        if let Some(text) = self.twice {
            return Err(fault(text));
        }
        let id = match (self.message_id, self.id) {
            (Some(value), _) => value
                .short_text()
                .ok_or("`messageId` is not a string of 1 to 255 bytes"),
            (None, Some(value)) => value
                .short_text()
                .ok_or("`id` is not a string of 1 to 255 bytes"),
            (None, None) => Err("`messageId` is missing"),
        };
        let event_type = match self.event_type {
            Some(value) => value
                .short_text()
                .ok_or("`eventType` is not a string of 1 to 255 bytes"),
            None => Err("`eventType` is missing"),
        };
        let timestamp = match self.timestamp {
            Some(value) => value
                .json
                .parse()
                .map_err(|_| "`timestamp` is not an integer of milliseconds"),
            None => Err("`timestamp` is missing"),
        };
        Ok(Members {
            id: id.map_err(fault)?,
            event_type: event_type.map_err(fault)?,
            timestamp: timestamp.map_err(fault)?,
            data: self.data.map(|value| value.json),
        })
    }
}

/// A name or a value of the body.
#[derive(Clone, Copy)]
struct Part<'a> {
    json: &'a str,
    /// Whether this is a string with escapes.
    escaped: bool,
}

impl<'a> Part<'a> {
    /// Reads a value. `rest` is the end of `body`. Returns the value and the bytes after the value.
    fn value(body: &'a str, rest: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (after, escaped) = match rest {
            [b'"', rest @ ..] => json::string(rest).map(|end| (end.after, end.escaped))?,
            _ => (json::value(rest)?, false),
        };
        let json = &body[body.len() - rest.len()..body.len() - after.len()];
        Some((Self { json, escaped }, after))
    }

    /// Returns the text of a string. Returns `None` if this is another value, or if a surrogate is unpaired.
    fn text(self) -> Option<Cow<'a, str>> {
        let text = self.json.strip_prefix('"')?.strip_suffix('"')?;
        if self.escaped {
            json::unescape(text).map(Cow::Owned)
        } else {
            Some(Cow::Borrowed(text))
        }
    }

    /// Returns the text of a string of 1 to 255 bytes.
    fn short_text(self) -> Option<Cow<'a, str>> {
        self.text()
            .filter(|text| (1..=MAX_TEXT).contains(&text.len()))
    }
}
