//! Checks that a text is JSON, eight bytes at a time, and without recursion or a tree of values.
//!
//! Each function gets the bytes that follow, and returns the bytes after the part that the function skips. A function returns
//! `None` if the part isn't JSON. The grammar is RFC 8259. As in serde_json, a skipped string may have unpaired surrogates.

/// Skips whitespace, and returns the next byte and the bytes after this byte.
#[inline]
pub(super) fn next(rest: &[u8]) -> Option<(u8, &[u8])> {
    split_first(space(rest))
}

/// Skips whitespace and a byte with this value.
#[inline]
pub(super) fn skip(byte: u8, rest: &[u8]) -> Option<&[u8]> {
    match space(rest) {
        [first, after @ ..] if *first == byte => Some(after),
        _ => None,
    }
}

/// Returns whether all bytes are whitespace.
pub(super) fn is_space(rest: &[u8]) -> bool {
    space(rest).is_empty()
}

/// Skips whitespace.
#[inline]
pub(super) fn space(rest: &[u8]) -> &[u8] {
    match rest {
        [first, ..] if *first > b' ' => rest,
        _ => some_space(rest),
    }
}

// The callers are faster without this loop in them.
#[inline(never)]
fn some_space(mut rest: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', after @ ..] = rest {
        rest = after;
    }
    rest
}

/// Skips whitespace and a value.
pub(super) fn value(mut rest: &[u8]) -> Option<&[u8]> {
    let (mut open, mut outer) = (Open::default(), Vec::new());
    loop {
        let (first, after) = next(rest)?;
        rest = match first {
            b'"' => string(after)?.after,
            b'{' => match next(after)? {
                (b'}', after) => after,
                (b'"', after) => {
                    open = open.push(true, &mut outer);
                    rest = skip(b':', string(after)?.after)?;
                    continue;
                }
                _ => return None,
            },
            b'[' => match next(after)? {
                (b']', after) => after,
                _ => {
                    open = open.push(false, &mut outer);
                    rest = after;
                    continue;
                }
            },
            b't' => after.strip_prefix(b"rue")?,
            b'f' => after.strip_prefix(b"alse")?,
            b'n' => after.strip_prefix(b"ull")?,
            _ => number(first, after)?,
        };
        // The value ends here. Brackets may close, and then a comma precedes the next value.
        loop {
            if open.depth == 0 {
                return Some(rest);
            }
            let (byte, after) = next(rest)?;
            rest = after;
            match byte {
                b',' if open.in_object() => {
                    let name = string(skip(b'"', rest)?)?;
                    rest = skip(b':', name.after)?;
                    break;
                }
                b',' => break,
                b'}' if open.in_object() => open = open.pop(&mut outer),
                b']' if !open.in_object() => open = open.pop(&mut outer),
                _ => return None,
            }
        }
    }
}

/// The end of a string.
pub(super) struct StringEnd<'a> {
    /// The bytes after the closing quote.
    pub(super) after: &'a [u8],
    /// Whether the string has escapes.
    pub(super) escaped: bool,
}

/// Skips a string after its opening quote.
#[inline(always)] // the compiler doesn't inline so many instructions otherwise
pub(super) fn string(mut rest: &[u8]) -> Option<StringEnd<'_>> {
    let mut escaped = false;
    loop {
        if let Some((word, after)) = rest.split_first_chunk() {
            let ends = find_ends(u64::from_le_bytes(*word));
            if ends == 0 {
                rest = after;
                continue;
            }
            rest = &rest[first_byte(ends)..];
        }
        rest = match rest {
            [b'"', after @ ..] => return Some(StringEnd { after, escaped }),
            [b'\\', after @ ..] => {
                escaped = true;
                escape(after)?
            }
            [..=0x1f, ..] | [] => return None,
            // The text ends within eight bytes.
            [_, after @ ..] => after,
        };
    }
}

/// Skips an escape after its backslash.
fn escape(rest: &[u8]) -> Option<&[u8]> {
    match rest {
        [
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
            after @ ..,
        ] => Some(after),
        [b'u', rest @ ..] => {
            let (digits, after) = rest.split_first_chunk::<4>()?;
            digits.iter().all(u8::is_ascii_hexdigit).then_some(after)
        }
        _ => None,
    }
}

/// Returns the text of a string that [`string`] has skipped, without its quotes. Returns `None` if a surrogate is unpaired.
pub(super) fn unescape(string: &str) -> Option<String> {
    let mut text = String::with_capacity(string.len());
    let mut rest = string;
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (escaped, after) = match *escape.as_bytes().first()? {
            b'u' => unicode(escape)?,
            b'b' => ('\u{8}', &escape[1..]),
            b'f' => ('\u{c}', &escape[1..]),
            b'n' => ('\n', &escape[1..]),
            b'r' => ('\r', &escape[1..]),
            b't' => ('\t', &escape[1..]),
            other => (char::from(other), &escape[1..]),
        };
        text.push(escaped);
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

/// Returns the character of a Unicode escape after its backslash, and the text after the escape.
fn unicode(escape: &str) -> Option<(char, &str)> {
    let unit = |escape: &str| u16::from_str_radix(escape.get(1..5)?, 16).ok();
    let first = unit(escape)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, &escape[5..]));
    }
    let second = escape[5..]
        .strip_prefix("\\")
        .filter(|second| second.starts_with('u'))?;
    let mut pair = char::decode_utf16([first, unit(second)?]);
    Some((pair.next()?.ok()?, &second[5..]))
}

