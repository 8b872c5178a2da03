//! Encodes names as subjects, ids and headers that NATS accepts.
//!
//! Some event types and message ids would end a connection. A Unicode space in a stored subject disconnects the consumer at every
//! delivery. A subject of 4 kB disconnects the publisher. A line break in a header's value makes the client panic. So every byte
//! outside `[A-Za-z0-9_-]` is encoded.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::event::EventType;
use crate::router::Pattern;

/// The characters that are encoded.
const UNSAFE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

/// The maximum size of a subject, in bytes.
const MAX_SUBJECT: usize = 512;

/// Stands for a name that is too long. No encoded segment equals this string.
const LONG: &str = "=long";

/// The last segment of every subject, so that a single filter matches `a.b` and every type below it.
const END: &str = "$";

/// The subjects below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Subjects {
    prefix: String,
}

impl Subjects {
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Returns the subject of an event type.
    pub(super) fn of(&self, event_type: &EventType) -> String {
        self.fitting(event_type.as_str())
            .unwrap_or_else(|| self.long())
    }

    /// Returns the subject for all event types whose own subject would be too long. The body contains the type.
    pub(super) fn long(&self) -> String {
        format!("{}.{LONG}.{END}", self.prefix)
    }

    /// Returns the filter of all events.
    pub(super) fn all(&self) -> String {
        format!("{}.>", self.prefix)
    }

    /// Returns the filter of a pattern, or `None` if every event that matches has the subject of long names.
    pub(super) fn filter(&self, pattern: &Pattern) -> Option<String> {
        let exact = self.fitting(pattern.name())?;
        if pattern.takes_below() {
            let own = exact.strip_suffix(END).expect("every subject ends so");
            return Some(match pattern.takes_itself() {
                true => format!("{own}>"),
                false => format!("{own}*.>"),
            });
        }
        Some(exact)
    }

    fn fitting(&self, name: &str) -> Option<String> {
        let mut subject = self.prefix.clone();
        for segment in name.split('.') {
            subject.push('.');
            subject.push_str(&encoded(segment));
        }
        subject.push('.');
        subject.push_str(END);
        (subject.len() <= MAX_SUBJECT).then_some(subject)
    }
}

/// Returns a string, encoded as one segment: as in a URL, with `=` in place of `%`. An empty string is encoded as `=`.
pub(super) fn encoded(text: &str) -> String {
    if text.is_empty() {
        return "=".to_owned();
    }
    let encoded = utf8_percent_encode(text, UNSAFE).to_string();
    encoded.replace('%', "=")
}

/// Returns the string that was encoded as this segment, or `None` if the segment isn't an encoded string.
pub(super) fn decoded(segment: &str) -> Option<String> {
    if segment == "=" {
        return Some(String::new());
    }
    let encoded = segment.replace('=', "%");
    let decoded = percent_decode_str(&encoded).decode_utf8();
    Some(decoded.ok()?.into_owned())
}

/// Returns whether a string can be the prefix of subjects, or the name of a stream or a group. Such names are never encoded, so
/// they are the same on the server and in the program.
pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
