use std::borrow::Cow;
use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::Names;

/// Maps prefixes of serde's and serde_json's value descriptions to classes of values.
const CLASSES: &[(&str, &str)] = &[
    ("boolean", "a boolean"),
    ("integer", "an integer"),
    ("floating point", "a floating-point number"),
    ("number", "a number"),
    ("character", "a character"),
    ("string", "a string"),
    ("byte array", "bytes"),
    ("null", "null"),
    ("unit value", "null"),
    ("sequence", "a sequence"),
    ("map", "a map"),
    ("unit variant", "a unit variant"),
];

/// Maps prefixes of serde_json's messages about valid JSON to their meanings.
const COMPLAINTS: &[(&str, &str)] = &[
    ("recursion limit exceeded", "the JSON is nested too deeply"),
    ("number out of range", "the number is out of range"),
    ("trailing c", "the value has more content than expected"),
    (
        "expected value",
        "not a variant, expected a string or a map with one key",
    ),
    (
        "invalid value: expected key to be a number",
        "not a number in quotes",
    ),
    ("expected `\"`", "not a number in quotes"),
    ("lone leading surrogate", "the string has an invalid escape"),
    (
        "unexpected end of hex escape",
        "the string has an invalid escape",
    ),
];

/// Maps prefixes of the custom messages of serde's derived code to their meanings.
const CUSTOM: &[(&str, &str)] = &[
    (
        "data did not match any variant of untagged enum",
        "no variant of the untagged enum fits",
    ),
    (
        "no variant of enum",
        "no variant of the flattened enum is present",
    ),
    ("unknown field `", "unknown field"),
];

/// A mismatch and its path. The `Deserialize` code of the decoded type gets only errors of this type.
///
/// The error contains its path, so dropping the error also drops the path.
#[derive(Debug, Default)]
pub(super) struct Problem {
    what: Cow<'static, str>,
    expected: Option<String>,
    /// The length in the message. The length is meaningful only if it is a count of elements.
    length: Option<usize>,
    pub(super) in_key: bool,
    /// The steps of the path, innermost first.
    path: Vec<Step>,
    pub(super) position: Option<(usize, usize)>,
}

#[derive(Debug)]
pub(super) enum Step {
    Key(&'static str),
    Index(usize),
}

impl Problem {
    pub(super) fn new(what: impl Into<Cow<'static, str>>, expected: Option<String>) -> Self {
        Self {
            what: what.into(),
            expected,
            ..Self::default()
        }
    }

    /// Converts a message of serde_json. `expected` describes the value that the type expects.
    pub(super) fn of_json(message: &str, expected: Option<&str>) -> Self {
        match message.strip_prefix("invalid type: ") {
            Some(found) => Self::invalid_type(found, expected.map(str::to_owned)),
            None => Self::new(
                meaning(COMPLAINTS, message).unwrap_or("the JSON can't be read"),
                None,
            ),
        }
    }

    fn invalid_type(found: &str, expected: Option<String>) -> Self {
        match meaning(CLASSES, found) {
            Some(class) => Self::new(format!("invalid type: found {class}"), expected),
            None => Self::new("invalid type", expected),
        }
    }

    pub(super) fn under(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    pub(super) fn or_expected(mut self, expected: Option<&str>) -> Self {
        self.expected = self.expected.or_else(|| expected.map(str::to_owned));
        self
    }

    /// Adds the length `count` to the message if the problem is the length of the sequence. Leaves
    /// a problem of an element unchanged.
    pub(super) fn of_sequence(mut self, count: usize, expected: Option<&str>) -> Self {
        if self.length != Some(count) || !self.path.is_empty() {
            return self;
        }
        self.what = format!("invalid length {count}").into();
        self.or_expected(expected)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(expected) = &self.expected {
            write!(f, ", expected {expected}")?;
        }
        if self.in_key {
            f.write_str(" in a key")?;
        }
        for (nth, step) in self.path.iter().rev().enumerate() {
            f.write_str(match (nth, step, self.in_key) {
                (0, _, false) => " at `",
                (0, _, true) => " of `",
                (_, Step::Key(_), _) => ".",
                (_, Step::Index(_), _) => "",
            })?;
            match step {
                Step::Key(name) => f.write_str(name)?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        if !self.path.is_empty() {
            f.write_str("`")?;
        }
        match self.position {
            Some((line, column)) => write!(f, " (line {line}, column {column})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(
            meaning(CUSTOM, &message.to_string()).unwrap_or("the type rejected the value"),
            None,
        )
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(&found.to_string(), stateless(expected))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new("invalid value", stateless(expected))
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self {
            length: Some(length),
            ..Self::new("invalid length", stateless(expected))
        }
    }

    fn unknown_variant(_: &str, expected: Names) -> Self {
        Self::new("unknown variant", Some(listed(expected)))
    }

    fn unknown_field(_: &str, expected: Names) -> Self {
        Self::new("unknown field", Some(listed(expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("missing field `{field}`"), None)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("duplicate field `{field}`"), None)
    }
}

/// Returns the meaning that the table gives for the message's prefix.
fn meaning(table: &[(&str, &'static str)], message: &str) -> Option<&'static str> {
    table
        .iter()
        .find(|(start, _)| message.starts_with(start))
        .map(|(_, words)| *words)
}

/// Returns the text of `expected`, if `expected` has no state. Any other value, such as a `&str`, may
/// quote the payload.
pub(super) fn stateless(expected: &dyn Expected) -> Option<String> {
    (size_of_val(expected) == 0).then(|| expected.to_string())
}

fn listed(names: Names) -> String {
    match names {
        [] => "none".to_owned(),
        [name] => format!("`{name}`"),
        [names @ .., last] => format!("`{}` or `{last}`", names.join("`, `")),
    }
}

/// Returns the position at the end of serde_json's message.
pub(super) fn position(message: &str) -> Option<(usize, usize)> {
    let (_, position) = message.rsplit_once(" at line ")?;
    let (line, column) = position.split_once(" column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}