/// Skips a number after its first byte.
#[inline]
fn number(first: u8, rest: &[u8]) -> Option<&[u8]> {
    let (first, rest) = match first {
        b'-' => split_first(rest)?,
        _ => (first, rest),
    };
    let rest = match first {
        // A digit after a leading zero is an error in each caller, because no value is followed by a digit.
        b'0' => rest,
        b'1'..=b'9' => digits(rest),
        _ => return None,
    };
    match rest {
        [b'.' | b'e' | b'E', ..] => fraction(rest),
        _ => Some(rest),
    }
}

/// Skips the fraction and the exponent of a number.
#[inline(never)]
fn fraction(mut rest: &[u8]) -> Option<&[u8]> {
    if let [b'.', after @ ..] = rest {
        rest = some_digits(after)?;
    }
    match rest {
        [b'e' | b'E', b'+' | b'-', after @ ..] | [b'e' | b'E', after @ ..] => some_digits(after),
        _ => Some(rest),
    }
}

/// Skips one or more digits.
fn some_digits(rest: &[u8]) -> Option<&[u8]> {
    let after = digits(rest);
    (after.len() < rest.len()).then_some(after)
}

/// Skips all digits.
#[inline]
fn digits(mut rest: &[u8]) -> &[u8] {
    while let Some((word, after)) = rest.split_first_chunk() {
        let others = find_others(u64::from_le_bytes(*word));
        if others != 0 {
            return &rest[first_byte(others)..];
        }
        rest = after;
    }
    while let [b'0'..=b'9', after @ ..] = rest {
        rest = after;
    }
    rest
}

fn split_first(rest: &[u8]) -> Option<(u8, &[u8])> {
    rest.split_first().map(|(first, after)| (*first, after))
}

/// Has this byte in each of eight bytes.
const fn each(byte: u8) -> u64 {
    u64::from_le_bytes([byte; 8])
}

/// Marks the quotes, backslashes and control characters among eight bytes.
///
/// A mark is the highest bit of a byte. Only the first mark is exact, because a subtraction borrows from later bytes.
const fn find_ends(word: u64) -> u64 {
    // The exclusive or maps a quote to 0x20 and keeps control characters below 0x20. It maps no other ASCII character there.
    let quote_or_control = (word ^ each(0x02)).wrapping_sub(each(0x21));
    let backslash = (word ^ each(b'\\')).wrapping_sub(each(0x01));
    (quote_or_control | backslash) & !word & each(0x80)
}

/// Marks the bytes other than digits among eight bytes. Only the first mark is exact, because an addition carries.
const fn find_others(word: u64) -> u64 {
    let digit = word ^ each(b'0');
    (digit | digit.wrapping_add(each(0x80 - 10))) & each(0x80)
}

/// Returns the index of the first marked byte.
const fn first_byte(marks: u64) -> usize {
    marks.trailing_zeros() as usize / 8
}

/// The open brackets, one bit each: 1 for an object, 0 for an array. Deep JSON costs little memory.
#[derive(Clone, Copy, Default)]
struct Open {
    depth: usize,
    /// The innermost brackets. The lowest bit is the innermost bracket.
    inner: u64,
}

impl Open {
    fn in_object(self) -> bool {
        self.inner & 1 == 1
    }

    /// Opens a bracket. `outer` holds the outer brackets, 64 in each word.
    fn push(self, object: bool, outer: &mut Vec<u64>) -> Self {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            push_outer(outer, self.inner);
        }
        Self {
            depth: self.depth + 1,
            inner: self.inner << 1 | u64::from(object),
        }
    }

    /// Closes the innermost bracket.
    fn pop(self, outer: &mut Vec<u64>) -> Self {
        let depth = self.depth - 1;
        let inner = if depth > 0 && depth.is_multiple_of(64) {
            pop_outer(outer)
        } else {
            self.inner >> 1
        };
        Self { depth, inner }
    }
}

// Few texts are so deep, and the callers keep more values in registers without this code.
#[cold]
#[inline(never)]
fn push_outer(outer: &mut Vec<u64>, inner: u64) {
    outer.push(inner);
}

#[cold]
#[inline(never)]
fn pop_outer(outer: &mut Vec<u64>) -> u64 {
    outer.pop().expect("a word for each 64 brackets")
}
