//! Texts of users and clients, on one line of the log.

use std::error::Error as StdError;
use std::fmt::{self, Display, Write};

/// The maximum length of a logged error message, in bytes.
const MAX_ERROR: usize = 1024;

/// The maximum length of a logged path, in bytes.
const MAX_PATH: usize = 256;

/// The maximum number of logged sources of an error. A chain of sources may be endless.
const MAX_SOURCES: usize = 32;

/// The end of a text that was cut.
const MARK: &str = "…";

/// Returns the messages of an error and of its sources: `can't refresh: connection refused`.
///
/// If a message already ends with the message of its source, the source isn't repeated.
pub(super) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut line = OneLine::new(MAX_ERROR);
    let mut next = Some(error);
    for _ in 0..MAX_SOURCES {
        let Some(error) = next else { break };
        next = error.source();
        let message = one_line(error, MAX_ERROR);
        if line.text.ends_with(&*message) {
            continue;
        }
        let colon = if line.text.is_empty() { "" } else { ": " };
        // The message is already escaped.
        if line.push_all(&(colon.to_owned() + &message)).is_err() {
            break;
        }
    }
    line.text
}

/// Returns an error message on one line.
pub(super) fn message(message: &str) -> String {
    one_line(message, MAX_ERROR)
}

/// Returns the path of a request on one line.
pub(super) fn path(path: &str) -> String {
    one_line(path, MAX_PATH)
}

fn one_line(value: impl Display, max: usize) -> String {
    let mut line = OneLine::new(max);
    // An error means that the text has reached its limit, or that formatting the value has failed.
    let _ = write!(line, "{value}");
    line.text
}

/// Collects a text, escapes its control characters, and cuts it at a limit.
struct OneLine {
    text: String,
    max: usize,
}

impl OneLine {
    fn new(max: usize) -> Self {
        Self {
            text: String::new(),
            max,
        }
    }

    /// Appends `part`. If the text would exceed the limit, cuts the text, appends the mark, and returns an error.
    fn push_all(&mut self, part: &str) -> fmt::Result {
        if self.text.len() + part.len() <= self.max {
            self.text.push_str(part);
            return Ok(());
        }
        let room = self.max - MARK.len();
        let kept = room.saturating_sub(self.text.len());
        self.text.push_str(&part[..boundary(part, kept)]);
        self.text.truncate(boundary(&self.text, room));
        self.text.push_str(MARK);
        Err(fmt::Error)
    }
}

impl Write for OneLine {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let mut rest = part;
        while let Some((at, char)) = rest.char_indices().find(|(_, char)| breaks_line(*char)) {
            self.push_all(&rest[..at])?;
            self.push_all(&char.escape_debug().to_string())?;
            rest = &rest[at + char.len_utf8()..];
        }
        self.push_all(rest)
    }
}

/// Returns whether a character could end the line, or move the cursor of a terminal.
fn breaks_line(char: char) -> bool {
    char.is_control() || matches!(char, '\u{2028}' | '\u{2029}')
}

/// Returns the last boundary of a character at or before `index`.
fn boundary(text: &str, index: usize) -> usize {
    let index = index.min(text.len());
    (0..=index)
        .rev()
        .find(|index| text.is_char_boundary(*index))
        .unwrap_or(0)
}
