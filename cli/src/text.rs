//! Text from a server or a sender, made safe for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns the text on one line. Characters that control a terminal, that are invisible, or that reorder other text are written
/// as escapes such as `\\u{202e}`.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_invisible) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' => visible.push_str("\\n"),
            '\t' => visible.push_str("\\t"),
            c if is_invisible(c) => {
                // Writing to a string doesn't fail.
                let _ = write!(visible, "\\u{{{:x}}}", u32::from(c));
            }
            c => visible.push(c),
        }
    }
    Cow::Owned(visible)
}

/// Returns the JSON with invisible characters as escapes of JSON. Outside strings, serialized JSON has only visible characters.
pub(crate) fn visible_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_invisible) {
        return Cow::Borrowed(json);
    }
    let mut visible = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_invisible(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(visible, "\\u{unit:04x}");
            }
        } else {
            visible.push(c);
        }
    }
    Cow::Owned(visible)
}

/// Returns whether the character controls a terminal, is invisible, or changes the order of other text. The inspector's pages
/// escape the same characters.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}'
            | '\u{fdd0}'..='\u{fdef}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
        || u32::from(c) & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cant_control_a_terminal() {
        let hostile = "a\x1b[2J\u{9b}1m\u{202e}b\r\n\tc\u{7f}é😀";
        let wanted = "a\\u{1b}[2J\\u{9b}1m\\u{202e}b\\u{d}\\n\\tc\\u{7f}é😀";
        assert_eq!(visible(hostile), wanted);
        assert_eq!(visible("plain"), "plain");
    }

    #[test]
    fn escaped_json_has_the_same_value() {
        let value = serde_json::json!({ "a\u{200b}": "\x1b\u{9b}\u{7f}\u{202e}\u{e0001}é\n" });
        let json = value.to_string();
        let escaped = visible_json(&json);
        assert!(!escaped.contains(is_invisible), "{escaped}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&escaped).expect("valid"),
            value
        );
    }
}
