use std::fmt::Write;

use maud::{Escaper, Render};

/// Text from the sender or a handler. HTML is escaped, and characters that a browser doesn't show or that reorder other text are
/// written as `\u{202e}`.
pub(super) struct Untrusted<'a>(pub(super) &'a str);

/// Like [`Untrusted`], but keeps line breaks and tabs, for an element that preserves white space.
pub(super) struct Preformatted<'a>(pub(super) &'a str);

impl Render for Untrusted<'_> {
    fn render_to(&self, html: &mut String) {
        push(html, self.0, is_invisible);
    }
}

impl Render for Preformatted<'_> {
    fn render_to(&self, html: &mut String) {
        push(html, self.0, |c| {
            is_invisible(c) && !matches!(c, '\n' | '\t')
        });
    }
}

fn push(html: &mut String, text: &str, is_escaped: impl Fn(char) -> bool) {
    let mut rest = text;
    while let Some(index) = rest.find(&is_escaped) {
        let (before, after) = rest.split_at(index);
        push_escaped(html, before);
        let mut chars = after.chars();
        if let Some(c) = chars.next() {
            let code = u32::from(c);
            // Writing to a string doesn't fail.
            let _ = write!(html, "<span class=\"escape\">\\u{{{code:x}}}</span>");
        }
        rest = chars.as_str();
    }
    push_escaped(html, rest);
}

fn push_escaped(html: &mut String, text: &str) {
    let _ = Escaper::new(html).write_str(text);
}

/// Returns the text with invisible characters written as `\u{202e}`, for an attribute.
pub(super) fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        if is_invisible(c) {
            let _ = write!(visible, "\\u{{{:x}}}", u32::from(c));
        } else {
            visible.push(c);
        }
    }
    visible
}

/// Returns whether a browser doesn't show the character, or the character changes the order of other text.
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
    fn html_and_invisible_characters_are_shown_as_text() {
        let html = Untrusted("<b>&\"\u{202e}\n\0é😀").render().into_string();
        assert_eq!(
            html,
            "&lt;b&gt;&amp;&quot;<span class=\"escape\">\\u{202e}</span>\
             <span class=\"escape\">\\u{a}</span><span class=\"escape\">\\u{0}</span>é😀"
        );
        assert_eq!(
            Preformatted("a\n\tb\r").render().into_string(),
            "a\n\tb<span class=\"escape\">\\u{d}</span>"
        );
        assert_eq!(visible("a\u{200b}b"), "a\\u{200b}b");
    }
}
