//! How names that may hold anything become subjects, ids and names that NATS takes.
//!
//! Some of what an event type or a `messageId` may hold would be the end of a connection: spaces of Unicode
//! in a stored subject drop the consumer's at every delivery, a subject of 4 kB the publisher's, and a line
//! break in a header's value panics. So only `[A-Za-z0-9_-]` goes as it is.

use std::fmt::Write;

use crate::event::EventType;
use crate::router::Pattern;

/// The most bytes that a subject may have.
const MAX_SUBJECT: usize = 512;

/// Replaces a name that is too long. No encoded segment equals it.
const LONG: &str = "=long";

/// Ends every subject, so that a pattern is one filter: without it `a.b` and what is below it would take two.
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

    /// Returns the subject of all event types whose own would be too long. Their true name is in the body.
    pub(super) fn long(&self) -> String {
        format!("{}.{LONG}.{END}", self.prefix)
    }

    /// Returns the filter of all events.
    pub(super) fn all(&self) -> String {
        format!("{}.>", self.prefix)
    }

    /// Returns the filter of a pattern, or `None` if every event that it takes has the subject of long names.
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
            encode(segment, &mut subject);
        }
        subject.push('.');
        subject.push_str(END);
        (subject.len() <= MAX_SUBJECT).then_some(subject)
    }
}

/// Returns a text that is encoded as one segment.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    encode(text, &mut encoded);
    encoded
}

fn encode(segment: &str, to: &mut String) {
    if segment.is_empty() {
        to.push('=');
    }
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            to.push(char::from(byte));
        } else {
            write!(to, "={byte:02X}").expect("a string takes everything");
        }
    }
}

/// Returns what a segment was before it was encoded, or `None` if it isn't an encoded one.
pub(super) fn decoded(segment: &str) -> Option<String> {
    if segment == "=" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'=' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        let digits = std::str::from_utf8(&digits).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// Returns whether a text that the user chose can be a prefix of subjects, or the name of a stream or a group: it is never
/// encoded, so that it is on the server what it is in the program.
pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
